/** One connection of a frontend with its backend: made by the xenbus handshake, undone by the closing one. */
import { PAGE_SIZE } from "../core/memory.js";
import type { EventChannels, GuestPages, Xenstore } from "../platform/ports.js";
import { XenbusState } from "../platform/xenbus-state.js";
import { RingPages } from "./grants.js";
import { type Abi, LAYOUTS, MAX_INDIRECT_PAGES, MAX_SEGMENTS, PROTOCOLS, ringEntries } from "./layout.js";
import {
  type Channel,
  type Device,
  type DiskDescription,
  findDevice,
  publish,
  readBackendError,
  readDisk,
  readOffer,
} from "./negotiate.js";
import { Queue, type QueueOwner } from "./queue.js";
import { FrontRing } from "./ring.js";
import { BackendState, readState, switchState } from "./xenbus.js";

const { Unknown, Initialising, InitWait, Initialised, Connected, Closing, Closed } = XenbusState;

/** A guest's domain, as far as a frontend uses it. */
export interface GuestPlatform {
  readonly pages: GuestPages;
  readonly events: EventChannels;
  readonly xenstore: Xenstore;
  /** Instead of what `backend-id` says. */
  readonly backendDomid?: number;
}

export interface BlkfrontOptions {
  /** Layout of the ring's entries and, but for "native", what `protocol` says. Default x86_64. */
  abi: Abi;
  /** The ring has 2^order pages, 0 to 4, if the backend allows. Default 0. */
  ringPageOrder: number;
  /** Rings, if the backend allows so many. Default 1. */
  queues: number;
  /** Indirect requests: none, up to 256 segments (1 MiB), or up to this many (at most 4096). Default true. */
  indirect: boolean | number;
  /** Persistent grants, if the backend has them too. Default true. */
  persistent: boolean;
  /** Says something else in `protocol`; null leaves the key out. */
  protocol: string | null;
  /** Bytes of guest memory for data in flight, per queue; less where the guest has less. Default 8 MiB. */
  inFlightBytes: number;
  /** Where ring indices start: 0, unless wrap-around is to be seen. The backend must attach at `rsp_prod`. */
  firstIndex: number;
  /** For each wait until it is connected. Default a minute, the last resort: the backend's machine may be slow. */
  timeoutMs: number;
  /** For each wait until it is closed. Default `timeoutMs` where that is given, or else 10 s, as the toolstack's. */
  closeTimeoutMs: number;
}

const DEFAULTS: Omit<BlkfrontOptions, "protocol"> = {
  abi: "x86_64",
  ringPageOrder: 0,
  queues: 1,
  indirect: true,
  persistent: true,
  inFlightBytes: 8 * 1024 * 1024,
  firstIndex: 0,
  timeoutMs: 60_000,
  closeTimeoutMs: 10_000,
};

/** What came of the options. */
export interface Negotiated {
  readonly abi: Abi;
  readonly ringPageOrder: number;
  /** Requests that one ring holds. */
  readonly ringEntries: number;
  readonly queues: number;
  /** Segments of one indirect request; 0 when there are none. */
  readonly indirectSegments: number;
  readonly persistent: boolean;
}

export interface CloseReport {
  /** Grants that the backend still had mapped; 0 when all is well. */
  readonly grantsInUse: number;
}

/** How long a backend gets to answer to a connection that failed half-way. */
const ABANDON_TIMEOUT_MS = 1000;
const MAX_RING_PAGE_ORDER = 4;
const DEFAULT_INDIRECT_SEGMENTS = 256;
const PROTOCOL_INDIRECT_SEGMENTS = MAX_INDIRECT_PAGES * 512;

export class Connection {
  readonly device: Device;
  readonly state: BackendState;
  readonly queues: Queue[];
  readonly #platform: GuestPlatform;
  readonly #options: typeof DEFAULTS & Partial<BlkfrontOptions>;
  readonly #channels: Channel[] = [];
  #order = 0;
  #ours: number = Unknown;
  #disk: DiskDescription | null = null;

