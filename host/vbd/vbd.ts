/**
 * One virtual block device: its xenbus state machine.
 *
 * Watches only say that something may have changed. What is to be done follows from a fresh look at all the keys, one
 * look at a time, so that a guest that toggles its state like mad costs one look, not one for every toggle
 * (XSA-349), and never has two connections (XSA-350).
 */
import { addCounters, type Counters, noCounters } from "../core/blkif.js";
import { type Xenstore, XenstoreError, type XenstoreWatch } from "../platform/ports.js";
import { parseState, XenbusState as State, type XenbusState } from "../platform/xenbus-state.js";
import type { RingHost } from "../reactor/ring-host.js";
import type { BlockDevice } from "../storage/device.js";
import { DeviceError, type OpenOptions, openDevice } from "../storage/open.js";
import {
  type BackendKeys,
  deviceKeys,
  type Features,
  offerKeys,
  parseMode,
  readBackendKeys,
} from "./backend-keys.js";
import { Connection, type ConnectionStatus, NOT_CONNECTED } from "./connection.js";
import {
  attachMessage,
  connectMessage,
  detachMessage,
  openMessage,
  PacedLog,
  printable,
  quote,
} from "./diagnostics.js";
import { readFrontend } from "./frontend.js";
import { type VbdId, vbdName } from "./name.js";
import { switchState } from "./xenbus.js";

/** What a vbd needs of the daemon. */
export interface VbdHost {
  readonly xenstore: Xenstore;
  readonly reactor: RingHost;
  readonly features: Features;
  /** Our own domid. */
  readonly domid: number;
  /** A line for the operator. */
  readonly log: (line: string) => void;
  /** Opens a store; {@link openDevice} where it is left out. */
  readonly open?: (path: string, options: OpenOptions) => Promise<BlockDevice>;
}

/** What is worth knowing about a vbd at one moment. */
export interface VbdStatus extends ConnectionStatus {
  readonly name: string;
  readonly domid: number;
  readonly devid: number;
  readonly state: XenbusState;
  readonly frontendState: XenbusState;
  readonly error: string | null;
  readonly counters: Counters;
}

/** errno of a failure that is not a system call's. */
const EINVAL = 22;
/** After xenstore has refused something. */
const RETRY_MS = 1000;

export class Vbd {
  readonly id: VbdId;
  readonly name: string;
  /** Backend and frontend directories. */
  readonly directory: string;
  readonly #frontend: string;
  /** Our directory as xenbus calls it: "backend/vbd/1/51712". */
  readonly #node: string;
  readonly #host: VbdHost;
  readonly #gone: () => void;
  readonly #log: PacedLog;
  #watch: XenstoreWatch | null = null;
  #dirty = false;
  #looking: Promise<void> | null = null;
  #retry: NodeJS.Timeout | null = null;
  #stopped = false;
  /** The backend directory is not there. */
  #absent = false;
  /** The frontend's state was written since the last look. */
  #frontendWrote = false;
  /** Why what the frontend published leads nowhere, until it writes its state again. */
  #refusal: Error | null = null;
  #connection: Connection | null = null;
  #state: XenbusState = State.Unknown;
  #frontendState: XenbusState = State.Unknown;
  /** Why there is no connection; it is in xenstore, too. */
  #error: string | null = null;
  /** Why xenstore cannot be read or written at the moment. */
  #trouble: string | null = null;
  /** Of connections that have ended. */
  readonly #past = noCounters();

  /**
   * `look` is to be called first, and for every change in the backend directory. `gone` is called when there is no
   * such directory and everything is let go.
   */
  constructor(host: VbdHost, kind: string, id: VbdId, gone: () => void) {
    this.#host = host;
    this.id = id;
    this.name = vbdName(id);
    this.#node = `backend/${kind}/${id.domid}/${id.devid}`;
    this.directory = `/local/domain/${host.domid}/${this.#node}`;
    this.#frontend = `/local/domain/${id.domid}/device/vbd/${id.devid}`;
    this.#gone = gone;
    this.#log = new PacedLog(host.log);
  }

