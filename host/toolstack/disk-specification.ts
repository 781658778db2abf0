/**
 * Disk specifications as xl-disk-configuration(5) has them: `target,format,vdev,access`, with `key=value` and flags
 * anywhere between them. Each is given once, an empty one is the default, and `target=` takes all the rest. What is
 * accepted means what it means to libxlutil (test/toolstack/libxlutil.test.ts compares the two).
 */
import { IMAGE_FORMATS, parseSource } from "../storage/source.js";
import { layerOf, parseWrapped, WRAPPERS } from "../storage/wrapper/index.js";
import { quote } from "../vbd/diagnostics.js";
import { parseVirtualDevice } from "../vbd/virtual-device.js";
import { OWN_SCRIPT } from "./own-script.js";

/** "raw", "empty", or a key of {@link IMAGE_FORMATS}. */
export type DiskFormat = string;
export type BackendType = "phy" | "tap" | "qdisk" | "standalone";

export interface DiskSpecification {
  /** Absolute path, URI or rbd:POOL/IMAGE; "" for an empty CD drive. */
  readonly target: string;
  readonly format: DiskFormat;
  /** As it was written: "xvda". */
  readonly vdev: string;
  /** Virtual-device number. */
  readonly devid: number;
  readonly readOnly: boolean;
  readonly cdrom: boolean;
  /** Name or number of the domain that serves it; null: this one. */
  readonly backend: string | null;
  readonly backendType: BackendType | null;
  readonly script: string | null;
  readonly directIoSafe: boolean;
  /** null: as the disk can. */
  readonly discard: boolean | null;
  readonly trusted: boolean;
  readonly specification: "xen" | "virtio";
  /** Replication between two hosts, which is QEMU's. */
  readonly colo: boolean;
}

/** What is wrong with a specification, and where. */
export class DiskSyntaxError extends Error {}

const FORMATS: readonly string[] = ["raw", ...Object.keys(IMAGE_FORMATS), "empty"];
const BACKEND_TYPES: readonly string[] = ["phy", "tap", "qdisk", "standalone"];
const ACCESS: Readonly<Record<string, boolean>> = { rw: false, w: false, ro: true, r: true };

/** The keys that a specification may have, and what each may be. Flags set one of them. */
const KEYS: Readonly<Record<string, readonly string[] | null>> = {
  format: FORMATS,
  vdev: null,
  access: Object.keys(ACCESS),
  devtype: ["disk", "cdrom"],
  backend: null,
  backendtype: BACKEND_TYPES,
  script: null,
  specification: ["xen", "virtio"],
  "colo-host": null,
  "colo-port": null,
  "colo-export": null,
  "active-disk": null,
  "hidden-disk": null,
  // Of Xen 4.19, for virtio disks.
  grant_usage: ["0", "1"],
};
/** Those for which libxlutil takes no empty value. */
const NEVER_EMPTY: readonly string[] = [
  "backendtype",
  "devtype",
  "specification",
  "grant_usage",
  "colo-port",
];
/** An empty one is a value still to come: ",raw,xvda,target=/disk.img". */
const MAY_COME_LATER: readonly string[] = ["target", "vdev"];
const FLAGS: Readonly<Record<string, readonly [string, string]>> = {
  cdrom: ["devtype", "cdrom"],
  "direct-io-safe": ["direct-io-safe", "yes"],
  discard: ["discard", "yes"],
  "no-discard": ["discard", "no"],
  trusted: ["trusted", "yes"],
  untrusted: ["trusted", "no"],
  colo: ["colo", "yes"],
  "no-colo": ["colo", "no"],
};
const TARGET_TYPES = [
  ...Object.keys(IMAGE_FORMATS),
  ...["nbd", "nbds", "nbd+unix", "http", "https", "rbd", "vhost-user", "device"],
  ...Object.keys(WRAPPERS),
];
const POSITIONS = ["target", "format", "vdev", "access"];
/** Old spellings of the format before the target; with one there is no format between target and vdev. */
const OLD_FORMAT = /^(raw|qcow2?|vhdx?|vmdk|vdi|qed):(.*)$/s;
const OLD_PREFIX = /^(?:tapdisk|tap2?|aio|ioemu|file|phy):(.*)$/s;
/** Old spellings of a hotplug script: "drbd:resource" is script=block-drbd. */
const OLD_SCRIPT = /^(drbd|iscsi|enbd):(.*)$/s;
/** What stands in front of a colon, where no path begins before it. */
const TYPE_OF_TARGET = /^([a-z][-+.a-z0-9_]*):/i;
/** What Node makes of bytes that are not UTF-8. */
const NOT_UTF8 = "\ufffd";

