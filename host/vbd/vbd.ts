/**
 * One virtual block device: its xenbus state machine, its open store and its rings.
 *
 * Watches only say that something may have changed. What is to be done follows from a fresh look at all the keys, one
 * look at a time, so that a guest that toggles its state like mad costs one look, not one for every toggle
 * (XSA-349), and never has two connections (XSA-350).
 */
import * as abi from "../../assembly/abi.js";
import { addCounters, type Counters, noCounters } from "../core/blkif.js";
import type { Xenstore, XenstoreWatch } from "../platform/ports.js";
import type { AttachedRing, Reactor } from "../reactor/reactor.js";
import type { BlockDevice } from "../storage/device.js";
import { DeviceError, openDevice } from "../storage/open.js";
import {
  type BackendKeys,
  canDiscard,
  deviceKeys,
  type Features,
  isReadOnly,
  offerKeys,
  readBackendKeys,
} from "./backend-keys.js";
import { attachMessage, connectMessage, detachMessage, openMessage } from "./diagnostics.js";
import { type FrontendConfig, readFrontend } from "./frontend.js";
import { type VbdId, vbdName } from "./name.js";
import { parseState, publish, XenbusState as State, switchState, type XenbusState } from "./xenbus.js";

/** What a vbd needs of the daemon. */
export interface VbdHost {
  readonly xenstore: Xenstore;
  readonly reactor: Reactor;
  readonly features: Features;
  /** Our own domid. */
  readonly domid: number;
  /** A line for the operator. */
  readonly log: (line: string) => void;
}

/** What is worth knowing about a vbd at one moment. */
export interface VbdStatus {
  readonly name: string;
  readonly domid: number;
  readonly devid: number;
  readonly state: XenbusState;
  readonly frontendState: XenbusState;
  readonly device: string | null;
  /** Bytes. */
  readonly size: number;
  readonly protocol: string | null;
  readonly queues: number;
  readonly ringPages: number;
  readonly persistent: boolean;
  readonly inflight: number;
  readonly error: string | null;
  readonly counters: Counters;
}

interface Connection {
  readonly config: FrontendConfig;
  readonly rings: readonly AttachedRing[];
}

export class Vbd {
  readonly id: VbdId;
  readonly name: string;
  /** Backend and frontend directories. */
  readonly directory: string;
  readonly #frontend: string;
  readonly #host: VbdHost;
  readonly #gone: () => void;
  #watches: XenstoreWatch[] = [];
  #dirty = false;
  #looking = false;
  #ended = false;
  #device: BlockDevice | null = null;
  #connection: Connection | null = null;
  #state: XenbusState = State.Unknown;
  #frontendState: XenbusState = State.Unknown;
  #error: string | null = null;
  /** Of connections that have ended. */
  readonly #past = noCounters();

  /** `gone` is called once, when the backend directory has been removed and everything is let go. */
  constructor(host: VbdHost, kind: string, id: VbdId, gone: () => void) {
    this.#host = host;
    this.id = id;
    this.name = vbdName(id);
    this.directory = `/local/domain/${host.domid}/backend/${kind}/${id.domid}/${id.devid}`;
    this.#frontend = `/local/domain/${id.domid}/device/vbd/${id.devid}`;
    this.#gone = gone;
  }

  async start(): Promise<void> {
    this.#watches.push(await this.#host.xenstore.watch(`${this.#frontend}/state`, () => this.look()));
    this.look();
  }

