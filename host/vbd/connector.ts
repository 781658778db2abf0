/** Makes a vbd's connections: opens its store, reads its frontend, and begins the rings, anew or where they were left. */

import { XenbusState as State } from "../platform/xenbus-state.js";
import { RingError } from "../reactor/start.js";
import type { Throttle } from "../reactor/throttle.js";
import { type BlockDevice, Result } from "../storage/device.js";
import { openDisk } from "../storage/disk.js";
import { LostWrites } from "../storage/kept-open.js";
import { Adoption, inheritFlushErrno, type Orphan, objectionTo, openWhenFree } from "./adoption.js";
import { type BackendKeys, type Features, howToOpen } from "./backend-keys.js";
import { Backoff } from "./backoff.js";
import { Connection } from "./connection.js";
import { type AssumedProtocol, readFrontend } from "./frontend.js";
import type { VbdHost } from "./host.js";
import { type Beginning, monotonicMs, type VbdJournals } from "./journals.js";
import type { VbdId } from "./name.js";
import { checkWriters } from "./ownership.js";
import { StoreOpener } from "./store-opener.js";

/** What the vbd does for its connections. */
export interface Listener {
  /** Something may have changed. */
  look(): void;
  /** A line for the operator, of one of few kinds. */
  say(kind: string, line: string): void;
  /** How fast it may be; null: as it likes. */
  throttle(): Throttle | null;
  /** The store does not know how to discard after all. */
  lostDiscard(): void;
}

export class Connector {
  readonly adoption: Adoption;
  readonly #host: VbdHost;
  readonly #id: VbdId;
  /** Backend and frontend directories. */
  readonly #directory: string;
  readonly #frontend: string;
  readonly #listener: Listener;
  readonly #opener: StoreOpener;
  /** Null where none are kept. */
  readonly #journals: VbdJournals | null;
  readonly #assumedProtocol: AssumedProtocol;
  /** Mode and path of the disk that is kept open. */
  #holds: string | null = null;
  /** It was left to others, and was not opened since. */
  #left = false;
  /** Why the disk that is to be kept open cannot be opened. */
  #holdFailure: string | null = null;
  readonly #backoff = new Backoff();
  /** When it is to be tried again, by `performance.now()`. */
  #holdAgainAt = 0;

  constructor(host: VbdHost, id: VbdId, directory: string, frontend: string, listener: Listener) {
    const { xenstore, assumedProtocol = "x86_32-abi" } = host;
    this.#host = host;
    this.#id = id;
    this.#directory = directory;
    this.#frontend = frontend;
    this.#listener = listener;
    this.#opener = new StoreOpener(() => listener.look());
    const journals = host.journals?.of(id) ?? null;
    this.#journals = journals;
    this.#assumedProtocol = assumedProtocol;
    this.adoption = new Adoption({
      xenstore,
      journals,
      domid: id.domid,
      directory,
      frontend,
      assumedProtocol,
    });
  }

  /** The store that is being opened. */
  get opening(): string | null {
    return this.#opener.path;
  }

  /** Settles when a store that was given up is closed; null when it is. */
  get givenUp(): Promise<void> | null {
    return this.#opener.givenUp;
  }

  /** The store that was opened, or is being opened, is not wanted any more. */
  giveUp(): void {
    this.#opener.giveUp();
  }

