/**
 * Kinds of vbd: the directory below `backend/`, and what the toolstack does for it (libxl_disk.c, libxl_device.c). The
 * frontend's directory is device/vbd whatever the kind.
 */
import { parseSource } from "../storage/source.js";
import { quote } from "./diagnostics.js";

export interface Kind {
  readonly name: string;
  /** The toolstack waits for our state 2, then runs a hotplug script, and we stay at 2 until that has spoken. */
  readonly hotplug: boolean;
  /** `params` is `<format>:<path>`. */
  readonly formatted: boolean;
}

const KINDS: readonly Kind[] = [
  // backendtype=qdisk: libxl expects QEMU, which needs neither state 2 nor a script.
  { name: "qdisk", hotplug: false, formatted: true },
  // backendtype=tap, with the script block-tap or one of the disk's own.
  { name: "vbd3", hotplug: true, formatted: true },
  { name: "tap", hotplug: true, formatted: true },
];

/** backendtype=phy's "vbd" and all names that nobody knows: `params` is the path, or what the script makes of it. */
export function kindOf(name: string): Kind {
  return KINDS.find((kind) => kind.name === name) ?? { name, hotplug: true, formatted: false };
}

/** libxl calls a raw image "aio" at times. */
const RAW = /^(raw|aio):/;

/** The image of a CD-ROM drive without a medium, for which the toolstack writes no params. */
export const NO_MEDIUM = "";

/**
 * The source that `params` names, or {@link NO_MEDIUM}; null when it names none. Throws an Error when it is of a format that is not served:
 * as a raw disk, it would show the guest the format's own data and let it write over them.
 */
export function imageOf(kind: Kind, params: string | null, cdrom = false): string | null {
  const none = cdrom ? NO_MEDIUM : null;
  if (params === null || params === "") return none;
  const source = kind.formatted ? params.replace(RAW, "") : params;
  if (parseSource(source)) return source;
  if (source === "") return none;
  if (!kind.formatted) return null;
  throw new Error(
    `params is ${quote(params)}: that format is not served; convert it with \`qemu-img convert -O raw\``,
  );
}