  status(): VbdStatus {
    const counters = noCounters();
    addCounters(counters, this.#past);
    const rings = this.#connection?.rings ?? [];
    for (const { ring } of rings) addCounters(counters, ring.counters());
    return {
      name: this.name,
      ...this.id,
      state: this.#state,
      frontendState: this.#frontendState,
      device: this.#device?.name ?? null,
      size: this.#device?.size ?? 0,
      protocol: this.#connection?.config.protocol ?? null,
      queues: rings.length,
      ringPages: this.#connection?.config.ringPages ?? 0,
      persistent: this.#connection?.config.persistent ?? false,
      inflight: rings.reduce((sum, { ring }) => sum + ring.inflight, 0),
      error: this.#error,
      counters,
    };
  }

  /** Something may have changed. Returns at once. */
  look(): void {
    this.#dirty = true;
    if (!this.#looking) void this.#lookWhileDirty();
  }

  async #lookWhileDirty(): Promise<void> {
    this.#looking = true;
    while (this.#dirty && !this.#ended) {
      this.#dirty = false;
      try {
        await this.#reconcile();
      } catch (error) {
        await this.#fail(error as Error).catch((e: Error) => this.#log(e.message));
      }
    }
    this.#looking = false;
  }

  async #reconcile(): Promise<void> {
    const keys = await readBackendKeys(this.#host.xenstore, this.directory);
    this.#frontendState = parseState(await this.#host.xenstore.read(`${this.#frontend}/state`));
    this.#state = keys.state;
    if (keys.state === State.Unknown) return this.#end();
    this.#checkIdentity(keys);
    if (keys.state === State.Initialising) return this.#offer();
    switch (this.#frontendState) {
      case State.Initialising:
        return this.#frontendStarts(keys);
      case State.Initialised:
      case State.Connected:
        return this.#frontendReady(keys);
      case State.Closing:
        await this.#disconnect();
        if (keys.state < State.Closing) await this.#switch(State.Closing);
        return;
      case State.InitWait:
        return this.#closeIfAsked(keys);
      case State.Closed:
        return this.#close();
      default:
        // No frontend: not there yet, or gone. Nobody would answer to a Closing.
        if (this.#connection || keys.state === State.Closing || !keys.online) await this.#close();
    }
  }

  /** What the directory says must agree with where it is (XSA-175): a mistake of the toolstack, or an attack. */
  #checkIdentity(keys: BackendKeys): void {
    if (keys.frontendId === String(this.id.domid) && keys.frontend === this.#frontend) return;
    throw new Error(
      `frontend-id ${keys.frontendId} and frontend ${keys.frontend} do not belong to ${this.directory}`,
    );
  }

  /** State 1: say what we can do, then wait for the frontend and for the hotplug script. */
  async #offer(): Promise<void> {
    await publish(this.#host.xenstore, this.directory, offerKeys(this.#host.features));
    await this.#switch(State.InitWait);
    this.look();
  }

  async #frontendStarts(keys: BackendKeys): Promise<void> {
    // A frontend that starts anew without having closed (a crashed kernel's kexec) has forgotten its rings.
    await this.#disconnect();
    if (keys.state === State.Closing) await this.#close();
    else if (keys.state === State.Closed ? keys.online : keys.state === State.Connected) {
      await this.#switch(State.InitWait);
      this.look();
    }
  }

  async #frontendReady(keys: BackendKeys): Promise<void> {
    if (keys.state === State.Closing) return this.#closeIfAsked(keys);
    if (this.#connection) return;
    if (keys.state === State.Closed) {
      if (!keys.online) return;
      await this.#switch(State.InitWait);
    }
    // State 2 is held until the toolstack's script has said that the device is there.
    if (keys.hotplugStatus !== "connected" || keys.devicePath === null) return;
    await this.#connect(keys, keys.devicePath);
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
    await this.#closeDevice();
    if (this.#state !== State.Closed) await this.#switch(State.Closed);
  }

  async #connect(keys: BackendKeys, path: string): Promise<void> {
    const { xenstore, features } = this.#host;
    const device = (this.#device ??= await this.#open(keys, path));
    const config = await readFrontend(xenstore, this.#frontend, features);
    const rings: AttachedRing[] = [];
    this.#connection = { config, rings };
    for (const queue of config.queues) rings.push(await this.#attachQueue(keys, device, config, queue));
    if (!(await publish(xenstore, this.directory, deviceKeys(device, keys, features)))) return;
    for (const { port } of rings)
      this.#log(connectMessage(this.id.devid, this.id.domid, port, config.protocol));
    this.#error = null;
    await this.#switch(State.Connected);
  }

  #attachQueue(
    keys: BackendKeys,
    device: BlockDevice,
    config: FrontendConfig,
    queue: FrontendConfig["queues"][number],
  ): Promise<AttachedRing> {
    const { features } = this.#host;
    const discard = canDiscard(device, keys);
    return this.#host.reactor.attach({
      config: {
        abi: config.abi,
        ringPages: config.ringPages,
        features:
          abi.FEATURE_FLUSH |
          abi.FEATURE_BARRIER |
          (device.readOnly ? abi.FEATURE_READ_ONLY : 0) |
          (discard ? abi.FEATURE_DISCARD : 0) |
          (discard && device.canSecureDiscard ? abi.FEATURE_SECURE_DISCARD : 0) |
          (features.persistent && config.persistent ? abi.FEATURE_PERSISTENT : 0),
        domid: this.id.domid,
        sectors: Math.floor(device.size / 512),
        sectorSize: device.sectorSize,
        maxIndirect: features.maxIndirectSegments,
      },
      ringRefs: queue.ringRefs,
      remotePort: queue.eventChannel,
      device,
      onHalt: () =>
        this.#log("the frontend claims more requests than its ring holds; this ring takes no more"),
      onError: (operation, error) =>
        this.#guestLog(`${operation} failed: ${error?.message ?? "unknown error"}`),
    });
  }

  async #open(keys: BackendKeys, path: string): Promise<BlockDevice> {
    try {
      const device = await openDevice(path, {
        readOnly: isReadOnly(keys),
        shared: keys.mode.endsWith("!"),
        warn: (line) => this.#log(line),
      });
      this.#log(attachMessage(path, device.size, this.id.domid));
      return device;
    } catch (error) {
      if (error instanceof DeviceError) this.#log(openMessage(this.name, this.id.devid, error.errno));
      throw error;
    }
  }

