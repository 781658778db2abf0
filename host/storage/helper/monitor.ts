/**
 * QEMU's monitor (QMP) of a helper: commands with their answers, and events. A helper serves what strangers may have made, and
 * may have been taken over by it: what it says is bounded, and one that does not keep to the protocol is not listened to.
 */
import { connect, type Socket } from "node:net";

/** Longer than any answer to what is asked here. */
const MAX_LINE = 1 << 20;
/** QEMU answers at once, but for a command that waits for I/O which is in flight. */
const ANSWER_MS = 20_000;

/** Where it listens, beside the socket for the client. */
export function monitorOf(socket: string): string {
  return `${socket}.monitor`;
}

/** Where one listens that takes jobs, on another monitor. */
export function jobsOf(socket: string): string {
  return `${socket}.jobs`;
}

/** The option that gives it one. */
export const JOBS_MONITOR = "chardev=jobs";

/** Something has happened. */
export interface MonitorEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

interface Asked {
  readonly command: string;
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export class Monitor {
  onEvent: (event: MonitorEvent) => void = () => {};
  /** Called once, when there will be no answers and no events any more. */
  onEnd: (why: Error) => void = () => {};
  readonly #socket: Socket;
  readonly #milliseconds: number;
  readonly #asked = new Map<number, Asked>();
  #lastId = 0;
  #ended: Error | null = null;

  private constructor(socket: Socket, milliseconds: number) {
    this.#socket = socket;
    this.#milliseconds = milliseconds;
    let unended = "";
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => {
      const lines = (unended + chunk).split("\n");
      unended = lines.pop() as string;
      for (const line of lines) this.#hear(line);
      if (unended.length > MAX_LINE) this.#end(`says a line of more than ${MAX_LINE} characters`);
    });
    socket.on("close", () => this.#end("has ended"));
  }

  /** Connects to it; an answer is waited for so long. Rejects with the error of connect(2). */
  static async connect(path: string, milliseconds = ANSWER_MS): Promise<Monitor> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      // "close" follows.
      socket.on("error", reject);
    });
    const monitor = new Monitor(socket, milliseconds);
    monitor
      .execute("qmp_capabilities")
      .catch(({ message }: Error) => monitor.#end(`takes no commands: ${message}`));
    return monitor;
  }

  /** Resolves with its answer. Rejects with an Error that says what it answers instead, or why there is no answer. */
  execute(command: string, args: object = {}): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(this.#ended);
      const id = ++this.#lastId;
      const late = `does not answer to ${command} within ${this.#milliseconds / 1000} s`;
      const timer = setTimeout(() => this.#end(late), this.#milliseconds).unref();
      this.#asked.set(id, { command, resolve, reject, timer });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  /** Tells it to end. */
  quit(): void {
    // It ends, or it does not: whoever waits for that sees it.
    this.execute("quit").catch(() => {});
  }

  close(): void {
    this.#end("is not listened to any more");
  }

  #hear(line: string): void {
    if (this.#ended || line.trim() === "") return;
    const message = parsed(line);
    if (message === null) this.#end(`says what is not QMP: ${JSON.stringify(line.slice(0, 80))}`);
    else if (typeof message["event"] === "string")
      this.onEvent({ event: message["event"], data: isObject(message["data"]) ? message["data"] : {} });
    else if (!("QMP" in message) && !this.#answer(message))
      this.#end(`answers what was not asked: ${JSON.stringify(line.slice(0, 80))}`);
  }

  /** False where it is an answer to nothing. */
  #answer(message: Message): boolean {
    const id = message["id"] as number;
    const asked = this.#asked.get(id);
    if (!asked || !("return" in message || "error" in message)) return false;
    this.#asked.delete(id);
    clearTimeout(asked.timer);
    if ("return" in message) asked.resolve(message["return"]);
    else asked.reject(new Error(`${asked.command}: ${reasonIn(message["error"])}`));
    return true;
  }

  #end(what: string): void {
    if (this.#ended) return;
    const why = new Error(`the helper ${what}`);
    this.#ended = why;
    this.#socket.destroy();
    for (const { timer, reject } of this.#asked.values()) {
      clearTimeout(timer);
      reject(why);
    }
    this.#asked.clear();
    this.onEnd(why);
  }
}

type Message = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is Message {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parsed(line: string): Message | null {
  try {
    const message: unknown = JSON.parse(line);
    return isObject(message) ? message : null;
  } catch {
    return null;
  }
}

/** QEMU's own words, on one line. */
function reasonIn(error: unknown): string {
  const reason = isObject(error) ? error["desc"] : null;
  return typeof reason === "string" ? reason.replace(/\p{Cc}+/gu, " ").slice(0, 500) : "it failed";
}
