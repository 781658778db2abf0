/** A process' connection to the hypervisor. The hypervisor takes its end for the end of the process. */
import { createConnection, type Socket } from "node:net";
import { startMachine } from "./directory.js";
import { paths } from "./layout.js";
import { checkSocketPath, HypervisorError, Lines, type Reply, type Result } from "./wire.js";

interface Waiting {
  resolve: (result: Result) => void;
  reject: (error: Error) => void;
}

export class Connection {
  readonly #socket: Socket;
  readonly #directory: string;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #lost: Error | null = null;

  /** Rejects when no hypervisor answers in this directory. */
  static async open(directory: string): Promise<Connection> {
    const path = paths.socket(directory);
    checkSocketPath(path);
    const socket = createConnection(path);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", (error: NodeJS.ErrnoException) => {
        const message = `no loopback machine runs in ${directory} (${error.code}): ${startMachine(directory)}`;
        reject(new HypervisorError(error.code ?? "EIO", message));
      });
    });
    return new Connection(socket, directory);
  }

  private constructor(socket: Socket, directory: string) {
    this.#socket = socket;
    this.#directory = directory;
    const lines = new Lines();
    socket.removeAllListeners("error");
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => {
      for (const line of lines.push(chunk)) this.#answered(JSON.parse(line) as Reply);
    });
    socket.on("error", () => {});
    socket.on("close", () => this.#fail());
    socket.unref();
  }

  /** Rejects with a {@link HypervisorError} when the hypervisor refuses or is gone. */
  request(op: string, args: Result = {}): Promise<Result> {
    if (this.#lost) return Promise.reject(this.#lost);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#socket.ref();
      this.#socket.write(`${JSON.stringify({ ...args, id, op })}\n`);
    });
  }

  /** Gives something back. A hypervisor that is gone has taken it back already. */
  async release(op: string, args: Result = {}): Promise<void> {
    if (this.#lost) return;
    await this.request(op, args).catch((error: unknown) => {
      if (error !== this.#lost) throw error;
    });
  }

  async close(): Promise<void> {
    if (this.#socket.destroyed) return;
    this.#lost = new HypervisorError("ECONNRESET", "this domain's connection was closed");
    await new Promise<void>((resolve) => {
      this.#socket.ref();
      this.#socket.once("close", () => resolve());
      this.#socket.end();
    });
  }

  #answered({ id, result, error }: Reply): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    // Closing waits for the end of the socket.
    if (this.#waiting.size === 0 && !this.#lost) this.#socket.unref();
    if (error) waiting?.reject(new HypervisorError(error.code, error.message));
    else waiting?.resolve(result ?? {});
  }

  #fail(): void {
    const message = `the loopback hypervisor of ${this.#directory} is gone: start it and its domains again`;
    this.#lost ??= new HypervisorError("ECONNRESET", message);
    for (const { reject } of this.#waiting.values()) reject(this.#lost);
    this.#waiting.clear();
  }
}