  status(): VbdStatus {
    const counters = noCounters();
    addCounters(counters, this.#past);
    this.#connection?.addCountersTo(counters);
    return {
      name: this.name,
      ...this.id,
      state: this.#state,
      frontendState: this.#frontendState,
      ...(this.#connection?.status ?? NOT_CONNECTED),
      error: this.#trouble ?? this.#error,
      counters,
    };
  }

  /** Something may have changed. Returns at once. */
  look(): void {
    if (this.#stopped) return;
    this.#dirty = true;
    this.#looking ??= this.#lookWhileDirty();
  }

  /** Lets go of everything without a word to xenstore. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#looking;
    await this.#leave();
  }

  async #lookWhileDirty(): Promise<void> {
    while (this.#dirty && !this.#stopped) {
      this.#dirty = false;
      try {
        await this.#reconcile();
        this.#trouble = null;
      } catch (error) {
        // xenstore would not let us read or say something. What is connected stays so.
        this.#trouble = (error as Error).message;
        this.#say("trouble", `${this.#trouble}; trying again`);
        this.#lookLater();
      }
    }
    this.#looking = null;
    if (!this.#absent || this.#stopped) return;
    this.#stopped = true;
    this.#dropRetry();
    this.#gone();
  }

  #lookLater(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = null;
      this.look();
    }, RETRY_MS).unref();
  }

  #dropRetry(): void {
    if (this.#retry) clearTimeout(this.#retry);
    this.#retry = null;
  }

  async #reconcile(): Promise<void> {
    const { xenstore } = this.#host;
    const keys = await readBackendKeys(xenstore, this.directory);
    this.#state = keys.state;
    this.#absent = keys.state === State.Unknown;
    if (this.#absent) return this.#forget();
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
    this.#frontendState = parseState(await xenstore.read(`${this.#frontend}/state`));
    const stranger = this.#strangerIn(keys);
    if (stranger) return this.#refuse(new Error(stranger));
    if (keys.state === State.Initialising) return this.#offer();
    if (this.#refusal) return this.#refuse(this.#refusal);
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
        return;
      case State.Closed:
        return this.#close();
      default:
        // No frontend: not there yet, or gone. Nobody would answer to a Closing.
        if (this.#connection || keys.state === State.Closing || !keys.online) await this.#close();
    }
  }

  /** What the directory says must agree with where it is (XSA-175): a mistake of the toolstack, or an attack. */
  #strangerIn({ frontendId, frontend }: BackendKeys): string | null {
    if (frontendId === String(this.id.domid) && frontend === this.#frontend) return null;
    const claim = `frontend-id ${quote(frontendId ?? "")} and frontend ${quote(frontend ?? "")}`;
    return `${claim} do not belong to ${this.directory}`;
  }

  /** State 1: say what we can do, then wait for the frontend and for the hotplug script. */
  async #offer(): Promise<void> {
    // Left over if the directory was removed and made anew between two looks.
    await this.#disconnect();
    this.#refusal = null;
    await this.#switch(State.InitWait, offerKeys(this.#host.features));
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
    if (keys.hotplugStatus === "connected" && keys.devicePath !== null) {
      await this.#connect(keys, keys.devicePath);
    }
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
    if (this.#state !== State.Closed) await this.#switch(State.Closed);
  }

  async #connect(keys: BackendKeys, path: string): Promise<void> {
    try {
      this.#connection = await this.#openConnection(keys, path);
    } catch (error) {
      // A read that xenstore refused is tried again; all else is the guest's or the store's.
      if (error instanceof XenstoreError) throw error;
      return this.#refuse(error as Error);
    }
    if (this.#stopped) return;
    const { device, config, ports } = this.#connection;
    let told = false;
    try {
      told = await this.#switch(State.Connected, deviceKeys(device, keys, this.#host.features));
    } finally {
      // The toolstack has other plans, or xenstore did not let us: the frontend knows nothing of it yet.
      if (!told) await this.#disconnect();
    }
    if (!told) return;
    const { domid, devid } = this.id;
    this.#log.say("attach", attachMessage(path, device.size, domid));
    for (const [queue, port] of ports.entries()) {
      this.#log.say(`connect ${queue}`, connectMessage(devid, domid, port, config.protocol));
    }
    await this.#clearError();
  }

  async #openConnection(keys: BackendKeys, path: string): Promise<Connection> {
    const { xenstore, features, reactor } = this.#host;
    const config = await readFrontend(xenstore, this.#frontend, features);
    const device = await this.#open(keys, path);
    return Connection.open({
      reactor,
      features,
      domid: this.id.domid,
      keys,
      config,
      device,
      onHalt: (why) => this.#say("halt", `${why}; this ring takes no more`),
      onError: (operation, error) =>
        this.#say("error", `${operation} failed: ${error?.message ?? "unknown error"}`),
    });
  }

  async #open(keys: BackendKeys, path: string): Promise<BlockDevice> {
    const { open = openDevice } = this.#host;
    const options = { ...parseMode(keys.mode), warn: (line: string) => this.#say("warning", line) };
    try {
      return await open(path, options);
    } catch (error) {
      if (error instanceof DeviceError) {
        this.#log.say("open", openMessage(this.#node, this.id.devid, error.errno));
      }
      throw error;
    }
  }

  /** Waits for what is in flight, then lets go of rings, event channels, grants and the store. */
  async #disconnect(): Promise<void> {
    const connection = this.#connection;
    if (!connection) return;
    try {
      await connection.close();
    } catch (error) {
      this.#say("trouble", (error as Error).message);
    }
    connection.addCountersTo(this.#past);
    this.#connection = null;
    this.#log.say("detach", detachMessage(connection.device.name, this.id.domid));
  }

  /**
   * It cannot work like this: says why, to the operator and in xenstore (xenbus_dev_fatal), and closes. Nothing is
   * tried again before the frontend writes its state, or the two would go round and round.
   */
  async #refuse(error: Error): Promise<void> {
    this.#refusal = error;
    await this.#disconnect();
    if (this.#state === State.Closed) return;
    if (this.#state === State.Closing) return this.#close();
    this.#error = error.message;
    this.#say("refusal", error.message);
    const errno = error instanceof DeviceError ? error.errno : EINVAL;
    await this.#host.xenstore
      .write(`${this.#errorNode()}/error`, `${errno} ${printable(error.message)}`)
      .catch((refusal: Error) => this.#say("trouble", refusal.message));
    await this.#switch(State.Closing);
  }

  #errorNode(): string {
    return `/local/domain/${this.#host.domid}/error/${this.#node}`;
  }

  async #clearError(): Promise<void> {
    if (this.#error === null) return;
    await this.#host.xenstore.remove(this.#errorNode());
    this.#error = null;
  }

  /** The directory is gone. It may come back before we have finished. */
  async #forget(): Promise<void> {
    await this.#leave();
    this.#refusal = null;
    await this.#clearError();
  }

  async #leave(): Promise<void> {
    this.#dropRetry();
    await this.#disconnect();
    const watch = this.#watch;
    this.#watch = null;
    await watch?.remove();
    this.#log.flush();
  }

  /** Another look follows in any case: at what comes next, or at what came between. */
  async #switch(state: XenbusState, keys: Record<string, string> = {}): Promise<boolean> {
    const { xenstore } = this.#host;
    const switched = await switchState(xenstore, this.directory, this.#state, state, keys);
    if (switched) this.#state = state;
    this.look();
    return switched;
  }

  #say(kind: string, line: string): void {
    this.#log.say(kind, `${this.name}: ${line}`);
  }
}
