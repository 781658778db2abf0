/**
 * The disk of an NBD server, by qemu-storage-daemon. What the server offers is asked of it first; then the helper gets a
 * connection that this process has made. When that breaks, another helper gets another connection, and what was asked and
 * not answered, or acknowledged and not flushed, is asked again: a helper that connected again by itself would hide that a
 * server has died, and with it what it had not flushed.
 */
import { Transmission } from "../../nbd/protocol.js";
import type { BlockDevice } from "../device.js";
import { wholeSectors } from "../geometry.js";
import { describe, sectorsOf } from "../nbd/device.js";
import { connectTo } from "../nbd/dial.js";
import { askExport, type Export } from "../nbd/negotiate.js";
import { acceptExport, addressIn, DIAL_MS, type NbdOptions } from "../nbd/open.js";
import type { NbdAddress } from "../nbd/uri.js";
import { openDialed } from "../vhost-user/open.js";
import type { Session } from "../vhost-user/session.js";
import { overVhostUser } from "./dial.js";
import { DiskHelper } from "./disk-helper.js";
import { checkConfinement } from "./open.js";
import { SameFiles } from "./same-files.js";
import { ServerConnection } from "./server-connection.js";
import { storageDaemon } from "./storage-daemon.js";

const BROKEN = "the connection to the NBD server broke";

/** Opens the export that an NBD URI names. Rejects with a {@link DeviceError}. */
export async function openNbd(uri: string, options: NbdOptions): Promise<BlockDevice> {
  const { readOnly, dialMs = DIAL_MS, helperPlace: place = null, warn = console.warn } = options;
  const address = addressIn(uri);
  const log = (line: string): void => warn(`${uri}: ${line}`);
  const confinement = checkConfinement(log) ? "" : ", not confined to its files";
  const helper = new DiskHelper(uri, await SameFiles.of(uri, [], log), log);
  const server = new Server(uri, address, readOnly, dialMs, log);
  let session: Session | null = null;
  const connection = new ServerConnection(() => session?.lose(BROKEN));
  const dial = async (): Promise<Session> => {
    await helper.clear(place);
    const { size, sectorSize } = await server.ask();
    connection.replace(await connectTo(address, dialMs));
    const source = { kind: "nbd", exportName: address.exportName, size } as const;
    const how = { readOnly, shared: false, cache: "none", sectorSize } as const;
    const given = { place, connection: connection.fd };
    const started = await helper.start(
      (socket) => storageDaemon(source, { ...how, socket }, "io_uring"),
      overVhostUser,
      given,
    );
    session = started;
    // It may have broken before there was a session to lose.
    if (connection.broken) started.lose(BROKEN);
    return started;
  };
  const behind = {
    get fenced() {
      return helper.fenced;
    },
    connectionFd: connection.fd,
    mayReturnLarger: true,
    server: () => (helper.running ? `an NBD server, by ${helper.name}${confinement}` : "an NBD server"),
    release: async () => {
      await helper.end();
      connection.close();
    },
  };
  return openDialed(uri, dial, options, behind).catch(async (error) => {
    await helper.giveUp();
    connection.close();
    throw error;
  });
}

/** A server, and what it has said of its export. */
class Server {
  readonly #uri: string;
  readonly #address: NbdAddress;
  readonly #readOnly: boolean;
  readonly #milliseconds: number;
  readonly #log: (line: string) => void;
  #first: Export | null = null;
  #size = 0;

  constructor(
    uri: string,
    address: NbdAddress,
    readOnly: boolean,
    milliseconds: number,
    log: (line: string) => void,
  ) {
    this.#uri = uri;
    this.#address = address;
    this.#readOnly = readOnly;
    this.#milliseconds = milliseconds;
    this.#log = log;
  }

  /** Its disk, which has not changed but for a larger size. Rejects with an Error that says why it cannot be used. */
  async ask(): Promise<{ size: number; sectorSize: number }> {
    const exported = await askExport(this.#address, this.#milliseconds);
    return this.#first === null ? this.#accept(exported) : this.#acceptAgain(exported, this.#first);
  }

  #accept(exported: Export): { size: number; sectorSize: number } {
    const sectorSize = acceptExport(this.#uri, exported, this.#readOnly, this.#log);
    this.#first = exported;
    this.#size = wholeSectors(exported.size, sectorSize);
    return { size: this.#size, sectorSize };
  }

  /** The guest has been told what it has; another connection must have at least that. */
  #acceptAgain(exported: Export, first: Export): { size: number; sectorSize: number } {
    const sectorSize = sectorsOf(first);
    const size = wholeSectors(exported.size, sectorSize);
    const lacking = first.flags & ~exported.flags & (Transmission.sendFlush | Transmission.sendTrim);
    const writable = this.#readOnly || (exported.flags & Transmission.readOnly) === 0;
    if (size < this.#size || exported.minimumBlock > sectorSize || lacking !== 0 || !writable)
      throw new Error(`the server offers a different disk: ${describe(exported)}, not ${describe(first)}`);
    this.#size = size;
    return { size, sectorSize };
  }
}