/** Throws a {@link DiskSyntaxError} that names the part which is wrong. */
export function parseDisk(text: string): DiskSpecification {
  if (text.includes(NOT_UTF8)) {
    throw new DiskSyntaxError(
      `${quote(text)} is not UTF-8: give the file another name, or make a symbolic link to it`,
    );
  }
  const values = new Parser(text).parse();
  const vdev = values.get("vdev") ?? "";
  if (vdev === "") throw new DiskSyntaxError("missing vdev=, the disk's name in the guest, like vdev=xvda");
  const devid = parseVirtualDevice(vdev);
  if (devid === null)
    throw new DiskSyntaxError(
      `vdev ${quote(vdev)} is not a virtual device: name one like xvda, sda1 or 51712`,
    );
  const cdrom = values.get("devtype") === "cdrom";
  const { target, format } = targetOf(values, cdrom);
  if (target === "" && format !== "empty")
    throw new DiskSyntaxError(
      "missing target=, the image or block device, like target=/var/lib/xen/disk.img",
    );
  const discard = values.get("discard");
  return {
    target,
    format,
    vdev,
    devid,
    // As xl has it, whatever was said: nobody writes to a CD-ROM.
    readOnly: cdrom || ACCESS[values.get("access") || "w"],
    cdrom,
    backend: values.get("backend") || null,
    backendType: (values.get("backendtype") || null) as BackendType | null,
    script: values.get("script") || null,
    directIoSafe: values.has("direct-io-safe"),
    discard: discard === undefined ? null : discard === "yes",
    trusted: values.get("trusted") !== "no",
    specification: (values.get("specification") || "xen") as "xen" | "virtio",
    colo: values.get("colo") === "yes",
  };
}

/** Also of `target=qcow2:/disk.qcow2`: with a script, xl itself allows no format but raw. */
function targetOf(
  values: ReadonlyMap<string, string>,
  cdrom: boolean,
): { target: string; format: DiskFormat } {
  const target = values.get("target") ?? "";
  const format = values.get("format") || (target === "" && cdrom ? "empty" : "raw");
  // A script of others' makes of it what it likes.
  const script = values.get("script");
  if (script && !OWN_SCRIPT.test(script)) return { target, format };
  if (parseWrapped(target)) return { target: wrappedTarget(target, format), format: "raw" };
  return plainTarget(target, format);
}

function plainTarget(target: string, format: DiskFormat): { target: string; format: DiskFormat } {
  const source = parseSource(target);
  const type = TYPE_OF_TARGET.exec(target)?.[1];
  if (source === null && type !== undefined) {
    throw new DiskSyntaxError(
      `unknown target type ${quote(type)}: there are ${TARGET_TYPES.join(", ")}; a device of that name is /dev/${target}`,
    );
  }
  if (source?.kind !== "image")
    return { target: target === "" || source ? target : `/dev/${target}`, format };
  if (format !== "raw" && format !== source.format) {
    throw new DiskSyntaxError(
      `format is ${format}, but the target has ${source.format}: leave one of them out`,
    );
  }
  return { target: source.path, format: source.format };
}

/** The format is that of what is below all wrappers. */
function wrappedTarget(target: string, format: DiskFormat): string {
  const wrapped = parseWrapped(target);
  if (!wrapped) return sourceOf(plainTarget(target, format));
  try {
    layerOf(wrapped);
  } catch (error) {
    throw new DiskSyntaxError(`target ${target}: ${(error as Error).message}`);
  }
  const { inner } = wrapped;
  return target.slice(0, target.length - inner.length) + wrappedTarget(inner, format);
}

/** What opens it, and stands in xenstore: the target, behind its format if it has one. */
export function sourceOf({ target, format }: Pick<DiskSpecification, "target" | "format">): string {
  return format === "raw" || format === "empty" ? target : `${format}:${target}`;
}

