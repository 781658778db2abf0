/**
 * libxl's record of a guest's virtual device, /libxl/<domid>/device/vbd/<devid> (libxl_device.c): one for all backends and
 * kinds, so that none takes a device which another one serves. Nobody but the toolstack's domain can write it. A record of
 * ours lets `xl block-list`, `xl block-detach` and `xl destroy` know the disk.
 */
import type { XenstoreTransaction } from "../platform/ports.js";
import type { VbdId } from "../vbd/name.js";

export interface LibxlRecord {
  /** The directory at the backend. */
  readonly backend: string;
  /** Made by `xbdback attach`, not by xl. */
  readonly ours: boolean;
}

/** The key by which a record of ours is known. libxl reads what it knows, and leaves the rest alone. */
const MAKER_KEY = "toolstack";
const MAKER = "xbdback";

function recordOf({ domid, devid }: VbdId): string {
  return `/libxl/${domid}/device/vbd/${devid}`;
}

/** Null where there is none, or only its empty directory. */
export async function readRecord(
  t: Pick<XenstoreTransaction, "read">,
  id: VbdId,
): Promise<LibxlRecord | null> {
  const backend = await t.read(`${recordOf(id)}/backend`);
  if (backend === null) return null;
  return { backend, ours: (await t.read(`${recordOf(id)}/${MAKER_KEY}`)) === MAKER };
}

/** `keys` are those of the backend's directory, and `backend`. */
export async function writeRecord(
  t: XenstoreTransaction,
  id: VbdId,
  keys: Record<string, string>,
): Promise<void> {
  for (const [key, value] of Object.entries({ ...keys, [MAKER_KEY]: MAKER })) {
    await t.write(`${recordOf(id)}/${key}`, value);
  }
}

/** A record of xl's stays: xl has more to undo. */
export async function removeRecord(t: XenstoreTransaction, id: VbdId): Promise<void> {
  if ((await readRecord(t, id))?.ours) await t.remove(recordOf(id));
}
