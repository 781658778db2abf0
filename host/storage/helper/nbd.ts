/**
 * The disk of an NBD server, by qemu-storage-daemon. What the server offers is asked of it first; then the helper gets a
 * connection that this process has made. When that breaks, another helper gets another connection, and what was asked and
 * not answered, or acknowledged and not flushed, is asked again: a helper that connected again by itself would hide that a
 * server has died, and with it what it had not flushed.
 */
import { constants } from "node:os";
import { Transmission } from "../../nbd/protocol.js";
import type { BlockDevice } from "../device.js";
import { wholeSectors } from "../geometry.js";
import { connectTo } from "../nbd/dial.js";
import { acceptExport, describe, type Export } from "../nbd/export.js";
import { askExport } from "../nbd/negotiate.js";
import { type NbdAddress, type NbdTls, parseNbdUri } from "../nbd/uri.js";
import { DeviceError } from "../open.js";
import { openDialed } from "../vhost-user/open.js";
import type { Session } from "../vhost-user/session.js";
import { DiskHelper } from "./disk-helper.js";
import { checkConfinement, type HelpedOptions } from "./open.js";
import { SameFiles } from "./same-files.js";
import { ServerConnection } from "./server-connection.js";
import { storageDaemon } from "./storage-daemon.js";

const BROKEN = "the connection to the NBD server broke";
/** For connecting and the handshake. */
const DIAL_MS = 10_000;

export interface NbdOptions extends Omit<HelpedOptions, "cache"> {
  /** Milliseconds for connecting and the handshake. */
  readonly dialMs?: number;
}

/** A server of an NBD export. */
export interface NbdServer {
  /** For people. */
  readonly name: string;
  readonly exportName: string;
  readonly tls?: NbdTls;
  /** What a failure of its requests means, where that says nothing of the request. */
  readonly failureMeans?: string;
  /** What it offers, and a connection to it, which is the caller's to close. Rejects with an Error that says why there is none. */
  reach(): Promise<{ readonly exported: Export; readonly fd: number }>;
  /** When nothing is connected to it any more. */
  end(): Promise<void>;
}

/** Opens the export that an NBD URI names. Rejects with a {@link DeviceError}. */
export async function openNbd(uri: string, options: NbdOptions): Promise<BlockDevice> {
  const { dialMs = DIAL_MS } = options;
  const address = addressIn(uri);
  const server = {
    name: "an NBD server",
    exportName: address.exportName,
    ...(address.tls && { tls: address.tls }),
    async reach() {
      const exported = await askExport(address, dialMs);
      return { exported, fd: await connectTo(address, dialMs) };
    },
    async end() {},
  };
  return openServed(uri, server, options);
}

/** Opens a server's export as a disk of this name. Rejects with a {@link DeviceError}; the server has been ended then. */
export async function openServed(
  name: string,
  server: NbdServer,
  options: Omit<NbdOptions, "dialMs">,
): Promise<BlockDevice> {
  const { readOnly, helperPlace: place = null, warn = console.warn } = options;
  const log = (line: string): void => warn(`${name}: ${line}`);
  const confinement = checkConfinement(log) ? "" : ", not confined to its files";
  const helper = new DiskHelper(name, await SameFiles.of(name, [], log), log);
  const judge = new Judge(name, readOnly, log);
  let session: Session | null = null;
  const connection = new ServerConnection(() => session?.lose(BROKEN));
  const dial = async (): Promise<Session> => {
    connection.cut();
    await helper.clear(place);
    const { exported, fd } = await server.reach();
    // Whatever is thought of it, it is closed with the disk.
    connection.replace(fd);
    const { size, sectorSize } = judge.accept(exported);
    const { exportName, tls } = server;
    const source = { kind: "nbd", exportName, size, ...(tls && { tls }) } as const;
    const how = { readOnly, shared: false, cache: "none", sectorSize } as const;
    const given = { place, connection: connection.fd };
    const started = await helper.start(
      (socket) => storageDaemon(source, { ...how, socket }, "io_uring"),
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
    failureMeans: server.failureMeans ?? null,
    mayReturnLarger: true,
    server: () => (helper.running ? `${server.name}, by ${helper.name}${confinement}` : server.name),
    release: async () => {
      await helper.end();
      connection.close();
      await server.end();
    },
  };
  return openDialed(name, dial, options, behind).catch(async (error) => {
    await helper.giveUp();
    connection.close();
    await server.end();
    throw error;
  });
}

/** Throws a {@link DeviceError} that says what is wrong with the URI. */
function addressIn(uri: string): NbdAddress {
  try {
    return parseNbdUri(uri);
  } catch (error) {
    const why = (error as Error).message.replace(`${uri}: `, "");
    throw new DeviceError(constants.errno.EINVAL, uri, why);
  }
}

/** What is thought of what a server offers, which must not change but for a larger size. */
class Judge {
  readonly #name: string;
  readonly #readOnly: boolean;
  readonly #log: (line: string) => void;
  #first: { readonly exported: Export; readonly sectorSize: number } | null = null;
  #size = 0;

  constructor(name: string, readOnly: boolean, log: (line: string) => void) {
    this.#name = name;
    this.#readOnly = readOnly;
    this.#log = log;
  }

  /** The disk that it is. Throws an Error that says why it cannot be used. */
  accept(exported: Export): { size: number; sectorSize: number } {
    const first = this.#first;
    const sectorSize = first?.sectorSize ?? acceptExport(this.#name, exported, this.#readOnly, this.#log);
    const size = wholeSectors(exported.size, sectorSize);
    if (first) this.#compare(exported, first.exported, size, sectorSize);
    this.#first ??= { exported, sectorSize };
    this.#size = size;
    return { size, sectorSize };
  }

  /** The guest has been told what it has; another connection must have at least that. */
  #compare(exported: Export, first: Export, size: number, sectorSize: number): void {
    const lacking = first.flags & ~exported.flags & (Transmission.sendFlush | Transmission.sendTrim);
    const writable = this.#readOnly || (exported.flags & Transmission.readOnly) === 0;
    if (size < this.#size || exported.minimumBlock > sectorSize || lacking !== 0 || !writable)
      throw new Error(`the server offers a different disk: ${describe(exported)}, not ${describe(first)}`);
  }
}
