/**
 * Which files an image consists of, by its header and those of its bases. A header may be a guest's or a stranger's, and may
 * name any file of this machine. So each is read by itself, with its format given, and only what is understood is allowed:
 * images and raw files by path, each holding its own data. The helper is told of every file, and looks for none itself.
 */
import { constants } from "node:os";
import { dirname, resolve } from "node:path";
import { Place } from "../calls/place.js";
import { SECTOR, wholeSectors } from "../geometry.js";
import { DeviceError, openStore } from "../open.js";
import type { Store } from "../raw.js";
import { IMAGE_FORMATS } from "../source.js";
import type { Layer } from "./command.js";
import { runQemuImg } from "./qemu-img.js";

const { EINVAL, EIO } = constants.errno;
/** What a command line has room for, and more than is of use. */
const MAX_LAYERS = 200;
const MAX_CHAIN_BYTES = 64 << 10;
const BASE_FORMATS: readonly string[] = [
  "raw",
  ...Object.values(IMAGE_FORMATS).filter((format) => format !== "luks"),
];
const TRUSTED = "if you trust its maker, `qemu-img convert` makes an image of it that holds all its data";

/** What `qemu-img info` tells of one image. */
interface ImageInfo {
  readonly format: string;
  /** Bytes that a guest sees. */
  readonly "virtual-size"?: number;
  readonly encrypted?: boolean;
  readonly "backing-filename"?: string;
  /** As its header says; absent where it does not. */
  readonly "backing-filename-format"?: string;
  readonly "format-specific"?: {
    readonly data?: {
      readonly "data-file"?: string;
      readonly "data-file-raw"?: boolean;
      readonly extents?: readonly { readonly filename: string }[];
      readonly encrypt?: { readonly format: string };
    };
  };
  /** From QEMU 8 on: all files that it has open. */
  readonly children?: readonly { readonly name: string; readonly info: { readonly filename: string } }[];
}

export interface Chain {
  /** From above, the image itself first. */
  readonly layers: readonly ChainLayer[];
  close(): Promise<void>;
}

export interface ChainLayer extends Layer {
  /** Bytes that a guest would see; 0 of an image that does not exist yet. */
  readonly size: number;
  /** 512, but for a raw block device. */
  readonly sectorSize: number;
  /** What its header says that it is based on. */
  readonly recorded: Base | null;
}

export interface Base {
  readonly path: string;
  /** QEMU's driver; null where the header does not say it. */
  readonly format: string | null;
}

export interface HowToOpen {
  /** Heeds nobody's locks of the bases. */
  readonly shared: boolean;
  /** What the image is to be based on, and that in turn, whatever the headers say. */
  readonly said?: readonly KnownBase[];
  /** The image does not exist yet. */
  readonly absent?: boolean;
  /** The image's base is to be written, too. */
  readonly writesBase?: boolean;
  /** There is a passphrase for the image, which is to be encrypted. Its bases are not. */
  readonly encrypted?: boolean;
}

export type KnownBase = Base & { readonly format: string };

/** For people. */
export function described({ layers }: Pick<Chain, "layers">): string {
  return layers.map(({ driver, path }) => `${driver} ${path}`).join(", over ");
}

/**
 * Looks at an image and those that it is based on. Rejects with a DeviceError that says what is wrong with a file, or who has
 * it. The image itself is for the helper to lock. Its bases we lock, until they are closed: to QEMU, others may write them.
 */
