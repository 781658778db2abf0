/**
 * Keeps up the connection to a server: opens another one when it breaks, and sends again what was not answered. A request
 * that has waited too long since its connection was lost fails, and only after that connection is closed, so that
 * nobody takes data from its memory any more.
 */
import { constants } from "node:os";
import type { Outage } from "../device.js";
import type { Patience } from "../patience.js";
import { RetryPause } from "../retry-pause.js";
import type { Export, Line } from "./negotiate.js";
import type { Request } from "./request.js";
import { Session } from "./session.js";

const GOODBYE_MS = 2000;

export interface LinkOptions extends Patience {
  /** Connects and negotiates within a bounded time, or rejects. */
  readonly dial: () => Promise<Line>;
  /** Why another connection's export cannot take the place of the first one's; null where it can. */
  readonly objection: (exported: Export) => string | null;
  /** Also the first connection is to be brought there, before anything else is asked on it. */
  readonly restoresFirst: boolean;
  /** Brings a new connection to where the last one was. What it sends is done only if the session lasts. */
  readonly restore: (session: Session, broken: Promise<never>) => Promise<void>;
  /** A line for the operator. */
  readonly log: (line: string) => void;
}

export class Link {
  readonly #options: LinkOptions;
  /** All that are not done, in the order in which they came. */
  readonly #requests = new Set<Request>();
  #session: Session | null = null;
  /** When the connection was lost, by performance.now(), and why; null while there is one. */
  #lost: { at: number; why: string } | null = null;
  readonly #pause = new RetryPause();
  #closed = false;
  #timer: NodeJS.Timeout | null = null;
  /** Ends what {@link #reconnect} does on a connection. */
  #abandon: () => void = () => {};
  #maintenance: Promise<void> = Promise.resolve();

  /** Takes the first connection over. */
  constructor(line: Line, options: LinkOptions) {
    this.#options = options;
    const { reconnectMs, silenceMs, restoresFirst } = options;
    if (restoresFirst) {
      this.#lost = { at: performance.now(), why: "writes of before are repeated" };
      this.#maintenance = this.#reconnect(line);
    } else this.#session = new Session(line, (error) => this.#break(error));
    const interval = Math.min(1000, Math.max(Math.min(reconnectMs, silenceMs) / 4, 10));
    this.#timer = setInterval(() => this.#look(), interval).unref();
  }

  /** Why there is no connection, and since when; null while there is one. */
  get outage(): Outage | null {
    if (!this.#lost) return null;
    const { why, at } = this.#lost;
    return { reason: why, since: Math.round(Date.now() - (performance.now() - at)) };
  }

  submit(request: Request): void {
    if (this.#lost && this.#overdue(this.#lost.at)) {
      const { why } = this.#lost;
      queueMicrotask(() => request.done(constants.errno.EIO, why));
      return;
    }
    this.#requests.add(request);
    if (this.#session) this.#session.send(request);
    else request.lostAt = performance.now();
  }

  /** To be called by each request's `done`. */
  settled(request: Request): void {
    this.#requests.delete(request);
    if (this.#session) this.#pause.reset();
  }

  /** The server was seen to be gone: there is no need to wait for more. */
  drop(why: string): void {
    const session = this.#session;
    if (!session) return;
    session.end();
    this.#break(new Error(why));
  }

  /** To be called when nothing is under way any more. Resolves when the connection is closed. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer) clearInterval(this.#timer);
    this.#pause.cut();
    this.#abandon();
    await this.#maintenance;
    this.#session?.end();
    await this.#session?.closed(GOODBYE_MS);
  }

  #overdue(since: number): boolean {
    return performance.now() - since >= this.#options.reconnectMs;
  }

  #break({ message }: Error): void {
    this.#session = null;
    if (this.#closed) return;
    const at = performance.now();
    this.#lost = { at, why: message };
    for (const request of this.#requests) request.lostAt ??= at;
    this.#options.log(`${message}; ${this.#requests.size} requests wait for another connection`);
    this.#maintenance = this.#reconnect();
  }

  /** Tries again and again, with pauses, as long as the device is open; at first with a line that is there already. */
  async #reconnect(first: Line | null = null): Promise<void> {
    for (let line = first; !this.#closed; line = null) {
      if (line === null) await this.#pause.wait();
      if (this.#closed || (await this.#resume(line))) return;
    }
  }

  /** Brings a line to where the last one was, another one where there is none yet; false where that fails. */
  async #resume(first: Line | null): Promise<boolean> {
    const { dial, objection, log } = this.#options;
    let session: Session | null = null;
    try {
      const line = first ?? (await dial());
      let lose: (error: Error) => void = () => {};
      const broken = new Promise<never>((_, reject) => {
        lose = reject;
      });
      broken.catch(() => {});
      session = new Session(line, (error) => {
        if (this.#session === session) this.#break(error);
        else lose(error);
      });
      const why = objection(line.exported);
      if (why !== null) throw new Error(why);
      this.#abandon = () => lose(new Error("the disk is closed"));
      await this.#restore(session, broken, lose);
      if (this.#closed) throw new Error("the disk is closed");
      this.#lost = null;
      this.#session = session;
      if (line !== first) log(`connected again; ${this.#requests.size} requests are sent again`);
      for (const request of this.#requests) session.send(request);
      return true;
    } catch (error) {
      session?.end();
      // A server that does not hang up must not cost a descriptor for each attempt.
      void session?.closed(GOODBYE_MS);
      if (this.#lost) this.#lost.why = (error as Error).message;
      return false;
    }
  }

  /** It may take long, but the server must say something now and then. Rejects when the session is broken at its end, too. */
  async #restore(session: Session, broken: Promise<never>, lose: (error: Error) => void): Promise<void> {
    const { restore, reconnectMs } = this.#options;
    const look = (): void => {
      if (session.silence >= reconnectMs)
        lose(new Error("the server does not reply while writes are repeated"));
    };
    const timer = setInterval(look, Math.min(1000, Math.max(reconnectMs / 4, 10)));
    await restore(session, broken).finally(() => clearInterval(timer));
    await Promise.race([broken, null]);
  }

  /** What is due by the clock. */
  #look(): void {
    const { reconnectMs, silenceMs } = this.#options;
    const session = this.#session;
    if (session && session.silence >= silenceMs) {
      this.drop(`no data from the server, which owes a reply, for ${silenceMs / 1000} s`);
    }
    const overdue = [...this.#requests].filter(({ lostAt }) => lostAt !== null && this.#overdue(lostAt));
    if (overdue.length === 0) return;
    this.drop(`no reply to the requests that were sent again`);
    const why = `no answer within ${reconnectMs / 1000} s after the connection was lost: ${this.#lost?.why}`;
    for (const request of overdue) {
      this.#requests.delete(request);
      request.done(constants.errno.EIO, why);
    }
  }
}
