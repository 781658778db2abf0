/** One connection of a frontend: the open store, and a ring at work for each of its queues. */
import * as abi from "../../assembly/abi.js";
import type { ObserverKind } from "../reactor/observer.js";
import type { AttachedRing, RingHost } from "../reactor/ring-host.js";
import type { Throttle } from "../reactor/throttle.js";
import { type BlockDevice, flush, Result } from "../storage/device.js";
import { type BackendKeys, canDiscard, type Features } from "./backend-keys.js";
import type { FrontendConfig } from "./frontend.js";
import { type Beginning, monotonicMs } from "./journals.js";
import { Observation } from "./observation.js";
import { type AgedRing, RequestAges } from "./request-ages.js";
import type { Totals } from "./totals.js";

export interface ConnectionOptions {
  readonly reactor: RingHost;
  readonly features: Features;
  /** The frontend's. */
  readonly domid: number;
  readonly keys: BackendKeys;
  readonly config: FrontendConfig;
  /** Taken over: it is closed with the connection, and when there is none to be had. */
  readonly device: BlockDevice;
  /** The path that the toolstack has for it. */
  readonly path: string;
  /** How each queue's ring is begun. The journals are taken over, and released with the connection. */
  readonly beginnings: readonly Beginning[];
  /** How fast its rings may take requests, from the first one on. */
  readonly throttle?: Throttle | null;
  /** A ring takes no more requests; once for each ring. */
  readonly onHalt: (why: string) => void;
  readonly onError: (operation: string, error: Error | undefined, result: Result) => void;
}

export interface ConnectionStatus {
  /** The store's name. */
  readonly device: string | null;
  /** What carries out its I/O, for people; null where that is the daemon. */
  readonly through: string | null;
  /** Bytes. */
  readonly size: number;
  readonly protocol: string | null;
  readonly queues: number;
  readonly ringPages: number;
  readonly persistent: boolean;
  /** Requests taken from the rings and not yet answered. */
  readonly inflight: number;
  /** For how long its guest had waited when it was taken over, in milliseconds; null when nobody had handed it over. */
  readonly handoverMs: number | null;
}

/** How a connection ended. */
export interface Ending {
  /** False where what was written could not be flushed first: the device is open, and the caller's. */
  readonly released: boolean;
  /** What went wrong besides; null where nothing did. */
  readonly trouble: Error | null;
}

export const NOT_CONNECTED: ConnectionStatus = {
  device: null,
  through: null,
  size: 0,
  protocol: null,
  queues: 0,
  ringPages: 0,
  persistent: false,
  inflight: 0,
  handoverMs: null,
};

/** Of a disk that is open. */
export function diskStatus({
  name,
  size,
  through = null,
}: Pick<BlockDevice, "name" | "size"> & { readonly through?: string | null }): Pick<
  ConnectionStatus,
  "device" | "size" | "through"
> {
  return { device: name, size, through };
}

export class Connection {
  readonly device: BlockDevice;
  readonly path: string;
  readonly config: FrontendConfig;
  handoverMs: number | null = null;
  readonly #rings: AttachedRing[] = [];
  readonly #ages = new RequestAges();
  readonly #beginnings: readonly Beginning[];
  #closing = false;

  private constructor({ device, path, config, beginnings }: ConnectionOptions) {
    this.device = device;
    this.path = path;
    this.config = config;
    this.#beginnings = beginnings;
  }

  /** Attaches every ring. Rejects with what is wrong with one of them; everything is let go then. */
  static async open(options: ConnectionOptions): Promise<Connection> {
    const connection = new Connection(options);
    // The connection before may have ended without them.
    options.device.setDelays?.(true);
    const attaching = options.config.queues.map((_, queue) => attach(options, queue));
    const outcomes = await Promise.allSettled(attaching);
    for (const outcome of outcomes) if (outcome.status === "fulfilled") connection.#rings.push(outcome.value);
    const refused = outcomes.find((outcome) => outcome.status === "rejected");
    if (!refused) return connection;
    await connection.close();
    // Those of rings that are detached are released already, and of the others nothing is under way.
    for (const { journal } of options.beginnings) journal?.release();
    throw refused.reason;
  }

  /** Our ends of the event channels. */
  get ports(): number[] {
    return this.#rings.map(({ port }) => port);
  }

  get status(): ConnectionStatus {
    const { protocol, ringPages, persistent } = this.config;
    const inflight = this.#rings.reduce((sum, ring) => sum + ring.inflight, 0);
    return {
      ...diskStatus(this.device),
      protocol,
      queues: this.#rings.length,
      ringPages,
      persistent,
      inflight,
      handoverMs: this.handoverMs,
    };
  }