export async function openChain(
  image: Layer,
  { shared, said = [], absent = false, writesBase = false, encrypted = false }: HowToOpen,
): Promise<Chain> {
  const layers: ChainLayer[] = [];
  const open: { fd: number; path: string }[] = [];
  const close = async (): Promise<void> => {
    for (const { fd, path } of open.splice(0)) await Place.of(path).close(fd);
  };
  try {
    if (absent) layers.push({ ...image, size: 0, sectorSize: SECTOR, recorded: null });
    else layers.push(await lookAt(image, encrypted ? "is to be" : "must not be"));
    for (;;) {
      const [above] = layers.slice(-1);
      const base = said.at(layers.length - 1) ?? above.recorded;
      if (base === null) break;
      await checkNext(layers, base.path);
      const writes = writesBase && layers.length === 1;
      const store = await openBase(base.path, writes, shared);
      open.push({ fd: store.fd, path: base.path });
      const driver = base.format ?? (await guessedRaw(above.path, base.path));
      const layer = { driver, path: base.path, block: store.kind === "block" };
      layers.push(await lookAt(layer, "cannot be", store));
      // On a file server, the lock of one that writes would keep the helper out. Its own locks hold from then on.
      if (writes && store.kind === "image") await Place.of(base.path).close(open.pop()?.fd ?? -1);
    }
  } catch (error) {
    await close();
    throw error;
  }
  return { layers, close };
}

/** Where the helper is to write it, nobody else may have it; what it takes of QEMU's locks is left to it. */
function openBase(path: string, writes: boolean, shared: boolean): Promise<Store> {
  const how = writes ? { readOnly: false, deviceModel: true } : { readOnly: true, shared };
  return openStore(path, { ...how, warn: () => {} });
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

/** What is known of a layer: of a raw one by its open file, of an image by its header. */
async function lookAt(
  layer: Layer,
  encrypted: keyof typeof ENCRYPTION,
  store?: Pick<Store, "bytes" | "sectorSize">,
): Promise<ChainLayer> {
  const { path, driver } = layer;
  if (driver === "raw" && store) {
    const { bytes, sectorSize } = store;
    return { ...layer, size: wholeSectors(bytes, sectorSize), sectorSize, recorded: null };
  }
  const info = await imageInfo(path, driver);
  checkEncryption(path, driver, info, encrypted);
  refuseOtherFiles(path, info);
  const size = wholeSectors(info["virtual-size"] ?? 0, SECTOR);
  return { ...layer, size, sectorSize: SECTOR, recorded: baseIn(path, info) };
}

/** What an image is based on; null for one that stands alone. */
function baseIn(path: string, info: ImageInfo): Base | null {
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

/** Whether an image is encrypted, and what is said of one that is not as it should be. */
const ENCRYPTION = {
  "is to be": "is not encrypted: leave out keyfile:",
  "must not be": "is encrypted: name the file that holds its passphrase, keyfile:FILE:TARGET",
  "cannot be": "is encrypted, and no base can be: `qemu-img convert` decrypts it",
} as const;

function checkEncryption(
  path: string,
  driver: string,
  info: ImageInfo,
  encrypted: keyof typeof ENCRYPTION,
): void {
  const is = info.encrypted ?? driver === "luks";
  const format = driver === "luks" ? "luks" : info["format-specific"]?.data?.encrypt?.format;
  if (is && format !== "luks") {
    const why = `is encrypted in a way that protects nothing (${format ?? "AES"})`;
    throw new DeviceError(EINVAL, path, `${why}: decrypt it with \`qemu-img convert\``);
  }
  if (is !== (encrypted === "is to be")) throw new DeviceError(EINVAL, path, ENCRYPTION[encrypted]);
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
  how?: Parameters<typeof runQemuImg>[3],
): Promise<ImageInfo> {
  const format = driver === null ? [] : ["-f", driver];
  const args = ["info", ...format, "--force-share", "--output=json", "--", path];
  try {
    return JSON.parse(await runQemuImg(path, args, { path, writable: false }, how)) as ImageInfo;
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    const why = error instanceof SyntaxError ? "its answer is not JSON" : (error as Error).message;
    // It is confined to this file, and opens what a header names.
    const other = /Could not open '([^']*)': Permission denied$/.exec(why)?.[1] ?? path;
    if (other !== path) throw otherFile(path, other);
    throw new DeviceError(EIO, path, `qemu-img cannot read its header: ${why}`);
  }
}