function isUri(part: string): boolean {
  const kind = parseSource(part)?.kind;
  return kind !== undefined && !["raw", "image"].includes(kind);
}

class Parser {
  readonly #text: string;
  readonly #values = new Map<string, string>();
  /** An old prefix stands for the format. */
  #oldPrefix = false;

  constructor(text: string) {
    this.#text = text;
  }

  parse(): Map<string, string> {
    let rest = this.#text;
    for (;;) {
      rest = rest.replace(/^[ \t\n]+/, "");
      if (rest === "") return this.#values;
      if (rest.startsWith("target=")) {
        this.#set("target", rest.slice("target=".length).replace(/,$/, ""));
        return this.#values;
      }
      rest = this.#dropPrefix(rest);
      const comma = rest.indexOf(",");
      this.#part(comma < 0 ? rest : rest.slice(0, comma));
      if (comma < 0) return this.#values;
      rest = rest.slice(comma + 1);
    }
  }

  #dropPrefix(rest: string): string {
    if (this.#values.has("target")) return rest;
    const format = OLD_FORMAT.exec(rest);
    const script = OLD_SCRIPT.exec(rest);
    const match = format ?? script ?? OLD_PREFIX.exec(rest);
    if (!match) return rest;
    this.#oldPrefix = true;
    if (format) this.#set("format", format[1]);
    if (script) this.#set("script", `block-${script[1]}`);
    // There may be several: "tap2:aio:/disk.img".
    return this.#dropPrefix(match[match.length - 1].replace(/^[ \t\n]+/, ""));
  }

  #part(part: string): void {
    const match = /^([a-z][-a-z0-9_]*)=(.*)$/s.exec(part);
    // Its query has a "=".
    if (isUri(part) && !this.#values.has("target")) this.#set("target", part);
    else if (Object.hasOwn(FLAGS, part)) this.#set(...FLAGS[part]);
    else if (match) this.#named(match[1], match[2]);
    else if (!part.includes("=")) this.#positional(part);
    else {
      const remedy = 'give a path with "=" or "," as the last part, target=PATH';
      throw new DiskSyntaxError(`${quote(part)} is not possible here: ${remedy}`);
    }
  }

  #named(key: string, value: string): void {
    if (!Object.hasOwn(KEYS, key)) {
      throw new DiskSyntaxError(
        `unknown parameter ${quote(key)}: there are target, ${Object.keys(KEYS).join(", ")} and the flags ${Object.keys(FLAGS).join(", ")}`,
      );
    }
    // Nothing said: one in its position may follow.
    if (key !== "access" || value !== "" || this.#values.has(key)) this.#set(key, value);
  }

  #positional(part: string): void {
    const next = POSITIONS.find((name) => !this.#values.has(name) && !(name === "format" && this.#oldPrefix));
    if (next === undefined)
      throw new DiskSyntaxError(
        `${quote(part)} is superfluous: target, format, vdev and access are already given`,
      );
    // Of the days of xend: "hdc:cdrom", where an empty drive may leave out its format.
    const old = /^(.*):(cdrom|disk)$/.exec(part);
    const empty = next === "format" && this.#values.get("target") === "";
    if (!old || !(empty || next === "vdev")) {
      this.#set(next, part);
      return;
    }
    if (empty) this.#set("format", "empty");
    this.#set("vdev", old[1]);
    this.#set("devtype", old[2]);
  }

  #set(key: string, value: string): void {
    const before = this.#values.get(key);
    if (before !== undefined && !(before === "" && MAY_COME_LATER.includes(key)))
      throw new DiskSyntaxError(`${key} is given twice`);
    if (value === "" && NEVER_EMPTY.includes(key)) throw new DiskSyntaxError(`${key} has no value`);
    if (key === "colo-port" && !/^[0-9]{1,5}$/.test(value))
      throw new DiskSyntaxError(`colo-port is ${quote(value)}, not a number`);
    const choices = KEYS[key];
    if (choices && value !== "" && !choices.includes(value))
      throw new DiskSyntaxError(
        `unknown value ${quote(value)} for ${key}: it is one of ${choices.join(", ")}`,
      );
    this.#values.set(key, value);
  }
}
