/** Something that listens at an address, which another program may have: the daemon serves on, and tries again. */
import type { Log } from "../vbd/vbd-log.js";

const RETRY_MS = 5000;

interface Closable {
  close(): unknown;
}

export class Endpoint {
  readonly #what: string;
  readonly #open: () => Promise<Closable>;
  readonly #log: Log;
  #server: Closable | null = null;
  #timer: NodeJS.Timeout | null = null;
  #closed = false;
  /** Why it does not listen; null when it does. */
  problem: string | null = null;

  /** `what` is what the log calls it: "the page at http://127.0.0.1:80/". */
  constructor(what: string, open: () => Promise<Closable>, log: Log) {
    this.#what = what;
    this.#open = open;
    this.#log = log;
  }

  /** Listens now, or as soon as it can. Never rejects. */
  async start(): Promise<void> {
    try {
      const server = await this.#open();
      if (this.#closed) return void (await server.close());
      this.#server = server;
      this.problem = null;
      this.#log(`xbdback: serving ${this.#what}`);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      const why = code === "EADDRINUSE" ? "another program listens there" : message;
      const problem = `can't serve ${this.#what}: ${why}`;
      if (problem !== this.problem)
        this.#log(`xbdback: ${problem}; trying again each ${RETRY_MS / 1000} s`, { level: "error" });
      this.problem = problem;
      if (!this.#closed) this.#timer = setTimeout(() => void this.start(), RETRY_MS).unref();
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer) clearTimeout(this.#timer);
    await this.#server?.close();
  }
}
