/**
 * Which files an image consists of, by its header and those of its bases. A header may be a guest's or a stranger's, and may
 * name any file of this machine. So each is read by itself, with its format given, and only what is understood is allowed:
 * images and raw files by path, each holding its own data. The helper is told of every file, and looks for none itself.
 */
import { execFile } from "node:child_process";
import { constants } from "node:os";
import { dirname, resolve } from "node:path";
import { promisify } from "node:util";
import { Place } from "../calls/place.js";
import { DeviceError, openStore } from "../open.js";
import { IMAGE_FORMATS } from "../source.js";
import { findProgram, type Layer } from "./command.js";
import { confined } from "./confined.js";

const { EINVAL, EIO, ENOENT } = constants.errno;
const run = promisify(execFile);
/** An image on slow storage, with thousands of snapshots in its header, is still read. */
const INFO_MS = 20_000;
const MAX_INFO_BYTES = 16 << 20;
/** What a command line has room for, and more than is of use. */
const MAX_LAYERS = 200;
const MAX_CHAIN_BYTES = 64 << 10;
const BASE_FORMATS: readonly string[] = ["raw", ...Object.values(IMAGE_FORMATS)];
const TRUSTED = "if you trust its maker, `qemu-img convert` makes an image of it that holds all its data";

/** What `qemu-img info` tells of one image. */
interface ImageInfo {
  readonly format: string;
  readonly encrypted?: boolean;
  readonly "backing-filename"?: string;
  /** As its header says; absent where it does not. */
  readonly "backing-filename-format"?: string;
  readonly "format-specific"?: {
    readonly data?: {
      readonly "data-file"?: string;
      readonly "data-file-raw"?: boolean;
      readonly extents?: readonly { readonly filename: string }[];
    };
  };
  /** From QEMU 8 on: all files that it has open. */
  readonly children?: readonly { readonly name: string; readonly info: { readonly filename: string } }[];
}

export interface Chain {
  /** The image itself is in a block device. */
  readonly block: boolean;
  /** Of the image, and below it. */
  readonly bases: readonly Layer[];
  /** For people. */
  readonly description: string;
  close(): Promise<void>;
}

/**
 * Looks at an image and those that it is based on. Rejects with a DeviceError that says what is wrong with a file, or who has
 * it. The image itself is for the helper to lock. Its bases we lock, until they are closed: to QEMU, others may write them.
 */
export async function openChain(image: Layer, shared: boolean): Promise<Chain> {
  const layers: Layer[] = [image];
  const open: { fd: number; path: string }[] = [];
  const close = async (): Promise<void> => {
    for (const { fd, path } of open.splice(0)) await Place.of(path).close(fd);
  };
  try {
    for (let layer: Layer | undefined = layers[0]; layer; layer = layers.at(open.length)) {
      const base = layer.driver === "raw" ? null : await baseOf(layer);
      if (base === null) break;
      await checkNext(layers, base.path);
      const { fd, kind } = await openStore(base.path, { readOnly: true, shared, warn: () => {} });
      open.push({ fd, path: base.path });
      const driver = base.format ?? (await guessedRaw(layer.path, base.path));
      layers.push({ driver, path: base.path, block: kind === "block" });
    }
  } catch (error) {
    await close();
    throw error;
  }
  const description = layers.map(({ driver, path }) => `${driver} ${path}`).join(", over ");
  return { block: image.block, bases: layers.slice(1), description: `: ${description}`, close };
}

/** Chains end, and fit on a command line. */
async function checkNext(layers: readonly Layer[], next: string): Promise<void> {
  const [{ path }] = layers;
  const place = (path: string): Promise<string> =>
    Place.of(path)
      .call("realpath", path)
      .catch(() => path);
  const known = await Promise.all(layers.map(({ path }) => place(path)));
  if (known.includes(await place(next))) {
    throw new DeviceError(
      EINVAL,
      path,
      `its bases form a loop at ${next}; correct it with \`qemu-img rebase -u\``,
    );
  }
  const bytes = layers.reduce((sum, { path }) => sum + Buffer.byteLength(path), Buffer.byteLength(next));
  if (layers.length < MAX_LAYERS && bytes <= MAX_CHAIN_BYTES) return;
  const why = `has more than ${layers.length - 1} bases below each other`;
  throw new DeviceError(EINVAL, path, `${why}; \`qemu-img convert\` makes one image of them`);
}

interface Base {
  readonly path: string;
  /** Null where the header does not say it. */
  readonly format: string | null;
}