  /** Its rings as they stand, and for how long their oldest requests have been seen. */
  rings(): AgedRing[] {
    return this.#ages.look(this.#rings);
  }

  /** Observes one of its rings, or all. Rejects with what is in the way. */
  observe(kind: ObserverKind, ring?: number): Promise<readonly Observation[]> {
    const rings = [...this.#rings.entries()].filter(([number]) => ring === undefined || number === ring);
    if (rings.length === 0)
      throw new Error(
        `no ring ${ring}: the last ring of this vbd is ${this.#rings.length - 1}, the first is 0`,
      );
    return Observation.ofRings(new Map(rings), kind);
  }

  addTo(totals: Totals): void {
    totals.add(this.#rings);
  }

  async throttle(throttle: Throttle | null): Promise<void> {
    await Promise.all(this.#rings.map((ring) => ring.throttle(throttle)));
  }

  /** Looks at the store's size again; the rings know of it when this resolves. */
  async refreshSize(): Promise<void> {
    if (!(await this.device.refreshSize()) || this.#closing) return;
    const sectors = Math.floor(this.device.size / 512);
    await Promise.all(this.#rings.map((ring) => ring.resize(sectors)));
  }

  /** Notes in the journals that another process is to go on with the rings, from now on; `close` is to follow. */
  handOver(): void {
    for (const { journal } of this.#beginnings) if (journal) journal.handedOver = monotonicMs();
  }

  /**
   * Waits for what is in flight and lets go of everything, even where that goes wrong. Where it goes well, the journals say so:
   * whoever goes on with the rings need not fear an old write.
   */
  async close(): Promise<Ending> {
    const trouble = await this.#detach();
    return this.#end(trouble, true);
  }

  /** As {@link close}, for others to go on with what was written: all of it is on stable storage before the device is closed. */
  async closeFlushed(): Promise<Ending> {
    const trouble = await this.#detach();
    return this.#end(trouble, this.device.readOnly || (await isFlushed(this.device)));
  }

  /** Why a ring was not detached in order; null where all were. */
  async #detach(): Promise<Error | null> {
    this.#closing = true;
    this.device.setDelays?.(false);
    const outcomes = await Promise.allSettled(this.#rings.map((ring) => ring.detach()));
    const refused = outcomes.find((outcome) => outcome.status === "rejected");
    return refused ? (refused.reason as Error) : null;
  }

  async #end(trouble: Error | null, released: boolean): Promise<Ending> {
    try {
      if (released) await this.device.close();
      if (trouble === null)
        for (const { journal } of this.#beginnings) journal?.settle(this.device.flushErrno ?? 0);
      return { released, trouble };
    } catch (error) {
      return { released, trouble: trouble ?? (error as Error) };
    }
  }
}

/** False where it failed. A device that knows no flush has nothing to bring to stable storage. */
async function isFlushed(device: BlockDevice): Promise<boolean> {
  const { result } = await flush(device);
  return result === Result.Success || result === Result.Unsupported;
}

function attach(options: ConnectionOptions, queue: number): Promise<AttachedRing> {
  const { reactor, features, domid, keys, config, device, onHalt, onError } = options;
  const { ringRefs, eventChannel } = config.queues[queue];
  const discard = canDiscard(device, keys);
  return reactor.attach({
    config: {
      abi: config.abi,
      ringPages: config.ringPages,
      features:
        abi.FEATURE_FLUSH |
        abi.FEATURE_BARRIER |
        (device.readOnly ? abi.FEATURE_READ_ONLY : 0) |
        (discard ? abi.FEATURE_DISCARD : 0) |
        (discard && device.canSecureDiscard ? abi.FEATURE_SECURE_DISCARD : 0) |
        (features.persistent && config.persistent && !device.mapsNoGrants ? abi.FEATURE_PERSISTENT : 0),
      domid,
      sectors: Math.floor(device.size / 512),
      sectorSize: device.sectorSize,
      maxIndirect: features.maxIndirectSegments,
      // Rings that are taken over go by what was agreed when another disk was below them.
      ...(device.mapsNoGrants && { maxPersistent: 0 }),
    },
    ringRefs,
    remotePort: eventChannel,
    device,
    rings: config.queues.length,
    throttle: options.throttle ?? null,
    ...options.beginnings[queue],
    onHalt,
    onError,
  });
}
