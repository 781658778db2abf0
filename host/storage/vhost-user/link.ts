/**
 * Keeps up the connection to a vhost-user server: dials again when it is lost, brings the new server to where the last one
 * was, and has the queues ask again what was not answered. One that says what it must not say is lost for good.
 */
import { closeSync } from "node:fs";
import { constants } from "node:os";
import type { Outage } from "../device.js";
import { CANNOT_REPEAT, type KeptWrites } from "../kept-writes.js";
import type { Patience } from "../patience.js";
import { RetryPause } from "../retry-pause.js";
import { negotiate, type Offer, share } from "./handshake.js";
import { Queues } from "./queues.js";
import { restore } from "./restore.js";
import type { Session } from "./session.js";
import { Order, type VhostStore } from "./store.js";

/** A timer of Node's has no more; it stands for "never". */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** A server that was connected to, and has been given the shared memory. */
export interface Connection {
  readonly session: Session;
  readonly offer: Offer;
  /** The link's to close. */
  readonly memoryFd: number;
}

export interface LinkOptions {
  readonly first: Connection;
  /** Makes another session, within a bounded time, or rejects. */
  readonly dial: () => Promise<Session>;
  readonly patience: Patience;
  /** What all queues of the disk have in common. */
  readonly store: Omit<ConstructorParameters<typeof Queues>[1], "reconnectMs" | "kept">;
  readonly kept: KeptWrites | null;
  /** Why another connection's disk cannot be used instead of the first one's; null where it can. */
  readonly objection: (offer: Offer) => string | null;
  /** The server says that the disk has another size. */
  readonly onChange: () => void;
  /** The disk is lost, or writes of the guest's are. */
  readonly onLoss: () => void;
  /** A line for the operator. */
  readonly log: (line: string) => void;
}

export class Link {
  readonly queues: Queues;
  readonly #options: LinkOptions;
  readonly #timer: NodeJS.Timeout;
  /** Null while there is no connection. */
  #session: Session | null;
  #outage: { readonly at: number; why: string } | null = null;
  /** Nothing has been answered since the connection was lost at this time, even if there were others since. */
  #lostAt: number | null = null;
  #answers = 0;
  /** It has lasted for too long. */
  #failing = false;
  #lost: string | null = null;
  #closed = false;
  readonly #pause = new RetryPause();
  #maintenance: Promise<void> = Promise.resolve();

  /** Takes the first connection over. */
  constructor(options: LinkOptions) {
    const { first, patience, store, kept } = options;
    const { reconnectMs, silenceMs } = patience;
    this.#options = options;
    const common = { ...store, reconnectMs, kept: kept?.shared ?? null };
    this.queues = new Queues(first.offer.queues, common, first.memoryFd, (why) => this.lose(why));
    this.#session = first.session;
    this.#watch(first.session);
    first.session.milliseconds = this.#silenceMs;
    const interval = Math.min(1000, Math.max(Math.min(reconnectMs, silenceMs) / 4, 10));
    this.#timer = setInterval(() => this.#look(), interval).unref();
  }

  /** Null while there is no connection. */
  get session(): Session | null {
    return this.#session;
  }

  /** Why there will be no connection any more; null otherwise. */
  get lost(): string | null {
    return this.#lost;
  }