  /** Waits for what is in flight, then lets go of rings, event channels and grants. */
  async #disconnect(): Promise<void> {
    const connection = this.#connection;
    if (!connection) return;
    this.#connection = null;
    for (const { ring, detach } of connection.rings) {
      await detach();
      addCounters(this.#past, ring.counters());
    }
  }

  async #closeDevice(): Promise<void> {
    const device = this.#device;
    if (!device) return;
    this.#device = null;
    await device.close();
    this.#log(detachMessage(device.name, this.id.domid));
  }

  /** The directory is gone: so are we. */
  async #end(): Promise<void> {
    await this.stop();
    this.#gone();
  }

  /** Lets go of everything without a word to xenstore. */
  async stop(): Promise<void> {
    this.#ended = true;
    for (const watch of this.#watches.splice(0)) await watch.remove();
    await this.#disconnect();
    await this.#closeDevice();
  }

  /** This vbd cannot work: says why, to the operator and in xenstore, and closes (xenbus_dev_fatal). */
  async #fail(error: Error): Promise<void> {
    if (error.message === this.#error && this.#state === State.Closing) return;
    this.#error = error.message;
    this.#log(error.message);
    await this.#disconnect();
    await this.#closeDevice();
    const { xenstore, domid } = this.#host;
    const node = this.directory.slice(`/local/domain/${domid}/`.length);
    await xenstore.write(`/local/domain/${domid}/error/${node}/error`, error.message);
    await this.#switch(State.Closing, { "hotplug-error": error.message });
  }

  async #switch(state: XenbusState, keys: Record<string, string> = {}): Promise<void> {
    if (await switchState(this.#host.xenstore, this.directory, state, keys)) this.#state = state;
    else this.look();
  }

  #log(line: string): void {
    this.#host.log(line.startsWith("xbd") ? line : `${this.name}: ${line}`);
  }

  #lastGuestLog = 0;
  #suppressed = 0;

  /** A line that a guest can cause: at most one a second, with a count of those that were left out. */
  #guestLog(line: string): void {
    const now = performance.now();
    if (now - this.#lastGuestLog < 1000) {
      this.#suppressed++;
      return;
    }
    this.#lastGuestLog = now;
    this.#log(this.#suppressed === 0 ? line : `${line} (${this.#suppressed} more like it)`);
    this.#suppressed = 0;
  }
}
