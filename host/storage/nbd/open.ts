/** Opening a disk that an NBD server has. */
import { constants } from "node:os";
import { Transmission } from "../../nbd/protocol.js";
import { SECTOR } from "../geometry.js";
import { openKept } from "../kept-open.js";
import { DeviceError, type OpenOptions } from "../open.js";
import { DEFAULT_PATIENCE, type Patience } from "../patience.js";
import { NbdDevice, type NbdDeviceOptions, sectorsOf } from "./device.js";
import { type Line, openLine } from "./negotiate.js";
import { type NbdAddress, parseNbdUri } from "./uri.js";

const { EINVAL, EIO, EROFS } = constants.errno;
/** For connection and handshake. */
const DIAL_MS = 10_000;

export interface NbdOptions extends OpenOptions {
  readonly patience?: Partial<Patience>;
  /** Milliseconds for connecting and the handshake. */
  readonly dialMs?: number;
}

/** Opens the export that an NBD URI names. Rejects with a {@link DeviceError}. */
export async function openNbd(uri: string, options: NbdOptions): Promise<NbdDevice> {
  let address: NbdAddress;
  try {
    address = parseNbdUri(uri);
  } catch (error) {
    throw new DeviceError(EINVAL, uri, (error as Error).message.replace(`${uri}: `, ""));
  }
  return openExport(uri, () => openLine(address, options.dialMs ?? DIAL_MS), options, { fenced: false });
}

/**
 * Opens what `dial` connects to, as a disk of this name. Rejects with a {@link DeviceError}; what is behind the server is
 * the caller's to let go then.
 */
export async function openExport(
  name: string,
  dial: () => Promise<Line>,
  options: NbdOptions,
  rest: Pick<NbdDeviceOptions, "fenced" | "bases" | "server" | "release">,
): Promise<NbdDevice> {
  const { readOnly, patience, warn = console.warn } = options;
  const line = await dial().catch((error: Error) => {
    throw error instanceof DeviceError ? error : new DeviceError(EIO, name, error.message);
  });
  const log = (text: string): void => warn(`${name}: ${text}`);
  try {
    const { exported } = line;
    const sectorSize = sectorsOf(exported);
    if (!readOnly && exported.flags & Transmission.readOnly) {
      throw new DeviceError(EROFS, name, "read-only; attach it read-only, or let its server write");
    }
    warnOfExport(exported, sectorSize, readOnly, log);
    // Of a server without flush, all that it has acknowledged is on stable storage, or will never be.
    const flushes = (exported.flags & Transmission.sendFlush) !== 0;
    const kept = readOnly || !flushes ? null : openKept(name, options, log);
    const how = { ...DEFAULT_PATIENCE, ...patience, ...rest, name, readOnly, dial, log };
    return new NbdDevice(line, { ...how, kept });
  } catch (error) {
    line.receiver.stop();
    line.socket.destroy();
    throw error instanceof DeviceError ? error : new DeviceError(EINVAL, name, (error as Error).message);
  }
}

function warnOfExport(
  { size, flags }: Line["exported"],
  sectorSize: number,
  readOnly: boolean,
  log: (text: string) => void,
): void {
  const tail = size % sectorSize;
  if (tail !== 0)
    log(
      `${size} bytes are not a multiple of the sector size ${sectorSize}; the guest does not see the last ${tail}`,
    );
  if (sectorSize > SECTOR)
    log(
      `the server's minimum block size makes sectors of ${sectorSize} bytes; not every guest can boot from them`,
    );
  if (!readOnly && !(flags & Transmission.sendFlush))
    log("the server has no flush: what a guest has flushed may not be on stable storage");
}