  /**
   * Keeps the disk open that the toolstack has given to the vbd, also while no frontend is connected. Returns at once; a
   * disk that cannot be opened is tried again at the next call.
   */
  hold(keys: BackendKeys, path: string): void {
    const { hold, xenstore, domid } = this.#host;
    const what = `${keys.mode} ${path}`;
    if (!hold || this.#holds === what) return;
    this.#holds = what;
    const warn = (line: string): void => this.#listener.say("warning", line);
    checkWriters(xenstore, this.#directory, domid)
      .then(() => hold(path, { ...howToOpen(keys), warn }, this.#id))
      .then(
        () => {
          this.#holdFailure = null;
          this.#left = false;
        },
        ({ message }: Error) => {
          if (this.#holds !== what) return;
          this.#holds = null;
          if (message !== this.#holdFailure)
            this.#listener.say("hold", `${message}; trying again every few seconds`);
          this.#holdAgainAt = performance.now() + this.#backoff.next(message === this.#holdFailure);
          this.#holdFailure = message;
        },
      );
  }

  /** Keeps another disk open, while no frontend is connected. Rejects with why it cannot be opened. */
  async holdOther(keys: BackendKeys, path: string): Promise<void> {
    const warn = (line: string): void => this.#listener.say("warning", line);
    // What was kept is closed first.
    this.#holds = this.#holdFailure = null;
    try {
      await this.#host.hold?.(path, { ...howToOpen(keys), warn }, this.#id);
      this.#holds = `${keys.mode} ${path}`;
    } finally {
      this.#listener.look();
    }
  }

  /** The guest is suspended: somebody else may have the disk, until this vbd opens it again. Resolves when it is closed. */
  async leave(): Promise<void> {
    this.adoption.again();
    if (this.#left && this.opening === null && this.#holds === null) return;
    this.#opener.giveUp();
    this.#holds = this.#holdFailure = null;
    this.#left = true;
    await this.givenUp;
    await this.#host.leave?.(this.#id);
  }

  /** Whether {@link hold} is to be called again by now: the disk could not be opened. */
  get holdFailed(): boolean {
    return this.#holdFailure !== null && this.#holds === null && performance.now() >= this.#holdAgainAt;
  }

  /** The vbd is to be without its disk. Resolves when it is closed. */
  async release(): Promise<void> {
    this.#holds = this.#holdFailure = null;
    try {
      await this.#host.release?.(this.#id);
    } catch (error) {
      this.#listener.say("trouble", (error as Error).message);
    }
  }

  /** True once the store is open; begins to open it first. The end of that leads to another look. */
  async ready(keys: BackendKeys, path: string): Promise<boolean> {
    if (this.#opener.isFor(path, keys.mode)) return this.#isReady();
    this.#opener.giveUp();
    const { xenstore, domid, open = openDisk } = this.#host;
    await checkWriters(xenstore, this.#directory, domid);
    const warn = (line: string): void => this.#listener.say("warning", line);
    const { unsettled } = this.adoption;
    const begin = () => open(path, { ...howToOpen(keys), warn, unsettled }, this.#id);
    // A process of ours had it open not long ago.
    const waits = keys.state !== State.InitWait && this.#journals !== null;
    const until = this.#left ? "it is released there" : undefined;
    this.#opener.begin(path, keys.mode, waits ? () => openWhenFree(begin, warn, until) : begin);
    return false;
  }

  #isReady(): boolean {
    try {
      return this.#opener.ready();
    } catch (error) {
      // That will not be better the next time.
      throw error instanceof LostWrites ? new RingError(error.message) : error;
    }
  }

  /** Connects a frontend that has made its rings anew, once the store is {@link ready}. Rejects with why not. */
  async attach(keys: BackendKeys, features: Features): Promise<Connection> {
    const { xenstore } = this.#host;
    const offer = { ...features, backend: this.#directory, assumedProtocol: this.#assumedProtocol };
    const config = await readFrontend(xenstore, this.#frontend, offer);
    const without: Beginning[] = config.queues.map(() => ({ start: "attach", journal: null }));
    const beginnings = this.#journals?.create(await this.adoption.identities(config)) ?? without;
    return this.#open(keys, { features, config, beginnings, ...this.#opener.take() });
  }

  /** Goes on with a frontend that was left connected, once the store is {@link ready}. Rejects with why not. */
  async adopt(keys: BackendKeys, orphan: Orphan, features: Features): Promise<Connection> {
    const { config, beginnings, flushErrno, since } = orphan;
    const { path, device } = this.#opener.take();
    const objection = objectionTo(device, orphan);
    if (objection) {
      await device.close();
      throw objection;
    }
    inheritFlushErrno(device, flushErrno);
    for (const { journal } of beginnings) journal?.unsettle();
    const connection = await this.#open(keys, { features, config, beginnings, path, device });
    if (since > 0) connection.handoverMs = monotonicMs() - since;
    this.adoption.end();
    return connection;
  }

  /** The frontend's rings were released, and are to be gone on with, on this open disk. */
  goOn(path: string, mode: string, device: BlockDevice): void {
    this.#opener.put(path, mode, device);
    this.adoption.again();
  }

  /** The same, on a disk that is being opened. */
  goOnWith(path: string, mode: string, opening: Promise<BlockDevice>): void {
    this.#opener.expect(path, mode, opening);
    this.adoption.again();
  }

  /** Nobody is to go on with rings of this vbd. */
  discardJournals(): void {
    this.#journals?.discard();
  }

  #open(
    keys: BackendKeys,
    what: Pick<
      Parameters<typeof Connection.open>[0],
      "features" | "config" | "beginnings" | "path" | "device"
    >,
  ): Promise<Connection> {
    const { reactor } = this.#host;
    this.#left = false;
    const { look, say, lostDiscard } = this.#listener;
    return Connection.open({
      reactor,
      domid: this.#id.domid,
      keys,
      ...what,
      throttle: this.#listener.throttle(),
      onHalt: (why) => say("halt", `${why}; this ring takes no more`),
      onError: (operation, error, result) => {
        say("error", `${operation} failed: ${error?.message ?? "unknown error"}`);
        if (operation !== "discard" || result !== Result.Unsupported) return;
        lostDiscard();
        look();
      },
    });
  }
}