  get outage(): Outage | null {
    if (this.#outage === null) return null;
    const { at, why } = this.#outage;
    return { reason: why, since: Math.round(Date.now() - (performance.now() - at)) };
  }

  /** Sets a queue up; it waits where there is no connection. */
  setUp(index: number, here: boolean, bytes: number): Promise<VhostStore> {
    return this.queues.setUp(index, here, bytes, this.#session);
  }

  /** Gives the disk up. */
  lose(why: string): void {
    if (this.#lost !== null || this.#closed) return;
    this.#lost = why;
    this.#outage = null;
    const session = this.#session;
    this.#session = null;
    session?.lose(why);
    this.#options.onLoss();
    this.queues.order(Order.lose);
    this.#pause.cut();
    this.#options.log(`${why}; all I/O fails until the disk is attached again`);
  }

  /** To be called when nothing is under way any more. Resolves when the connection is closed. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    this.queues.stopWaiting();
    this.#pause.cut();
    await this.#maintenance;
    await this.#session?.close();
    this.queues.close();
  }

  /** For the answer to a message of a session that runs; until then it has the dialler's time. */
  get #silenceMs(): number {
    return Math.min(this.#options.patience.silenceMs, LONGEST_TIMER_MS);
  }

  #watch(session: Session): void {
    session.onLost = (why, violated) => {
      if (violated) this.lose(why);
      else if (this.#session === session) this.#break(why);
    };
    session.onChange = this.#options.onChange;
  }

  #break(why: string): void {
    this.#session = null;
    if (this.#closed) return;
    const { queues } = this;
    const answered = queues.answers !== this.#answers;
    if (answered) this.#pause.reset();
    const at = answered || queues.out === 0 || this.#lostAt === null ? performance.now() : this.#lostAt;
    this.#lostAt = at;
    this.#outage = { at, why };
    queues.order(Order.park);
    this.#options.log(`${why}; ${queues.out} requests wait for another connection`);
    const before = this.#maintenance;
    this.#maintenance = before.then(() => this.#reconnect());
  }

  /** Tries again and again, with pauses, as long as there is hope. */
  async #reconnect(): Promise<void> {
    while (!this.#closed && this.#lost === null && this.#session === null) {
      let session: Session | null = null;
      let memoryFd = -1;
      try {
        await this.#pause.wait();
        // Until then writes that were acknowledged may still be added to those that are kept.
        await this.queues.obeyed();
        if (this.#closed || this.#lost !== null) return;
        session = await this.#options.dial();
        memoryFd = await this.#prepare(session);
        if (this.#closed || this.#lost !== null) throw new Error("the disk is closed");
        this.#run(session, memoryFd);
        memoryFd = -1;
      } catch (error) {
        session?.lose((error as Error).message);
        if (this.#outage) this.#outage.why = (error as Error).message;
      } finally {
        if (memoryFd >= 0) closeSync(memoryFd);
      }
    }
  }

  /** Brings a new session to where the last one was; returns its memory. */
  async #prepare(session: Session): Promise<number> {
    const { kept, objection, store, patience } = this.#options;
    let memoryFd = -1;
    this.#watch(session);
    try {
      const offer = await negotiate(session);
      const why = objection(offer);
      if (why !== null) {
        this.lose(why);
        throw new Error(why);
      }
      await share(session, this.queues.count, (fd) => {
        memoryFd = fd;
      });
      const { reconnectMs } = patience;
      const again = { session, memoryFd, kept, store: { ...store, reconnectMs }, bytes: offer.size };
      if (kept && !(await restore({ ...again, kept }))) {
        // What the guest has seen written is gone.
        this.#options.onLoss();
        kept.lose(constants.errno.EIO);
        this.#options.log(CANNOT_REPEAT);
      }
      while (!this.queues.complete(session)) await this.queues.announce(session);
      return memoryFd;
    } catch (error) {
      if (memoryFd >= 0) closeSync(memoryFd);
      throw error;
    }
  }

  #run(session: Session, memoryFd: number): void {
    const { queues } = this;
    session.milliseconds = this.#silenceMs;
    this.#session = session;
    this.#outage = null;
    this.#failing = false;
    this.#answers = queues.answers;
    this.#options.log(`connected again; ${queues.out} requests are sent again`);
    queues.order(Order.run, memoryFd);
  }

  /** What is due by the clock. */
  #look(): void {
    const { reconnectMs, silenceMs } = this.#options.patience;
    if (this.#session && this.queues.silent(silenceMs)) {
      this.#session.lose(`no answer to the requests on a virtqueue for ${silenceMs / 1000} s`);
    }
    const { failureMeans } = this.#options.store;
    if (this.#session && failureMeans !== null && this.queues.cutOff > 0) this.#session.lose(failureMeans);
    const outage = this.#outage;
    if (outage === null || this.#failing || performance.now() - outage.at < reconnectMs) return;
    this.#failing = true;
    this.queues.order(Order.fail);
    this.#options.log(
      `no connection within ${reconnectMs / 1000} s (${outage.why}); I/O fails until the server is there again`,
    );
  }
}