  private constructor(
    platform: GuestPlatform,
    device: Device,
    state: BackendState,
    queues: Queue[],
    options: typeof DEFAULTS & Partial<BlkfrontOptions>,
  ) {
    this.#platform = platform;
    this.device = device;
    this.state = state;
    this.queues = queues;
    this.#options = options;
  }

  /**
   * Goes through the whole handshake and fills `queues`, whose requests are `owner`'s. Rejects, with all taken
   * back, when it does not come to Connected.
   */
  static async open(
    platform: GuestPlatform,
    devid: number,
    owner: QueueOwner,
    queues: Queue[],
    options: Partial<BlkfrontOptions>,
  ): Promise<Connection> {
    const { xenstore, pages } = platform;
    const device = await findDevice(xenstore, pages.domid, devid, platform.backendDomid);
    const state = await BackendState.follow(xenstore, device.backend);
    const { closeTimeoutMs = options.timeoutMs ?? DEFAULTS.closeTimeoutMs } = options;
    const all = { ...DEFAULTS, ...options, closeTimeoutMs };
    const connection = new Connection(platform, device, state, queues, all);
    try {
      await connection.#connect(owner);
      return connection;
    } catch (error) {
      await connection.#abandon();
      throw await connection.#explain(error as Error);
    }
  }

  /** As the backend published it. */
  get disk(): DiskDescription {
    return this.#disk!;
  }

  get negotiated(): Negotiated {
    const { abi } = this.#options;
    const ringPages = 2 ** this.#order;
    return {
      abi,
      ringPageOrder: this.#order,
      ringEntries: ringEntries(LAYOUTS[abi], ringPages),
      queues: this.queues.length,
      indirectSegments: this.#indirectSegments(),
      persistent: this.#persistent(),
    };
  }

