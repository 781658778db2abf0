/**
 * Serves a domain's rings up to what it may have, and no more. What was promised to a ring counts, whether it uses it or
 * not: so no ring is ever in want of what it was given, and no guest can use what others need.
 */
import { DATA_LARGE_BYTES, MAX_LARGE, MAX_RING_PAGES } from "../../assembly/abi.js";
import { DEFAULT_MAX_PERSISTENT } from "../core/blkif.js";
import { memoryOfRing } from "../core/windows.js";
import type { BlockDevice } from "../storage/device.js";
import { machineMemory } from "./machine-memory.js";
import { mappablePages } from "./mappings.js";
import type { AttachedRing, AttachOptions, ReactorStatus, RingHost } from "./ring-host.js";

/** What one domain may have, all its disks together. */
export interface Caps {
  /** Disks that are connected. */
  readonly vbds: number;
  readonly rings: number;
  /** Pages of the guest's that are mapped: those of rings, and persistent grants. */
  readonly grants: number;
  /** Bytes of this process's that its requests may lie in. */
  readonly memory: number;
}

/** What all domains together may have. */
export interface Totals {
  /** Pages of theirs that are mapped. */
  readonly mappable: number;
  /** Bytes of this process's that their requests may lie in. Past it a ring gets the least that it can do with. */
  readonly memory: number;
}

const MOST_RINGS = 64;

/** Parts of the machine's memory: for the rings of all domains, which packaging/xbdback.service leaves room for... */
export const SHARE_OF_ALL = 2;
/** ...and for those of one domain, where no cap is given. */
const SHARE_OF_ONE = 4;

/** Room for sixteen disks of four queues, each ring as large as a ring may be; and for half of {@link mappablePages}. */
export const DEFAULT_CAPS: Caps = {
  vbds: MOST_RINGS,
  rings: MOST_RINGS,
  grants: 15360,
  memory: defaultMemory(machineMemory()),
};

/** Bytes that one domain's rings may use on a machine with so many. */
export function defaultMemory(machine: number): number {
  return Math.min(MOST_RINGS * memoryOfRing(MAX_RING_PAGES), Math.floor(machine / SHARE_OF_ONE));
}

function machineTotals(): Totals {
  return { mappable: mappablePages(), memory: Math.floor(machineMemory() / SHARE_OF_ALL) };
}

/** What a domain has. */
interface Use {
  rings: number;
  grants: number;
  memory: number;
  /** Rings by disk. A vbd that is connected has its store open, once. */
  readonly disks: Map<BlockDevice, number>;
}

const MIB = 1 << 20;
/**
 * An eighth of all pages is for rings alone: of the machine's, more rings of one page than it has disks; of a domain's
 * {@link DEFAULT_CAPS}, as many rings as it may have, each as large as a ring may be.
 */
const RING_SHARE = 8;
/** A ring gets at most this part of the memory that is left. */
const MEMORY_SHARE = 8;

export class CappedRingHost implements RingHost {
  readonly #host: RingHost;
  readonly #caps: Caps;
  readonly #domains = new Map<number, Use>();
  readonly #totals: Totals;
  /** Pages of all domains that persistent grants leave to the rings of disks to come. */
  readonly #ringRoom: number;
  readonly #log: (line: string) => void;
  /** What is promised to the rings of all domains. */
  readonly #promised = { grants: 0, memory: 0 };
  /** What the operator was told, once each. */
  readonly #told = new Set<string>();

  /** Takes the host over; `close` closes it. `log` gets a line for the operator. */
  constructor(
    host: RingHost,
    caps: Partial<Caps> = {},
    log: (line: string) => void = () => {},
    totals: Partial<Totals> = {},
  ) {
    this.#host = host;
    this.#caps = { ...DEFAULT_CAPS, ...caps };
    this.#log = log;
    this.#totals = { ...machineTotals(), ...totals };
    this.#ringRoom = Math.floor(this.#totals.mappable / RING_SHARE);
  }

  get mappedPages(): number {
    return this.#host.mappedPages;
  }

  get threads(): ReactorStatus[] {
    return this.#host.threads;
  }

