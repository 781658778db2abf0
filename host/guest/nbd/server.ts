/** An NBD server in front of a guest's disk: unmodified programs drive it through a Unix socket. */
import { chmodSync, lstatSync, unlinkSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { GuestDisk } from "../disk.js";
import { BufferPool } from "./buffers.js";
import { Connection } from "./connection.js";

export interface NbdServerOptions {
  /** For people: what `nbdinfo` shows. */
  readonly description?: string;
  /** Requests that a connection may have under way; 128 unless told. Beyond it the socket is not read. */
  readonly maximumRequests?: number;
  /** Bytes of data that a connection may have under way; 32 MiB unless told. A longer request goes alone. */
  readonly maximumBytes?: number;
  /** Connections at a time; 64 unless told. Further ones are closed at once. */
  readonly maximumConnections?: number;
  /** Milliseconds that `close` waits for what is under way; 5000 unless told. */
  readonly drainTimeout?: number;
}

/** sockaddr_un.sun_path with its final NUL (linux/include/uapi/linux/un.h). */
const LONGEST_PATH = 107;

export class NbdServer {
  /** An NBD URI of the default export, e.g. `nbd+unix:///?socket=/run/disk.sock`. */
  readonly uri: string;
  readonly socketPath: string;
  readonly #server: Server;
  readonly #connections = new Set<Connection>();
  readonly #drainTimeout: number;
  #closing: Promise<void> | null = null;

  private constructor(disk: GuestDisk, socketPath: string, options: NbdServerOptions) {
    this.socketPath = socketPath;
    this.uri = `nbd+unix:///?socket=${encodeURIComponent(socketPath).replaceAll("%2F", "/")}`;
    this.#drainTimeout = options.drainTimeout ?? 5000;
    const exported = { disk, description: options.description ?? "" };
    const limits = { requests: options.maximumRequests ?? 128, bytes: options.maximumBytes ?? 32 << 20 };
    const pool = new BufferPool();
    this.#server = createServer({ allowHalfOpen: true }, (socket) => {
      const connection = new Connection(socket, exported, pool, limits);
      this.#connections.add(connection);
      void connection.settled.then(() => this.#connections.delete(connection));
    });
    // An accept that fails concerns nobody but the client that it was for.
    this.#server.on("error", () => {});
    this.#server.maxConnections = options.maximumConnections ?? 64;
  }

  /**
   * Serves `disk` as the default export ("") on a new Unix socket of mode 0600. A socket that a dead server left
   * behind is replaced. Rejects with the system's error when the socket cannot be made, and with an Error whose
   * `code` is "EADDRINUSE" when somebody listens there.
   */
  static async listen(
    disk: GuestDisk,
    socketPath: string,
    options: NbdServerOptions = {},
  ): Promise<NbdServer> {
    if (Buffer.byteLength(socketPath) > LONGEST_PATH) {
      throw new Error(`nbd socket ${socketPath}: longer than ${LONGEST_PATH} bytes; choose a shorter path`);
    }
    const nbd = new NbdServer(disk, socketPath, options);
    try {
      await bind(nbd.#server, socketPath);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
      if (!(await isStale(socketPath))) {
        const why = `${socketPath}: another program listens on this socket: choose another path`;
        throw Object.assign(new Error(why), { code: "EADDRINUSE" });
      }
      unlinkSync(socketPath);
      await bind(nbd.#server, socketPath);
    }
    return nbd;
  }

  /** Clients that are connected, or whose operations the disk still has under way. */
  get connections(): number {
    return this.#connections.size;
  }

  /** Takes no more requests, answers those under way for at most `drainTimeout`, then closes. Never rejects. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    const settled = Promise.all([...this.#connections].map((connection) => connection.settled));
    for (const connection of this.#connections) connection.drain();
    const cancel = new AbortController();
    const late = sleep(this.#drainTimeout, undefined, { signal: cancel.signal }).catch(() => {});
    await Promise.race([settled, late]);
    cancel.abort();
    for (const connection of this.#connections) connection.destroy();
    await closed;
  }
}

function bind(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, () => {
      server.off("error", reject);
      try {
        chmodSync(path, 0o600);
        resolve();
      } catch (error) {
        server.close();
        reject(error);
      }
    });
  });
}

/** A socket that nobody listens on any more. (Connecting to a plain file is refused just the same.) */
function isStale(path: string): Promise<boolean> {
  if (!lstatSync(path, { throwIfNoEntry: false })?.isSocket()) return Promise.resolve(false);
  return new Promise((resolve) => {
    const probe: Socket = connect(path, () => {
      probe.destroy();
      resolve(false);
    });
    probe.on("error", (error: NodeJS.ErrnoException) => resolve(error.code === "ECONNREFUSED"));
  });
}
