/**
 * The control socket: one JSON object a line each way. `{"command": "list"}` is answered with `{"ok": true, …}` or
 * `{"ok": false, "error": "…"}`.
 */
import { once } from "node:events";
import { chmodSync, rmSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";

export type ControlRequest = { command: string } & Record<string, unknown>;
export type ControlHandler = (request: ControlRequest) => Promise<object> | object;

const MAX_LINE = 65536;
/** A daemon that answers at all answers at once. */
const TIMEOUT_MS = 10_000;
const LINGER_MS = 1000;

export class ControlServer {
  readonly #server: Server;
  readonly #path: string;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server, path: string) {
    this.#server = server;
    this.#path = path;
  }

  /** Listens at `path`, for this user alone. Rejects when another daemon answers there. */
  static async listen(path: string, handler: ControlHandler): Promise<ControlServer> {
    await removeStale(path);
    // Half open: a client that has sent its last line gets its answer all the same.
    const server = createServer({ allowHalfOpen: true });
    const control = new ControlServer(server, path);
    server.on("connection", (socket) => void control.#serve(socket, handler));
    const mask = process.umask(0o177);
    try {
      // The socket is made before listen() returns.
      server.listen(path);
    } finally {
      process.umask(mask);
    }
    await once(server, "listening");
    chmodSync(path, 0o600);
    return control;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
    rmSync(this.#path, { force: true });
  }

  /** One request after the other: a client that does not read its answers is not read either. */
  async #serve(socket: Socket, handler: ControlHandler): Promise<void> {
    this.#sockets.add(socket);
    // "close" follows, and the lines end.
    socket.on("error", () => {});
    socket.on("close", () => this.#sockets.delete(socket));
    try {
      for await (const line of lines(socket)) {
        const reply = `${JSON.stringify(await answer(line, handler))}\n`;
        if (!socket.write(reply)) await once(socket, "drain");
      }
    } catch (error) {
      if (socket.writable) socket.write(`${JSON.stringify(refusal(error))}\n`);
    }
    finish(socket);
  }
}

/**
 * Says goodbye. What a client still sends is read and dropped for a while: closing on unread bytes would reset the
 * connection, and the client might never see the last answer.
 */
function finish(socket: Socket): void {
  const timer = setTimeout(() => socket.destroy(), LINGER_MS).unref();
  socket.once("close", () => clearTimeout(timer));
  socket.end(() => {
    if (socket.readableEnded) socket.destroy();
    else socket.once("end", () => socket.destroy()).resume();
  });
}

/** A socket that nobody answers at is left over. */
async function removeStale(path: string): Promise<void> {
  const socket = createConnection(path);
  const answers = await new Promise<boolean>((resolve) => {
    socket.once("connect", () => resolve(true));
    socket.once("error", () => resolve(false));
  });
  socket.destroy();
  if (answers) throw new Error(`another daemon answers at ${path}: stop it first`);
  rmSync(path, { force: true });
}

/** Rejects when a line is too long, and when the socket fails. */
async function* lines(socket: Socket): AsyncGenerator<string> {
  socket.setEncoding("utf8");
  let unended = "";
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    const parts = (unended + chunk).split("\n");
    unended = parts.pop() as string;
    yield* parts;
    if (unended.length > MAX_LINE) throw new Error(`a line is longer than ${MAX_LINE} characters`);
  }
}

function refusal(error: unknown): object {
  return { ok: false, error: (error as Error).message };
}

async function answer(line: string, handler: ControlHandler): Promise<object> {
  try {
    const request: unknown = JSON.parse(line);
    if (typeof request !== "object" || typeof (request as ControlRequest | null)?.command !== "string") {
      throw new Error('a request is an object like {"command": "list"}');
    }
    return { ok: true, ...(await handler(request as ControlRequest)) };
  } catch (error) {
    return refusal(error);
  }
}

/**
 * Sends one request to a daemon and resolves with its answer. Rejects with the daemon's own words if it refuses, and
 * after ten seconds without an answer.
 */
export async function control<T>(path: string, request: ControlRequest): Promise<T> {
  const socket = createConnection(path);
  socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error(`no answer in ${TIMEOUT_MS / 1000} s`)));
  socket.write(`${JSON.stringify(request)}\n`);
  let reply: { ok: boolean; error?: string } | undefined;
  try {
    for await (const line of lines(socket)) {
      reply = JSON.parse(line);
      break;
    }
  } catch (error) {
    throw new Error(`no daemon answers at ${path} (${(error as Error).message})`);
  } finally {
    socket.destroy();
  }
  if (reply === undefined) throw new Error(`the daemon at ${path} closed the connection`);
  if (!reply.ok) throw new Error(reply.error ?? "the daemon refused");
  return reply as T;
}
