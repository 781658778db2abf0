/** Opening a disk that a vhost-user-blk server has: `vhost-user:/PATH/SOCKET`. */
import { closeSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { SECTOR } from "../geometry.js";
import { openKept } from "../kept-open.js";
import { CANNOT_REPEAT, type KeptWrites } from "../kept-writes.js";
import { DeviceError, type OpenOptions, refusal } from "../open.js";
import { DEFAULT_PATIENCE, type Patience } from "../patience.js";
import { VhostDevice, type VhostDeviceOptions } from "./device.js";
import { negotiate, type Offer, share } from "./handshake.js";
import { restore } from "./restore.js";
import { Session } from "./session.js";

const { ECONNREFUSED, EINVAL, EIO, EROFS } = constants.errno;
/** For connecting, and for the answer to each message. */
const DIAL_MS = 10_000;

export interface VhostOptions extends OpenOptions {
  /** Milliseconds for the server to accept the connection, and to answer a message. */
  readonly dialMs?: number;
  readonly patience?: Partial<Patience>;
}

/** Opens the disk of the server at a socket's path. Rejects with a {@link DeviceError}. */
export async function openVhostUser(name: string, path: string, options: VhostOptions): Promise<VhostDevice> {
  const dial = (): Promise<Session> =>
    Session.connect(path, options.dialMs ?? DIAL_MS).catch(async (error: Error) => {
      throw await unreachable(name, error);
    });
  return openBy(name, dial, options, ({ peer }) => ({ fenced: isFencedBy(peer) }));
}

/**
 * Opens the disk of the server that `dial` connects to, within a bounded time, or rejects. Rejects with a
 * {@link DeviceError}; what is behind the server is the caller's to end then.
 */
export function openDialed(
  name: string,
  dial: () => Promise<Session>,
  options: VhostOptions,
  rest: Behind,
): Promise<VhostDevice> {
  return openBy(name, dial, options, () => rest);
}

/** What is known of what is behind the server. */
type Behind = Pick<
  VhostDeviceOptions,
  "fenced" | "bases" | "connectionFd" | "failureMeans" | "mayReturnLarger" | "server" | "release"
>;

async function openBy(
  name: string,
  dial: () => Promise<Session>,
  options: VhostOptions,
  behind: (session: Session) => Behind,
): Promise<VhostDevice> {
  const { readOnly, warn = console.warn } = options;
  const patience = { ...DEFAULT_PATIENCE, ...options.patience };
  const session = await dial().catch((error: Error) => {
    throw error instanceof DeviceError ? error : new DeviceError(EIO, name, explain(error));
  });
  let memoryFd = -1;
  let kept: KeptWrites | null = null;
  try {
    const offer = await negotiate(session);
    if (!readOnly && offer.readOnly)
      throw new DeviceError(EROFS, name, "read-only; attach it read-only, or let its server write");
    if (offer.size < SECTOR) throw new DeviceError(EINVAL, name, "the server's disk is empty; enlarge it");
    await share(session, offer.queues, (fd) => {
      memoryFd = fd;
    });
    const rest = behind(session);
    const log = (line: string): void => warn(`${name}: ${line}`);
    warnOf(offer, readOnly, log);
    // Of a server without flush, all that it has acknowledged is on stable storage, or will never be.
    kept = readOnly || !offer.limits.flush ? null : openKept(name, options, log);
    if (kept) {
      const { limits, shape } = offer;
      const store = {
        ...{ name, limits, shape, reconnectMs: patience.reconnectMs },
        connectionFd: rest.connectionFd ?? -1,
        failureMeans: rest.failureMeans ?? null,
      };
      if (!(await restore({ session, memoryFd, kept, store, bytes: offer.size }))) {
        kept.lose(EIO);
        log(CANNOT_REPEAT);
      }
    }
    return new VhostDevice(
      { session, offer, memoryFd },
      { ...rest, name, readOnly, dial, patience, kept, log },
    );
  } catch (error) {
    kept?.close();
    await session.close();
    if (memoryFd >= 0) closeSync(memoryFd);
    throw error instanceof DeviceError ? error : new DeviceError(EIO, name, explain(error as Error));
  }
}

/**
 * Whether a server answers a new client only when all that the one before had asked has ended. QEMU's programs do, since
 * 7.0; of others nothing is known. Who listens is told by the kernel, its name by itself: it has the disk in any case.
 */
function isFencedBy(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("qemu-");
  } catch {
    return false;
  }
}

function unreachable(name: string, error: Error): DeviceError | Promise<DeviceError> {
  const { errno } = error as NodeJS.ErrnoException;
  if (errno === undefined) return new DeviceError(EIO, name, explain(error));
  if (-errno === ECONNREFUSED)
    return new DeviceError(ECONNREFUSED, name, "no server listens on the socket; start it");
  return refusal(name, Math.abs(errno));
}

function explain({ message }: Error): string {
  if (!/^the server does not (answer|accept)/.test(message)) return message;
  return `${message}; most servers have one client at a time: is there another one?`;
}

function warnOf({ limits }: Offer, readOnly: boolean, log: (line: string) => void): void {
  if (limits.sectorSize > SECTOR)
    log(`the server has sectors of ${limits.sectorSize} bytes; not every guest can boot from them`);
  if (!readOnly && !limits.flush)
    log("the server has no flush: what a guest has flushed may not be on stable storage");
}