  /** Waits for `idle`, but not longer than for any other step. */
  async drain(idle: Promise<void>): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#options.closeTimeoutMs);
    });
    await Promise.race([idle, late]);
    clearTimeout(timer);
  }

  /**
   * Closing, Closed, then everything is taken back. Rejects when the backend does not follow in time; what
   * could be taken back is taken back then, too.
   */
  async close(): Promise<CloseReport> {
    let failure: Error | null = null;
    try {
      await this.#walkToClosed();
    } catch (error) {
      failure = error as Error;
    }
    const grantsInUse = await this.#release();
    if (failure) {
      const left = grantsInUse > 0 ? ` (${grantsInUse} grants still in use)` : "";
      throw new Error(`blkfront ${this.device.devid}: ${failure.message}${left}`, { cause: failure });
    }
    return { grantsInUse };
  }

  /** Hears of the backend no more, and takes nothing back: the machine on which all of it was is gone. */
  async forget(): Promise<void> {
    this.state.onWrite = null;
    await this.state.close();
  }

  async #connect(owner: QueueOwner): Promise<void> {
    const { xenstore } = this.#platform;
    const { frontend, backend } = this.device;
    const { timeoutMs, abi, persistent, protocol = PROTOCOLS[abi] } = this.#options;
    this.#ours = await readState(xenstore, frontend);
    if (this.#ours !== Initialising) await this.#reset();
    await this.state.wait([InitWait], [], this.#ours, timeoutMs);

    const offer = await readOffer(xenstore, backend);
    this.#order = Math.min(this.#options.ringPageOrder, offer.maxRingPageOrder, MAX_RING_PAGE_ORDER);
    const queues = Math.max(1, Math.min(this.#options.queues, offer.maxQueues));
    for (let i = 0; i < queues; i++) this.#channels.push(await this.#openChannel());
    await publish(xenstore, frontend, this.#channels, this.#order, protocol, persistent);
    await this.#enter(Initialised);
    await this.state.wait([Connected], [Unknown, Closing, Closed], this.#ours, timeoutMs);

    this.#disk = await readDisk(xenstore, backend);
    for (const channel of this.#channels) this.queues.push(this.#openQueue(owner, channel));
    await this.#enter(Connected);
  }

  /** After an earlier kernel of the guest (kexec) or a connection that was closed. */
  async #reset(): Promise<void> {
    if (this.#ours !== Closed) await this.#walkToClosed();
    const { timeoutMs } = this.#options;
    await this.state.wait([Unknown, Initialising, InitWait, Closed], [], this.#ours, timeoutMs);
    await this.#enter(Initialising);
  }

  async #walkToClosed(): Promise<void> {
    const { closeTimeoutMs } = this.#options;
    await this.#enter(Closing);
    await this.state.wait([Closing, Closed, Unknown], [], this.#ours, closeTimeoutMs);
    await this.#enter(Closed);
    await this.state.wait([Closed, Unknown], [], this.#ours, closeTimeoutMs);
  }

  async #enter(state: number): Promise<void> {
    if (!(await switchState(this.#platform.xenstore, this.device.frontend, state)) && state < Closing)
      throw new Error(`${this.device.frontend} is gone: the toolstack has detached the disk`);
    this.#ours = state;
  }

  async #openChannel(): Promise<Channel> {
    const { pages, events } = this.#platform;
    const { abi, firstIndex } = this.#options;
    const { backendDomid } = this.device;
    const port = await events.allocUnbound(backendDomid);
    try {
      const ringPages = new RingPages(pages, backendDomid, 2 ** this.#order);
      const at = ringPages.frame * PAGE_SIZE;
      const ring = new FrontRing(pages.memory, at, ringPages.count, LAYOUTS[abi], firstIndex);
      return { port, ringPages, ring };
    } catch (error) {
      await events.unbind(port);
      throw error;
    }
  }

  #openQueue(owner: QueueOwner, channel: Channel): Queue {
    const { pages, events } = this.#platform;
    return new Queue(owner, pages, events, channel, {
      layout: LAYOUTS[this.#options.abi],
      handle: this.device.devid & 0xffff,
      backendDomid: this.device.backendDomid,
      maxSegments: this.#indirectSegments() || MAX_SEGMENTS,
      persistent: this.#persistent(),
      poolPages: Math.ceil(this.#options.inFlightBytes / PAGE_SIZE),
    });
  }

  #persistent(): boolean {
    return this.#options.persistent && this.disk.persistent;
  }

  #indirectSegments(): number {
    const { indirect } = this.#options;
    const wanted = indirect === true ? DEFAULT_INDIRECT_SEGMENTS : Number(indirect);
    const segments = Math.min(wanted, this.disk.maxIndirectSegments, PROTOCOL_INDIRECT_SEGMENTS);
    return segments > MAX_SEGMENTS ? segments : 0;
  }

  /** Tells a backend that we gave up, without insisting on an answer. */
  async #abandon(): Promise<void> {
    try {
      if (this.#ours >= Initialised) {
        await this.#enter(Closed);
        const { closeTimeoutMs } = this.#options;
        await this.state.wait([Closed, Unknown], [], Closed, Math.min(closeTimeoutMs, ABANDON_TIMEOUT_MS));
      }
    } catch {
      // The failure that led here is what the caller hears of.
    }
    await this.#release();
  }

  async #explain(error: Error): Promise<Error> {
    const { devid, backend } = this.device;
    const said = await readBackendError(this.#platform.xenstore, backend);
    return new Error(`blkfront ${devid}: ${error.message}${said ? ` (backend error: ${said})` : ""}`, {
      cause: error,
    });
  }

  async #release(): Promise<number> {
    await this.state.close();
    let grantsInUse = 0;
    for (const queue of this.queues) grantsInUse += queue.release();
    for (const channel of this.#channels) {
      await this.#platform.events.unbind(channel.port);
      grantsInUse += channel.ringPages.release();
    }
    return grantsInUse;
  }
}
