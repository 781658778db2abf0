/**
 * The control socket: one JSON object a line each way. `{"command": "list"}` is answered with `{"ok": true, …}` or
 * `{"ok": false, "error": "…"}`.
 */
import { chmodSync, rmSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { createInterface } from "node:readline";

export type ControlRequest = { command: string } & Record<string, unknown>;
export type ControlHandler = (request: ControlRequest) => Promise<object> | object;

const MAX_LINE = 65536;

export class ControlServer {
  readonly #server: Server;
  readonly #path: string;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server, path: string) {
    this.#server = server;
    this.#path = path;
  }

  /** Listens at `path`, for this user alone. */
  static async listen(path: string, handler: ControlHandler): Promise<ControlServer> {
    rmSync(path, { force: true });
    const server = createServer();
    const control = new ControlServer(server, path);
    server.on("connection", (socket) => control.#serve(socket, handler));
    const mask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(path, resolve);
      });
    } finally {
      process.umask(mask);
    }
    chmodSync(path, 0o600);
    return control;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
    rmSync(this.#path, { force: true });
  }

  #serve(socket: Socket, handler: ControlHandler): void {
    this.#sockets.add(socket);
    let unended = 0;
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("error", () => socket.destroy());
    socket.on("data", (chunk) => {
      const end = chunk.lastIndexOf(10);
      unended = end < 0 ? unended + chunk.length : chunk.length - end;
      if (unended > MAX_LINE) socket.destroy();
    });
    const lines = createInterface({ input: socket });
    lines.on("error", () => {});
    lines.on("line", (line) => {
      void answer(line, handler).then((reply) => {
        if (!socket.destroyed) socket.write(`${JSON.stringify(reply)}\n`);
      });
    });
  }
}

async function answer(line: string, handler: ControlHandler): Promise<object> {
  try {
    return { ok: true, ...(await handler(JSON.parse(line) as ControlRequest)) };
  } catch (error) {
    return { ok: false, error: (error as Error).message };
  }
}

/** Sends one request to a daemon and resolves with its answer. Rejects with the daemon's own words if it refuses. */
export function control<T>(path: string, request: ControlRequest): Promise<T> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.on("error", (error) => reject(new Error(`no daemon answers at ${path} (${error.message})`)));
    socket.on("close", () => reject(new Error(`the daemon at ${path} closed the connection`)));
    socket.write(`${JSON.stringify(request)}\n`);
    const lines = createInterface({ input: socket });
    // It repeats the socket's error.
    lines.on("error", () => {});
    lines.once("line", (line) => {
      const reply = JSON.parse(line) as { ok: boolean; error?: string };
      if (reply.ok) resolve(reply as T);
      else reject(new Error(reply.error ?? "the daemon refused"));
      socket.destroy();
    });
  });
}
