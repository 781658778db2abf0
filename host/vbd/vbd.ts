/**
 * One virtual block device: its xenbus state machine (docs/xenbus.md has it as a table).
 *
 * Watches only say that something may have changed. What is to be done follows from a fresh look at all the keys, one
 * look at a time, so that a guest that toggles its state like mad costs one look, not one for every toggle
 * (XSA-349), and never has two connections (XSA-350). A look waits for xenstore and for I/O that is in flight, but not
 * for a store to open.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Xenstore, XenstoreError, type XenstoreWatch } from "../platform/ports.js";
import { parseState, XenbusState as State, type XenbusState } from "../platform/xenbus-state.js";
import type { ObserverKind } from "../reactor/observer.js";
import { RingError } from "../reactor/start.js";
import type { BlockDevice } from "../storage/device.js";
import { DeviceError } from "../storage/open.js";
import { adoptionMessage } from "./adoption.js";
import { Announcement } from "./announcement.js";
import { type BackendKeys, type Features, offerKeys, readBackendKeys } from "./backend-keys.js";
import { type Connection, diskStatus, NOT_CONNECTED } from "./connection.js";
import { Connector } from "./connector.js";
import { attachMessage, connectMessage, detachMessage, openMessage, resizeMessage } from "./diagnostics.js";
import { DiskChanges } from "./disk-changes.js";
import { Failure } from "./failure.js";
import type { VbdHost } from "./host.js";
import { storeOf, type Verdict } from "./hotplug.js";
import { type Kind, kindOf } from "./kind.js";
import { defaultLimits } from "./limit-defaults.js";
import { Looker } from "./looker.js";
import { Migration } from "./migration.js";
import { type VbdId, vbdName } from "./name.js";
import type { Observation } from "./observation.js";
import { strangerIn } from "./ownership.js";
import type { AgedRing } from "./request-ages.js";
import type { Commit, Copied } from "./snapshot.js";
import { type VbdStatus, waitsFor } from "./status.js";
import { oldestOf, type StorageStatus, storageStatus } from "./storage-status.js";
import { type ThrottleChange, Throttling } from "./throttling.js";
import { Totals } from "./totals.js";
import { VbdLog } from "./vbd-log.js";
import { shownDevice } from "./vbd-name.js";
import { writeInState } from "./xenbus.js";

/**
 * How long a vbd waits for a disk to be closed that no connection uses: longer than a helper takes on a busy machine to write
 * back what it keeps, and less than the ten seconds that xl gives us.
 */
const CLOSING_MS = 3000;

export class Vbd {
  readonly id: VbdId;
  readonly name: string;
  /** Backend and frontend directories. */
  readonly directory: string;
  readonly #frontend: string;
  readonly #kind: Kind;
  /** Our directory as xenbus calls it: "backend/vbd/1/51712". */
  readonly #node: string;
  readonly #host: VbdHost;
  /** As they were offered: the host's may change meanwhile. */
  #features: Features;
  readonly #gone: () => void;
  readonly #log: VbdLog;
  readonly #failure: Failure;
  readonly #looker: Looker;
  readonly #connector: Connector;
  readonly #throttling: Throttling;
  readonly #migration: Migration;
  readonly #changes: DiskChanges;
  #watch: XenstoreWatch | null = null;
  /** The guest has died; what is left of it in xenstore is not believed. */
  #dead = false;
  /** Its storage did not answer when it was last asked about. */
  #waiting = false;
  /** As of the last look. */
  #keys: BackendKeys | null = null;
  #state: XenbusState = State.Unknown;
  #frontendState: XenbusState = State.Unknown;
  /** The toolstack's name of the guest. */
  #domainName: string | null = null;
  #store: Verdict | null = null;
  /** The frontend's state was written since the last look. */
  #frontendWrote = false;
  /** Why what the frontend published leads nowhere, until it writes its state again. */
  #refusal: Error | null = null;
  /** Why the last takeover failed, and what was said of it: it is tried again and again. */
  #takeoverFailure: string | null = null;
  #saidTakeover: string | null = null;
  #connection: Connection | null = null;
  #announcement: Announcement | null = null;
  /** Of connections that have ended. */
  #past = new Totals();

