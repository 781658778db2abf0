/**
 * The control socket: one JSON object a line each way. `{"command": "list"}` is answered with `{"ok": true, …}` or
 * `{"ok": false, "error": "…"}`, with a `reason` where a program may want to tell it from others. `trace` and `record` are
 * answered again and again, until the asker closes the connection.
 */
import { once } from "node:events";
import { rmSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { peerOf } from "../platform/libc.js";
import { isBusy } from "../storage/open.js";
import { listenPrivately } from "./private-socket.js";

export type ControlRequest = { command: string } & Record<string, unknown>;
/** An answer, or as many as the generator gives; the signal comes when the asker has gone. */
export type ControlHandler = (
  request: ControlRequest,
  signal: AbortSignal,
) => Promise<object> | object | AsyncGenerator<object>;

/** Why a request was not carried out: for programs, as the message is for people. */
export type Reason = "refused" | "not-found" | "busy" | "unavailable";

/** A request that was not carried out. "unavailable": no daemon answers; `code` is then the errno's name, if there is one. */
export class ControlError extends Error {
  readonly reason: Reason;
  readonly code: string | undefined;

  constructor(message: string, reason: Reason = "refused", code?: string) {
    super(message);
    this.reason = reason;
    this.code = code;
  }
}

/** As what is in use: the exit status tells. */
export function sayBusy(error: unknown): never {
  throw isBusy(error) ? new ControlError(error.message, "busy") : error;
}

const MAX_LINE = 65536;
/** A daemon that answers at all answers at once. */
const TIMEOUT_MS = 10_000;
const LINGER_MS = 1000;

export class ControlServer {
  readonly #server: Server;
  readonly #path: string;
  readonly #sockets = new Set<Socket>();
  /** Those whose request has not been answered yet. */
  readonly #awaited = new Set<Socket>();

  private constructor(server: Server, path: string) {
    this.#server = server;
    this.#path = path;
  }

  /** Listens at `path`, for this user alone. Rejects when another daemon answers there. */
  static async listen(path: string, handler: ControlHandler): Promise<ControlServer> {
    // Half open: a client that has sent its last line gets its answer all the same.
    const server = createServer({ allowHalfOpen: true });
    const control = new ControlServer(server, path);
    server.on("connection", (socket) => void control.#serve(socket, guarded(socket, handler)));
    await listenPrivately(server, path);
    return control;
  }

  /** Listens no more: another process may listen at the path. Who waits for an answer still gets it. */
  close(): void {
    this.#server.close();
    rmSync(this.#path, { force: true });
    for (const socket of this.#sockets) if (!this.#awaited.has(socket)) socket.destroy();
  }

  /** One request after the other: a client that does not read its answers is not read either. */
  async #serve(socket: Socket, handler: ControlHandler): Promise<void> {
    this.#sockets.add(socket);
    const gone = new AbortController();
    // "close" follows, and the lines end.
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#sockets.delete(socket);
      this.#awaited.delete(socket);
      gone.abort();
    });
    try {
      for await (const line of lines(socket)) {
        this.#awaited.add(socket);
        for await (const reply of answers(line, handler, gone.signal)) {
          // What follows is no answer that anybody waits for.
          this.#awaited.delete(socket);
          if (!socket.write(`${JSON.stringify(reply)}\n`)) await once(socket, "drain", gone);
        }
      }
    } catch (error) {
      if (socket.writable) socket.write(`${JSON.stringify(refusal(error))}\n`);
    }
    finish(socket);
  }
}

/**
 * The handler, if the peer is root or this user. The socket's mode keeps others out; this does so where a mode or a
 * directory was changed, or the descriptor handed on.
 */
function guarded(socket: Socket, handler: ControlHandler): ControlHandler {
  // Node tells a connection's descriptor nowhere else.
  const { fd } = (socket as unknown as { _handle: { fd: number } })._handle;
  const { uid } = peerOf(fd);
  if (uid === 0 || uid === process.geteuid?.()) return handler;
  return () => {
    throw new Error(`user ${uid} may not control this daemon: only root and user ${process.geteuid?.()} may`);
  };
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

/** Rejects when a line is too long, and when the socket fails. */
async function* lines(socket: Socket, longest = MAX_LINE): AsyncGenerator<string> {
  socket.setEncoding("utf8");
  let unended = "";
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    const parts = (unended + chunk).split("\n");
    unended = parts.pop() as string;
    yield* parts;
    if (unended.length > longest) throw new Error(`a line is longer than ${longest} characters`);
  }
}

function refusal(error: unknown): object {
  const { message } = error as Error;
  const told = error instanceof ControlError && error.reason !== "refused";
  return { ok: false, error: message, ...(told ? { reason: error.reason } : {}) };
}

/** One, unless the handler gives a generator. */
async function* answers(line: string, handler: ControlHandler, signal: AbortSignal): AsyncGenerator<object> {
  try {
    const request: unknown = JSON.parse(line);
    if (typeof request !== "object" || typeof (request as ControlRequest | null)?.command !== "string") {
      throw new Error('a request is an object like {"command": "list"}');
    }
    const answer = await handler(request as ControlRequest, signal);
    if (!(Symbol.asyncIterator in answer)) yield { ok: true, ...answer };
    else for await (const item of answer) yield { ok: true, ...item };
  } catch (error) {
    yield refusal(error);
  }
}

/** Answers are ours; a list of a thousand vbds is one line. */
const MAX_ANSWER = 1 << 26;

/**
 * Sends one request to a daemon and resolves with its answer. Rejects with a {@link ControlError}: the daemon's own words
 * if it refuses; "unavailable" when it is not there or gives no answer for ten seconds.
 */
export async function control<T>(path: string, request: ControlRequest): Promise<T> {
  for await (const reply of controlStream<T>(path, request)) return reply;
  throw new ControlError(`the daemon at ${path} closed the connection`, "unavailable");
}

/** As {@link control}, for a request that is answered again and again. It ends when the daemon closes the connection. */
export async function* controlStream<T>(path: string, request: ControlRequest): AsyncGenerator<T> {
  const socket = createConnection(path);
  socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error(`no answer in ${TIMEOUT_MS / 1000} s`)));
  socket.write(`${JSON.stringify(request)}\n`);
  try {
    for await (const line of lines(socket, MAX_ANSWER)) {
      const reply = JSON.parse(line) as { ok: boolean; error?: string; reason?: Reason };
      if (!reply.ok) throw new ControlError(reply.error ?? "the daemon refused", reply.reason);
      yield reply as T;
    }
  } catch (error) {
    if (error instanceof ControlError) throw error;
    const { message, code } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" || code === "ECONNREFUSED" ? "" : ` (${message})`;
    throw new ControlError(`no daemon answers at ${path}${why}`, "unavailable", code);
  } finally {
    socket.destroy();
  }
}
