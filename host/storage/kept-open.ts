/** The log of a disk's unflushed writes as the disk is opened: an empty one, or what the daemon before has left. */
import { constants } from "node:os";
import { KeptDamage, KeptFormat } from "./kept-memory.js";
import { type KeptPlace, KeptWrites } from "./kept-writes.js";
import { DeviceError, type OpenOptions } from "./open.js";

const { EBUSY, EIO, ENOSPC } = constants.errno;

/** What was acknowledged and not flushed may be lost, and cannot be written again. */
export class LostWrites extends DeviceError {}

/**
 * A log in `kept`, or one that ends with this process where there is no such place. Throws a {@link LostWrites} where a
 * daemon was killed that must have left one, and there is none that can be used; else a {@link DeviceError}, also where another release's is.
 */
export function openKept(
  name: string,
  { kept: place, unsettled = false }: Pick<OpenOptions, "kept" | "unsettled">,
  log: (line: string) => void,
): KeptWrites {
  if (!place) return KeptWrites.make();
  const crowded = (): void =>
    log(`little room is left for ${place.path}: writes are flushed one by one: free some space there`);
  try {
    const left = place.again ? inherit(name, place, unsettled, log, crowded) : null;
    return left ?? KeptWrites.create(place, crowded);
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new DeviceError(code === "EBUSY" ? EBUSY : code === "ENOSPC" ? ENOSPC : EIO, name, message);
  }
}

function inherit(
  name: string,
  place: KeptPlace,
  unsettled: boolean,
  log: (line: string) => void,
  crowded: () => void,
): KeptWrites | null {
  let why = "is not there";
  let later = false;
  try {
    const left = KeptWrites.inherit(place, crowded);
    if (left !== null) {
      if (left.lost !== 0)
        log(
          "a write that was acknowledged is lost; nothing more is written until the disk is attached again",
        );
      if (left.count > 0) log(`${left.count} writes that the last daemon has not flushed are written again`);
      return left;
    }
    if (!unsettled) return null;
  } catch (error) {
    if (!(error instanceof KeptDamage)) throw error;
    why = `cannot be used: ${error.message}`;
    later = error instanceof KeptFormat;
  }
  const line = `${place.path}, the log of writes that were acknowledged and not flushed, ${why}`;
  if (unsettled && later)
    throw new DeviceError(EIO, name, `${line}: start the release that wrote it; the guest waits`);
  if (unsettled) throw new LostWrites(EIO, name, `${line}; the disk is closed`);
  log(`${line}; another one is begun`);
  return null;
}