  /**
   * Rejects when the domain has all that it may have. A ring that a guest had before this process began is taken in any
   * case: the guest is at work on it. Where few grants are left, a ring keeps fewer pages mapped, and copies; where little
   * memory is left, fewer of its large requests are in flight at once.
   */
  async attach(options: AttachOptions): Promise<AttachedRing> {
    const { config, device, start } = options;
    const { domid, ringPages, maxPersistent = DEFAULT_MAX_PERSISTENT } = config;
    const use = this.#domains.get(domid) ?? { rings: 0, grants: 0, memory: 0, disks: new Map() };
    if (start === "attach") this.#check(domid, use, device, ringPages);
    const persistent = Math.min(maxPersistent, this.#left(use, ringPages));
    const grants = ringPages + persistent;
    const maxLarge = this.#large(use, ringPages);
    const memory = memoryOfRing(ringPages, maxLarge);
    const count = (sign: 1 | -1): void => this.#count(domid, use, device, { grants, memory }, sign);
    count(1);
    try {
      const ring = await this.#host.attach({
        ...options,
        config: { ...config, maxPersistent: persistent, maxLarge },
      });
      const detach = ring.detach.bind(ring);
      ring.detach = () => detach().finally(() => count(-1));
      return ring;
    } catch (error) {
      count(-1);
      throw error;
    }
  }

  answers(): Promise<void> {
    return this.#host.answers();
  }

  close(): Promise<void> {
    return this.#host.close();
  }

  /** Pages that a ring of so many may keep mapped besides. */
  #left(use: Use, ringPages: number): number {
    const room = Math.floor(this.#caps.grants / RING_SHARE);
    const ofDomain = Math.max(0, this.#caps.grants - use.grants - Math.max(ringPages, room));
    const unpromised = this.#totals.mappable - this.#promised.grants;
    const ofAll = Math.max(0, unpromised - Math.max(ringPages, this.#ringRoom));
    if (ofAll < Math.min(ofDomain, DEFAULT_MAX_PERSISTENT)) {
      this.#tell(
        "xbdback: persistent grants have as many pages as this process may map; other rings copy: raise vm.max_map_count " +
          "for more",
      );
    }
    return Math.min(ofDomain, ofAll);
  }

  /**
   * Requests of more than 44 KiB that a ring may have in flight by copying: each takes 1 MiB. A ring gets no more than a
   * part of what is left, so that something is left for every other; and one at least, or it could not serve any.
   */
  #large(use: Use, ringPages: number): number {
    const most = Math.min(MAX_LARGE, ringPages * 32);
    const without = memoryOfRing(ringPages, 0);
    const part = (left: number): number => {
      const large = Math.floor((left / MEMORY_SHARE - without) / DATA_LARGE_BYTES);
      return Math.max(1, Math.min(large, most));
    };
    const ofDomain = part(this.#caps.memory - use.memory);
    const ofAll = part(this.#totals.memory - this.#promised.memory);
    if (ofAll < ofDomain) {
      this.#tell(
        "xbdback: rings have most of the memory that is for them, half of the machine's; others have fewer large requests in " +
          "flight at once",
      );
    }
    return Math.min(ofDomain, ofAll);
  }

  #tell(line: string): void {
    if (this.#told.has(line)) return;
    this.#told.add(line);
    this.#log(line);
  }

  #check(domid: number, use: Use, device: BlockDevice, pages: number): void {
    const { vbds, rings, grants, memory: most } = this.#caps;
    const memory = memoryOfRing(pages, 1);
    const refuse = (why: string, option: string): never => {
      throw new Error(`domain ${domid} ${why}: detach a disk, or serve with a higher --${option}`);
    };
    if (!use.disks.has(device) && use.disks.size >= vbds) {
      refuse(`has ${use.disks.size} disks connected, its maximum`, "max-vbds");
    }
    if (use.rings >= rings) refuse(`has ${use.rings} rings, its maximum`, "max-rings");
    if (use.grants + pages > grants) {
      const has = `${use.grants} of the ${grants} pages that may be mapped from it`;
      refuse(`has ${has}, and a ring needs ${pages}`, "max-grants");
    }
    const { mappable } = this.#totals;
    if (this.#promised.grants + pages > mappable) {
      throw new Error(
        `rings have all of the ${mappable} pages of guests that this process may map: detach a disk, or raise ` +
          "vm.max_map_count and restart it",
      );
    }
    if (use.memory + memory > most) {
      const [has, may, needs] = [use.memory, most, memory].map((bytes) => Math.ceil(bytes / MIB));
      refuse(
        `has ${has} of the ${may} MiB that its rings may use, and this one needs ${needs}`,
        "max-memory",
      );
    }
  }

  #count(
    domid: number,
    use: Use,
    device: BlockDevice,
    ring: { grants: number; memory: number },
    sign: 1 | -1,
  ): void {
    this.#promised.grants += sign * ring.grants;
    this.#promised.memory += sign * ring.memory;
    use.rings += sign;
    use.grants += sign * ring.grants;
    use.memory += sign * ring.memory;
    const rings = (use.disks.get(device) ?? 0) + sign;
    if (rings === 0) use.disks.delete(device);
    else use.disks.set(device, rings);
    if (use.rings === 0) this.#domains.delete(domid);
    else this.#domains.set(domid, use);
  }
}