  /**
   * `look` is to be called first, and for every change in the backend directory. `gone` is called when there is no
   * such directory and everything is let go.
   */
  constructor(host: VbdHost, kind: string, id: VbdId, gone: () => void) {
    this.#host = host;
    this.#features = { ...host.features };
    this.id = id;
    this.name = vbdName(id);
    this.#kind = kindOf(kind);
    this.#node = `backend/${kind}/${id.domid}/${id.devid}`;
    this.directory = `/local/domain/${host.domid}/${this.#node}`;
    this.#frontend = `/local/domain/${id.domid}/device/vbd/${id.devid}`;
    this.#throttling = new Throttling(host.xenstore, this.directory);
    this.#gone = gone;
    this.#log = new VbdLog(id, host.log, host.tell);
    this.#failure = new Failure(host.xenstore, host.domid, this.#node);
    this.#connector = new Connector(host, id, this.directory, this.#frontend, {
      look: () => this.look(),
      say: (kind, line) => this.#log.say(kind, line),
      throttle: () => this.#throttling.throttle,
      lostDiscard: () => this.#announcement?.loseDiscard(),
    });
    this.#migration = new Migration(host, id, (kind, line) => this.#log.say(kind, line));
    this.#changes = new DiskChanges({
      ...{ host, id, kind: this.#kind, directory: this.directory, connector: this.#connector },
      connection: () => this.#connection,
      say: (kind, line) => this.#log.say(kind, line),
      look: () => this.look(),
      release: async (connection) => {
        connection.handOver();
        await this.#release(connection);
      },
    });
    this.#looker = new Looker(
      () => this.#reconcile(),
      // xenstore would not let us read or say something. What is connected stays so.
      (trouble, again) =>
        again || trouble === this.#saidTakeover || this.#log.say("trouble", `${trouble}; trying again`),
      () => this.#idle(),
    );
  }

  status(): VbdStatus {
    const totals = this.#past.copy();
    this.#connection?.addTo(totals);
    const oldestSeconds = oldestOf(this.rings());
    const device = this.#device;
    const facts = {
      state: this.#state,
      frontendState: this.#frontendState,
      online: this.#keys?.online ?? false,
      error: this.#looker.trouble ?? this.#takeoverFailure ?? this.#failure.message,
    };
    return {
      name: this.name,
      kind: this.#kind.name,
      ...this.id,
      domainName: this.#domainName,
      vdev: shownDevice(this.id.devid),
      ...facts,
      hotplugStatus: this.#keys?.hotplugStatus ?? null,
      waitsFor:
        this.#migration.waitsFor ??
        waitsFor({
          ...facts,
          connected: this.connected,
          dead: this.#dead,
          paused: this.#throttling.status.paused,
          hotplug: this.#store && "waits" in this.#store ? this.#store.waits : null,
          opening: this.#connector.opening,
        }),
      lastError: this.#log.lastError,
      storage: this.#storageStatus(oldestSeconds),
      imageState: device === null ? null : "ok",
      imageKept: false,
      ...(device && this.#host.image?.(this.id)),
      oldestSeconds,
      ...(this.#connection?.status ?? { ...NOT_CONNECTED, ...(device && diskStatus(device)) }),
      ...this.#throttling.status,
      counters: totals.counters,
      latency: totals.latency,
    };
  }

  get #device(): BlockDevice | null {
    return this.#connection?.device ?? this.#host.held?.(this.id) ?? null;
  }

  #storageStatus(oldestSeconds: number | null): StorageStatus {
    const outage = this.#host.outage?.(this.id) ?? null;
    return storageStatus(this.#device, this.#connector.opening, oldestSeconds, outage);
  }

  /** Tells whoever wants to know when its storage ceases to answer, and when it answers again. To be called now and then. */
  watchStorage(): void {
    const { state, reason } = this.#storageStatus(oldestOf(this.rings()));
    const waiting = state === "waiting";
    if (waiting === this.#waiting) return;
    this.#waiting = waiting;
    this.#log.tell(waiting ? "waiting" : "answering", reason ?? "the storage answers again");
  }

  /** Whether a frontend is at work. */
  get connected(): boolean {
    return this.#connection !== null;
  }

  /** Something may have changed. Returns at once. */
  look(): void {
    this.#looker.look();
  }

  /** The guest has died: its disk is let go without waiting for the toolstack. */
  domainDied(): void {
    this.#dead = true;
    this.look();
  }

  /** See {@link Connection.rings}; none without a connection. */
  rings(): AgedRing[] {
    return this.#connection?.rings() ?? [];
  }

  /** See {@link Connection.observe}. */
  async observe(kind: ObserverKind, ring?: number): Promise<readonly Observation[]> {
    if (!this.#connection)
      throw new Error(`${this.name} is not connected: a ${kind} needs a connected guest`);
    return this.#connection.observe(kind, ring);
  }

  /** Limits or pauses it, from now on. Resolves when its rings keep to it. */
  throttle(change: ThrottleChange): Promise<void> {
    return this.#throttling.set(change, this.#connection);
  }

  /** Looks whether the store has another size or has lost a capability, or can be opened by now. */
  async checkStore(): Promise<void> {
    if (this.#connector.holdFailed) this.look();
    if (await this.#announcement?.check()) this.look();
  }

  /** As {@link checkStore}, but tells the frontend in any case. Resolves with the size in bytes; rejects with why not. */
  async resize(): Promise<number> {
    const announcement = this.#announcement;
    if (!announcement) throw new Error(`${this.name} is not connected; its size is read when it connects`);
    await announcement.ask();
    this.look();
    await this.#looked();
    return announcement.size;
  }

  /** See {@link DiskChanges.change}. */
  async change(target: string): Promise<void> {
    await this.#changes.change(target, this.#keys, this.#store, this.#connection);
    await this.#looked();
  }

  /** See {@link DiskChanges.snapshot}. Resolves with the disk's target from now on. */
  async snapshot(overlay: string): Promise<string> {
    const target = await this.#changes.snapshot(overlay, this.#keys, this.#store);
    await this.#looked();
    return target;
  }

  /** See {@link DiskChanges.commit}. Resolves with the disk's target from now on, and the overlay that is not used any more. */
  async commit(
    signal: AbortSignal,
    progress: (copied: Copied) => void,
  ): Promise<Pick<Commit, "target" | "overlay">> {
    const done = await this.#changes.commit(this.#keys, this.#store, signal, progress);
    await this.#looked();
    return done;
  }

  /** Throws what the last look has met with. */
  async #looked(): Promise<void> {
    await this.#looker.settled();
    if (this.#looker.trouble !== null) throw new Error(`${this.name}: ${this.#looker.trouble}`);
  }

  /** Lets go of everything without a word to xenstore: the guest waits for another process to go on. */
  async stop(): Promise<void> {
    this.#looker.stop();
    await this.#looker.settled();
    this.#connection?.handOver();
    await this.#leave(true);
    const { givenUp } = this.#connector;
    if (givenUp !== null) await within(givenUp);
  }

  /** A store that is still to be let go could be in the way of this vbd's next life. */
  #idle(): void {
    const gone = this.#keys?.state === State.Unknown && this.#looker.trouble === null;
    if (!gone || this.#connector.givenUp !== null) return;
    this.#looker.stop();
    this.#gone();
  }

  async #reconcile(): Promise<void> {
    const { xenstore } = this.#host;
    const keys = await readBackendKeys(xenstore, this.directory);
    this.#keys = keys;
    this.#state = keys.state;
    if (keys.state === State.Unknown) return this.#forget();
    if (!this.#watch) {
      this.#watch = await xenstore.watch(`${this.#frontend}/state`, () => {
        this.#frontendWrote = true;
        this.look();
      });
      // Its first event, which always comes, leads on from here.
      return;
    }
    if (this.#frontendWrote) this.#refusal = null;
    this.#frontendWrote = false;
    await this.#throttling.recall();
    const closing = !keys.online && keys.state >= State.Closing;
    await this.#throttling.setClosing(closing, this.#connection);
    this.#domainName = await readable(xenstore, `/local/domain/${this.id.domid}/name`);
    const frontendState = `${this.#frontend}/state`;
    // A driver domain may no longer read a frontend that the toolstack has removed: then it is not a fault of xenstore.
    const read = closing ? readable(xenstore, frontendState) : xenstore.read(frontendState);
    this.#frontendState = parseState(await read);
    const stranger = strangerIn(keys, this.id.domid, this.#frontend, this.directory);
    const objection = stranger ?? this.#unservable(keys);
    if (objection) return this.#refuse(objection);
    this.#takeDefaultLimits();
    if (keys.state === State.Initialising) return this.#offer();
    return this.#serve(keys, closing);
  }

  async #serve(keys: BackendKeys, closing: boolean): Promise<void> {
    if (this.#dead) return this.#close();
    // Nobody would answer to a Closing, and there may be an owner elsewhere by now.
    if (await this.#migration.wanted()) return closing ? this.#close() : this.#leaveDisk(keys);
    this.#keepDisk(keys);
    if (this.#refusal) return this.#refuse(this.#refusal);
    if (await this.#connector.adoption.pends(keys.state, this.#frontendState)) return this.#takeOver(keys);
    if (
      this.#connection &&
      keys.state === State.Connected &&
      (await this.#changes.carryOut(keys, this.#store, this.#connection))
    )
      return;
    await this.#announce(keys);
    return this.#follow(keys);
  }

  /** What the frontend's state asks of us. */
  async #follow(keys: BackendKeys): Promise<void> {
    switch (this.#frontendState) {
      case State.Initialising:
        return this.#frontendStarts(keys);
      case State.InitWait:
        return this.#closeIfAsked(keys);
      case State.Initialised:
      case State.Connected:
        return this.#frontendReady(keys);
      case State.Closing:
        // I/O goes on: Linux says Closing, too, while the disk is still mounted.
        if (keys.state < State.Closing) await this.#switch(State.Closing);
        else if (!keys.online) await this.#closeIfAsked(keys);
        return;
      case State.Closed:
        return this.#close();
      default:
        // No frontend: not there yet, or gone. Nobody would answer to a Closing.
        if (keys.state !== State.InitWait || !keys.online) await this.#close();
    }
  }

  /**
   * Looks at what the toolstack and its script say of the store. An Error when it will never do; what a script refused
   * is said once: libxl reads it for itself, and removes the disk.
   */
  #unservable(keys: BackendKeys): Error | null {
    const before = this.#store;
    const store = storeOf(this.#kind, keys);
    this.#store = store;
    if ("error" in store) return this.#connection ? null : store.error;
    const same = before !== null && "waits" in before && "waits" in store && before.waits === store.waits;
    if ("waits" in store && store.refused && !same && !this.#host.told?.(this.id, store.waits))
      this.#log.say("hotplug", `waits for ${store.waits}`);
    return null;
  }

  /** What the toolstack has given to the vbd is its own until it is removed, connected or not. */
  #keepDisk(keys: BackendKeys): void {
    if (!keys.online && keys.state >= State.Closing) return;
    const idle = keys.state === State.InitWait || keys.state === State.Closed;
    if (idle && !this.#connection && this.#store && "path" in this.#store)
      this.#connector.hold(keys, this.#store.path);
  }

  /** A connection keeps the limits with which it began. */
  #takeDefaultLimits(): void {
    if (this.#connection) return;
    const target = this.#store && "path" in this.#store ? this.#store.path : null;
    const limits = this.#host.limits?.(this.#domainName, target);
    this.#throttling.setDefault(limits ?? defaultLimits({ guestLimit: [] }, this.#domainName, target));
  }

  /** State 1: say what we can do, then wait for the frontend and for the hotplug script. */
  async #offer(): Promise<void> {
    // Left over if the directory was removed and made anew between two looks, perhaps for another guest.
    await this.#disconnect();
    await this.#failure.clear();
    this.#refusal = null;
    this.#dead = false;
    void this.#connector.release();
    this.#past = new Totals();
    this.#features = { ...this.#host.features };
    this.#throttling.forget();
    await this.#throttling.recall();
    await this.#switch(State.InitWait, offerKeys(this.#features));
  }

  async #frontendStarts(keys: BackendKeys): Promise<void> {
    // A frontend that starts anew without having closed (a crashed kernel's kexec) has forgotten its rings.
    await this.#disconnect();
    if (keys.state === State.Closing) await this.#close();
    else if (keys.state === State.Closed ? keys.online : keys.state !== State.InitWait) {
      await this.#switch(State.InitWait);
    }
  }

  async #frontendReady(keys: BackendKeys): Promise<void> {
    if (keys.state === State.Closing) return this.#closeIfAsked(keys);
    if (this.#connection) return;
    if (keys.state === State.Closed) {
      if (keys.online) await this.#switch(State.InitWait);
      return;
    }
    // State 2 is held until the toolstack's script has said that the device is there.
    if (this.#store && "path" in this.#store) await this.#connect(keys, this.#store.path);
  }

  /**
   * The toolstack wants the device closed (it wrote our state 5). A frontend that is at work closes first, when it
   * sees our 5; one that is not will never answer.
   */
  async #closeIfAsked(keys: BackendKeys): Promise<void> {
    if (keys.state === State.Closing && !this.#connection) await this.#close();
  }

  /** Lets go of the guest and the store, and says so. */
  async #close(): Promise<void> {
    await this.#disconnect();
    // A disk that is removed is for others to use as soon as this is said, unless its storage hangs.
    if (this.#dead || this.#keys?.online === false) await within(this.#connector.release());
    if (this.#state !== State.Closed) await this.#switch(State.Closed);
  }

  /** A frontend that another process left connected. Whatever is not damage is tried again, and the guest waits. */
  async #takeOver(keys: BackendKeys): Promise<void> {
    if ((await this.#host.xenstore.isDomainIntroduced(this.id.domid)) === false) {
      this.#dead = true;
      return this.#close();
    }
    const store = this.#store as Verdict;
    if (!("path" in store))
      throw new Error("waits" in store ? `waits for ${store.waits}` : store.error.message);
    try {
      if (!(await this.#connector.ready(keys, store.path))) return;
      const orphan = this.#connector.adoption.take();
      this.#connection = await this.#connector.adopt(keys, orphan, this.#features);
      await this.#throttling.begin(this.#connection);
      this.#announcement = new Announcement(this.#connection, keys, this.#features, orphan.told);
      this.#sayConnected(this.#connection);
      if (!this.#changes.tell(this.#connection))
        this.#log.say("adoption", adoptionMessage(orphan, this.#connection.handoverMs));
    } catch (error) {
      this.#connector.giveUp();
      if (error instanceof RingError) return this.#refuse(error);
      const { message } = error as Error;
      this.#saidTakeover = message === this.#takeoverFailure ? message : null;
      this.#takeoverFailure = message;
      throw error;
    }
    this.#takeoverFailure = null;
    // What has changed meanwhile is to be told.
    this.look();
  }

  /** The guest is suspended: it may go on elsewhere, with its disk. */
  async #leaveDisk(keys: BackendKeys): Promise<void> {
    const connection = this.#connection;
    if (connection) {
      connection.handOver();
      if (!(await this.#release(connection, true))) {
        this.#migration.stay(connection.device.name);
        this.#connector.goOn(connection.path, keys.mode, connection.device);
        return this.look();
      }
    }
    await this.#changes.drop();
    await this.#connector.leave();
    this.#migration.left(connection?.device.name ?? null);
  }

  async #connect(keys: BackendKeys, path: string): Promise<void> {
    try {
      if (!(await this.#connector.ready(keys, path))) return;
      this.#connection = await this.#connector.attach(keys, this.#features);
      await this.#throttling.begin(this.#connection);
    } catch (error) {
      // A read that xenstore refused is tried again; all else is the guest's or the store's.
      if (error instanceof XenstoreError) throw error;
      if (error instanceof DeviceError) {
        this.#log.diagnose("open", openMessage(this.#node, this.id.devid, error.errno));
      }
      return this.#refuse(error as Error);
    }
    if (!this.#looker.stopped) await this.#tellConnected(keys, this.#connection);
  }

  async #tellConnected(keys: BackendKeys, connection: Connection): Promise<void> {
    const announcement = new Announcement(connection, keys, this.#features);
    let told = false;
    try {
      told = await this.#switch(State.Connected, announcement.keys);
    } finally {
      // The toolstack has other plans, or xenstore did not let us: the frontend knows nothing of it yet.
      if (!told) await this.#disconnect();
    }
    if (!told) return;
    this.#announcement = announcement;
    this.#sayConnected(connection);
    await this.#failure.clear();
  }

  #sayConnected({ device, config, ports }: Connection): void {
    const { domid, devid } = this.id;
    if (config.assumed) {
      this.#log.say("protocol", `the frontend names no protocol; ${config.protocol} is assumed`);
    }
    this.#log.diagnose("attach", attachMessage(device.name, device.size, domid));
    for (const [queue, port] of ports.entries()) {
      this.#log.diagnose(`connect ${queue}`, connectMessage(devid, domid, port, config.protocol));
    }
  }

  /** Tells a frontend at work what has changed of its disk. */
  async #announce(keys: BackendKeys): Promise<void> {
    const announcement = this.#announcement;
    if (!announcement || keys.state !== State.Connected) return;
    // xapi's way to ask. Nobody waits here for a store to answer.
    if (keys.resizeDevice && !announcement.asked) void announcement.ask().then(() => this.look());
    const before = announcement.size;
    await announcement.tell(this.#host.xenstore, this.directory);
    if (announcement.size !== before) this.#log.say("resize", resizeMessage(before, announcement.size));
  }

  /**
   * Waits for what is in flight, then lets go of rings, event channels, grants and the store, and of the journals, unless
   * another process is to go on.
   */
  async #disconnect(handOver = false): Promise<void> {
    this.#migration.end();
    this.#connector.giveUp();
    this.#connector.adoption.end();
    if (this.#connection) await this.#release(this.#connection);
    await this.#changes.drop();
    this.#takeoverFailure = null;
    if (!handOver) this.#connector.discardJournals();
  }

  /** False where all was to be flushed before, and was not: then the disk is still open. */
  async #release(connection: Connection, flushed = false): Promise<boolean> {
    const { released, trouble } = await (flushed ? connection.closeFlushed() : connection.close());
    if (trouble) this.#log.say("trouble", trouble.message);
    connection.addTo(this.#past);
    this.#connection = null;
    this.#announcement = null;
    this.#log.diagnose("detach", detachMessage(connection.device.name, this.id.domid));
    return released;
  }

  /**
   * It cannot work like this: says why, to the operator and in xenstore, and closes. Nothing is tried again before the
   * frontend writes its state, or the two would go round and round.
   */
  async #refuse(error: Error): Promise<void> {
    this.#refusal = error;
    await this.#disconnect();
    if (this.#state === State.Closed) return;
    if (this.#state === State.Closing) return this.#close();
    this.#log.say("refusal", error.message);
    await this.#failure.report(error).catch((refusal: Error) => this.#log.say("trouble", refusal.message));
    await this.#switch(State.Closing);
  }

  /** The directory is gone. It may come back before we have finished. */
  async #forget(): Promise<void> {
    await this.#leave();
    void this.#connector.release();
    this.#throttling.forget();
    this.#refusal = null;
    this.#dead = false;
    await this.#failure.clear();
  }

  async #leave(handOver = false): Promise<void> {
    this.#looker.dropRetry();
    await this.#disconnect(handOver);
    const watch = this.#watch;
    this.#watch = null;
    await watch?.remove();
    this.#log.flush();
  }

  /** Another look follows in any case: at what comes next, or at what came between. */
  async #switch(state: XenbusState, keys: Readonly<Record<string, string>> = {}): Promise<boolean> {
    const all = { ...keys, state: String(state) };
    const switched = await writeInState(this.#host.xenstore, this.directory, this.#state, all);
    if (switched) this.#state = state;
    this.look();
    return switched;
  }
}

/** Resolves when the disk is closed, or takes too long for that. */
async function within(closed: Promise<void>): Promise<void> {
  await Promise.race([closed, sleep(CLOSING_MS, undefined, { ref: false })]);
}

/** A key that a driver domain may not be allowed to read; null then. */
async function readable(xenstore: Xenstore, path: string): Promise<string | null> {
  try {
    return await xenstore.read(path);
  } catch (error) {
    if (error instanceof XenstoreError && error.code === "EACCES") return null;
    throw error;
  }
}
