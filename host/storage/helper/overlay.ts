/**
 * cow:OVERLAY:TARGET: a qcow2 image over a base that is only read. One is made where there is none. Its header records the
 * base and that one's format, and no other base is accepted: an overlay over another one's data is garbage.
 */
import { constants as flags } from "node:fs";
import { constants } from "node:os";
import { Place } from "../calls/place.js";
import type { BlockDevice } from "../device.js";
import { fileIdentity } from "../identity.js";
import { DeviceError } from "../open.js";
import { type Chain, type ChainLayer, type KnownBase, openChain } from "./chain.js";
import type { Layer } from "./command.js";
import { makeOverlay } from "./make-overlay.js";
import { findImage, type HelpedOptions, serve } from "./open.js";

const { EINVAL, ENOENT } = constants.errno;

/** How an overlay of xbdback's own format begins, which 0.1.0 had. */
const FORMER = "xbdbackC";

export interface OverlayOptions extends HelpedOptions {
  /** False: an overlay that does not exist is made without a name to stay. Default true. */
  readonly create?: boolean;
}

/** Opens the overlay at a path, over bases from above. Rejects with a {@link DeviceError}. */
export async function openOverlay(
  name: string,
  path: string,
  bases: readonly KnownBase[],
  options: OverlayOptions,
): Promise<BlockDevice> {
  const { shared = false, create = true, writesBase = false, warn = console.warn } = options;
  if (options.keyFile !== undefined)
    throw wrong(path, "is an overlay, which is not encrypted: attach the image below it without one");
  const image = await find(path, options);
  const chain = await openChain(image ?? { driver: "qcow2", path, block: false }, {
    ...{ shared, said: bases, absent: image === null, writesBase },
  });
  let made = path;
  try {
    await checkBases(chain, bases, image === null, (line) => warn(`${name}: ${line}`));
    if (image === null) made = await makeOverlay(path, bases[0], chain.layers[1].size, create);
  } catch (error) {
    await chain.close();
    throw error;
  }
  try {
    const source = { kind: "image", format: "qcow2", path: made } as const;
    const { sectorSize } = chain.layers[bases.length];
    // Two users would not see each other's writes, whoever takes the blame.
    return await serve(name, source, chain, { ...options, sectorSize, shared: false });
  } finally {
    if (made !== path) await Place.of(path).call("unlink", made);
  }
}

/** Null where there is none, and one may be made. */
async function find(path: string, { readOnly, helperPlace }: OverlayOptions): Promise<Layer | null> {
  try {
    const image = await findImage(path, "qcow2", { readOnly, ...(helperPlace && { helperPlace }) });
    await refuseFormer(path);
    return image;
  } catch (error) {
    if (!(error instanceof DeviceError) || error.errno !== ENOENT || readOnly) throw error;
    return null;
  }
}

async function refuseFormer(path: string): Promise<void> {
  const place = Place.of(path);
  const first = new Uint8Array(FORMER.length);
  const fd = await place.open(flags.O_RDONLY);
  try {
    await place.read(fd, first, 0);
  } finally {
    await place.close(fd);
  }
  if (Buffer.from(first).toString("latin1") !== FORMER) return;
  throw wrong(
    path,
    "is an overlay in xbdback's own format, which 0.1.0 was the last version to read: " +
      "copy the guest's disk with that version, or name another overlay",
  );
}

/** Each image over the base that was said, as its header has it, and not larger than that. */
async function checkBases(
  { layers }: Chain,
  said: readonly KnownBase[],
  absent: boolean,
  log: (line: string) => void,
): Promise<void> {
  for (const [i, base] of said.entries()) {
    if (absent && i === 0) continue;
    const [image, below] = [layers[i], layers[i + 1]];
    await checkRecorded(image, base);
    if (image.size > below.size) {
      throw wrong(
        image.path,
        `has ${image.size} bytes, and its base ${base.path} only ${below.size}: name the base that it was made over; ` +
          `if it was enlarged since, attach it as qcow2:${image.path}`,
      );
    }
    if (image.size < below.size)
      log(`${base.path} has grown to ${below.size} bytes; the overlay keeps its ${image.size}`);
  }
}

async function checkRecorded({ path, recorded }: ChainLayer, base: KnownBase): Promise<void> {
  if (recorded === null)
    throw wrong(path, `has no base and is no overlay: attach it as qcow2:${path}, or name another overlay`);
  if (!(await same(recorded.path, base.path)))
    throw wrong(
      path,
      `was made over the base ${recorded.path}, and not over ${base.path}: ${remedy(path, base)}`,
    );
  if (recorded.format === base.format) return;
  const format = recorded.format ?? "unknown";
  throw wrong(
    path,
    `was made over a base of format ${format}, and not ${base.format}: ${remedy(path, base)}`,
  );
}

function remedy(path: string, { path: base, format }: KnownBase): string {
  return `name that one; if it is the same, \`qemu-img rebase -u -b ${base} -F ${format} ${path}\` records it`;
}

/** One file, by whatever names. */
async function same(one: string, other: string): Promise<boolean> {
  if (one === other) return true;
  const [first, second] = await Promise.all([one, other].map((path) => fileIdentity(path).catch(() => null)));
  return first !== null && first === second;
}

function wrong(path: string, why: string): DeviceError {
  return new DeviceError(EINVAL, path, why);
}
