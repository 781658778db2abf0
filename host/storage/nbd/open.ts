/** Opening a disk that an NBD server has. */
import { constants } from "node:os";
import { Transmission } from "../../nbd/protocol.js";
import { SECTOR } from "../geometry.js";
import { openKept } from "../kept-open.js";
import { DeviceError, type OpenOptions } from "../open.js";
import { DEFAULT_PATIENCE, type Patience } from "../patience.js";
import { NbdDevice, type NbdDeviceOptions, sectorsOf } from "./device.js";
import { type Export, type Line, openLine } from "./negotiate.js";
import { type NbdAddress, parseNbdUri } from "./uri.js";

const { EINVAL, EIO, EROFS } = constants.errno;
/** For connection and handshake, unless the options say otherwise. */
export const DIAL_MS = 10_000;

export interface NbdOptions extends OpenOptions {
  readonly patience?: Partial<Patience>;
  /** Milliseconds for connecting and the handshake. */
  readonly dialMs?: number;
}

/** Opens the export that an NBD URI names. Rejects with a {@link DeviceError}. */
export async function openNbd(uri: string, options: NbdOptions): Promise<NbdDevice> {
  const address = addressIn(uri);
  return openExport(uri, () => openLine(address, options.dialMs ?? DIAL_MS), options, { fenced: false });
}

/** Throws a {@link DeviceError} that says what is wrong with the URI. */
export function addressIn(uri: string): NbdAddress {
  try {
    return parseNbdUri(uri);
  } catch (error) {
    throw new DeviceError(EINVAL, uri, (error as Error).message.replace(`${uri}: `, ""));
  }
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
    acceptExport(name, exported, readOnly, log);
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

/** The bytes of a guest's sectors, with warnings of what it will miss. Throws an Error where the export cannot be served. */
export function acceptExport(
  name: string,
  exported: Export,
  readOnly: boolean,
  log: (text: string) => void,
): number {
  const { size, flags } = exported;
  const sectorSize = sectorsOf(exported);
  if (!readOnly && flags & Transmission.readOnly)
    throw new DeviceError(EROFS, name, "read-only; attach it read-only, or let its server write");
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
  return sectorSize;
}