/** What an image is based on; null for one that stands alone. */
async function baseOf({ path, driver }: Layer): Promise<Base | null> {
  const info = await imageInfo(path, driver);
  refuseEncryption(path, info);
  refuseOtherFiles(path, info);
  const name = info["backing-filename"];
  if (name === undefined) return null;
  // QEMU's rule: what has a colon before the first slash is no path, but a protocol, or json:
  if (/^[^/]*:/.test(name) || /\p{Cc}/u.test(name) || name === "") {
    throw new DeviceError(
      EINVAL,
      path,
      `its header's base ${JSON.stringify(name)} is not a path; \`qemu-img rebase -u -b PATH -F FORMAT IMAGE\` records one`,
    );
  }
  const format = info["backing-filename-format"] ?? null;
  if (format !== null && !BASE_FORMATS.includes(format)) {
    throw new DeviceError(
      EINVAL,
      path,
      `the format ${JSON.stringify(format)} of its base ${name} is not one of ${BASE_FORMATS.join(", ")}`,
    );
  }
  return { path: resolve(dirname(path), name), format };
}

/** Nobody gives a helper a password. */
function refuseEncryption(path: string, { encrypted = false }: ImageInfo): void {
  if (!encrypted) return;
  const remedy = "decrypt it with `qemu-img convert`, or let the guest encrypt its disk";
  throw new DeviceError(EINVAL, path, `is encrypted; encrypted images are not served: ${remedy}`);
}

/** All its data has to be in the image itself. */
function refuseOtherFiles(path: string, info: ImageInfo): void {
  const data = info["format-specific"]?.data;
  const named: string[] = [];
  if (data?.["data-file"] !== undefined || data?.["data-file-raw"]) named.push(data["data-file"] ?? "");
  for (const { filename } of data?.extents ?? []) named.push(filename);
  for (const child of info.children ?? []) named.push(child.info.filename);
  const other = named.find((name) => name !== path);
  if (other !== undefined) throw otherFile(path, other);
}

function otherFile(path: string, other: string): DeviceError {
  const why = `its header puts data into another file, ${JSON.stringify(other)}, which is not allowed; ${TRUSTED}`;
  return new DeviceError(EINVAL, path, why);
}

/** A base may have been a guest's raw disk, who could have made it anything. What is served as raw harms nobody. */
async function guessedRaw(path: string, base: string): Promise<string> {
  const { format } = await imageInfo(base, null);
  if (format === "raw") return format;
  throw new DeviceError(
    EINVAL,
    path,
    `does not name the format of its base ${base}, which is not guessed: ` +
      "`qemu-img rebase -u -b BASE -F FORMAT IMAGE` records it",
  );
}

/**
 * What the header of one image says. QEMU must not guess the format of what is served: in a fixed VHD the first sector is
 * the guest's, who could make it the header of an image with bases of his choice. Rejects with a DeviceError where there is no
 * complete answer: nothing is served then, because nothing is known of the files that it consists of.
 */
export async function imageInfo(
  path: string,
  driver: string | null,
  { program = "qemu-img", timeoutMs = INFO_MS } = {},
): Promise<ImageInfo> {
  const qemuImg = findProgram(program);
  if (qemuImg === null) {
    throw new DeviceError(
      ENOENT,
      path,
      `needs ${program}, which is not installed: \`apt install qemu-utils\``,
    );
  }
  const format = driver === null ? [] : ["-f", driver];
  const args = ["info", ...format, "--force-share", "--output=json", "--", path];
  const files = [{ path, writable: false }];
  const command = confined(qemuImg, args, { files, configuration: [], directory: null, remote: false });
  try {
    const { stdout } = await run(command.program, command.args, {
      env: command.env,
      timeout: timeoutMs,
      killSignal: "SIGKILL",
      maxBuffer: MAX_INFO_BYTES,
    });
    return JSON.parse(stdout) as ImageInfo;
  } catch (error) {
    const why = whyNot(error, timeoutMs);
    // It is confined to this file, and opens what a header names.
    const other = /Could not open '([^']*)': Permission denied$/.exec(why)?.[1] ?? path;
    if (other !== path) throw otherFile(path, other);
    throw new DeviceError(EIO, path, `${program} cannot read its header: ${why}`);
  }
}

function whyNot(error: unknown, timeoutMs: number): string {
  const { code, killed, stderr = "" } = error as { code?: unknown; killed?: boolean; stderr?: string };
  if (code === "ERR_CHILD_PROCESS_STDIO_MAXBUFFER")
    return `it describes more than ${MAX_INFO_BYTES >> 20} MiB`;
  if (killed) return `no answer within ${timeoutMs / 1000} s; check the storage below it`;
  const said = stderr
    .trim()
    .split("\n")[0]
    .replace(/\p{Cc}/gu, "?");
  if (said !== "") return said.replace(/^qemu-img: /, "");
  return error instanceof SyntaxError ? "its answer is not JSON" : "it exited without any output";
}
