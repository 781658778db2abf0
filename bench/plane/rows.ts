/** What is measured: each row is one kind of load on one kind of disk. */

export type Cache = "none" | "writeback";
export type NbdPeer = "qemu-nbd" | "nbdkit";
/** fio's io_uring in other ways: one I/O a system call, registered buffers, buffers in pages like a loopback guest's. */
export type FioPeer = "fio-single" | "fio-fixed" | "fio-shm";
/** vhost: a plain client of the same vhost-user-blk server. fio-rbd: fio's own client of Ceph. */
export type Peer = NbdPeer | FioPeer | "traced" | "recorded" | "vhost" | "fio-rbd";

/** What a qemu-storage-daemon has behind a vbd; an overlay is a qcow2 image, half of whose disk is in its base, the file. */
export const IMAGES = ["raw", "qcow2", "overlay"] as const;
/** file: the file itself. nbd: through a qemu-nbd. rbd: an image in a cluster of Ceph's. */
export type Disk = "file" | "nbd" | "rbd" | (typeof IMAGES)[number];

export const isImage = (disk: Disk): boolean => (IMAGES as readonly Disk[]).includes(disk);

export interface Image {
  readonly path: string;
  readonly format: "raw" | "qcow2";
}

/** How the disk is served; rows of one set-up are measured on the same processes. */
export interface Setup {
  /** none: O_DIRECT. writeback: through the page cache, which holds the whole file. */
  readonly cache: Cache;
  readonly disk: Disk;
  readonly queues: number;
  readonly persistent: boolean;
  /** `--poll-us` of the daemon. */
  readonly pollUs: number;
  /** The server on the first half of the CPUs, the client on the others, as a dom0 and a guest with CPUs of their own. */
  readonly apart: boolean;
}

const SETUP = ["cache", "disk", "queues", "persistent", "pollUs", "apart"] as const satisfies (keyof Setup)[];

export const sameSetup = (a: Setup, b: Setup): boolean => SETUP.every((key) => a[key] === b[key]);

export interface Row extends Setup {
  readonly name: string;
  /** Bytes. */
  readonly blockSize: number;
  readonly depth: number;
  readonly readPercent: number;
  readonly sequential: boolean;
  /** Everything on one CPU. */
  readonly pinned: boolean;
  /** Beside fio and xbdback. */
  readonly peers: readonly Peer[];
  /** Measured by --quick. */
  readonly quick: boolean;
}

const PATTERNS = {
  randread: { readPercent: 100, sequential: false },
  randwrite: { readPercent: 0, sequential: false },
  randrw70: { readPercent: 70, sequential: false },
  read: { readPercent: 100, sequential: true },
  write: { readPercent: 0, sequential: true },
} as const;

const SIZES = { "4k": 4096, "128k": 131072, "1m": 1048576 } as const;

/** Only where they tell something new: the whole is to take twenty minutes at most. */
function peersOf(setup: Setup, size: keyof typeof SIZES, depth: number): Peer[] {
  const { cache, disk, queues, persistent, pollUs, apart } = setup;
  if (isImage(disk)) return queues > 1 || depth === 1 ? ["vhost"] : ["vhost", "qemu-nbd"];
  if (disk === "rbd") return ["fio-rbd"];
  if (disk !== "file") return ["qemu-nbd"];
  if (queues > 1 || !persistent) return [];
  if (apart || pollUs > 0) return size === "4k" && depth > 1 ? ["fio-single"] : [];
  if (size === "128k") return [];
  const servers: Peer[] = cache === "writeback" ? ["qemu-nbd", "nbdkit"] : ["qemu-nbd"];
  // At depth 1, and with larger blocks, there is no difference between fio's two ways.
  if (size === "1m" || depth === 1) return servers;
  return depth === 32 ? ["fio-single", ...servers] : ["fio-single"];
}

function row(
  cache: Cache,
  pattern: keyof typeof PATTERNS,
  size: keyof typeof SIZES,
  depth: number,
  more: Partial<Row> = {},
): Row {
  const { queues = 1, persistent = true, disk = "file", pollUs = 0, apart = false } = more;
  const setup = { cache, disk, queues, persistent, pollUs, apart };
  const section = sectionOf(cache, disk);
  const words = [...section, pattern, size, `qd${depth}`];
  if (queues > 1) words.push(`${queues}queues`);
  if (!persistent) words.push("copy");
  if (disk === "nbd") words.push(disk);
  if (apart) words.push("apart");
  if (pollUs > 0) words.push(`poll${pollUs}`);
  return {
    name: words.join("/"),
    ...PATTERNS[pattern],
    blockSize: SIZES[size],
    depth,
    pinned: depth === 1 && !apart,
    peers: peersOf(setup, size, depth),
    quick: false,
    ...more,
    ...setup,
  };
}

function sectionOf(cache: Cache, disk: Disk): string[] {
  if (disk === "rbd") return ["ceph"];
  return isImage(disk) ? ["images", disk] : [cache === "none" ? "direct" : "warm"];
}

const quick = { quick: true };
const queues = { queues: 4 };
const copy = { persistent: false };
const apart = { apart: true };
const poll = { pollUs: 30 };

function beside(row: Row, ...peers: Peer[]): Row {
  return { ...row, peers: [...row.peers, ...peers] };
}

function imageRows(disk: (typeof IMAGES)[number]): Row[] {
  const one = [
    row("writeback", "randread", "4k", 1, { disk }),
    row("writeback", "randread", "4k", 32, { disk }),
    row("writeback", "randwrite", "4k", 32, { disk }),
    row("writeback", "read", "128k", 16, { disk }),
    row("writeback", "write", "128k", 16, { disk }),
  ];
  if (disk !== "qcow2") return one;
  return [
    ...one,
    row("writeback", "randread", "4k", 128, { disk }),
    row("writeback", "randread", "4k", 128, { ...queues, disk }),
  ];
}

/** Those of one set-up are neighbours. */
export function rows(): Row[] {
  return [
    row("none", "randread", "4k", 1, quick),
    beside(row("none", "randread", "4k", 32, quick), "fio-fixed", "traced", "recorded"),
    row("none", "randread", "4k", 128, quick),
    row("none", "randwrite", "4k", 1),
    row("none", "randwrite", "4k", 32, quick),
    row("none", "randwrite", "4k", 128),
    row("none", "randrw70", "4k", 32),
    beside(row("none", "read", "128k", 16, quick), "fio-shm"),
    row("none", "write", "128k", 16),
    beside(row("none", "read", "1m", 4), "fio-shm"),
    row("none", "write", "1m", 4),
    row("none", "randread", "4k", 128, queues),
    row("none", "randwrite", "4k", 128, queues),
    row("none", "randread", "4k", 32, copy),
    row("none", "randwrite", "4k", 32, copy),
    row("none", "read", "1m", 4, copy),
    row("none", "randread", "4k", 1, poll),
    row("none", "randwrite", "4k", 1, poll),
    row("none", "randread", "4k", 32, poll),
    row("none", "randread", "4k", 32, apart),
    row("none", "randread", "4k", 32, { ...apart, ...poll, ...quick }),
    row("none", "randread", "4k", 128, { ...apart, ...poll }),
    row("none", "randwrite", "4k", 32, { ...apart, ...poll }),
    row("none", "randwrite", "4k", 128, { ...apart, ...poll }),
    row("none", "read", "128k", 16, { ...apart, ...poll }),
    row("writeback", "randread", "4k", 1),
    beside(row("writeback", "randread", "4k", 32, quick), "traced", "recorded"),
    row("writeback", "randread", "4k", 128),
    row("writeback", "randwrite", "4k", 32),
    row("writeback", "randrw70", "4k", 32),
    row("writeback", "read", "128k", 16),
    row("writeback", "read", "1m", 4),
    row("writeback", "randread", "4k", 128, queues),
    row("writeback", "randread", "4k", 32, { ...copy, ...quick }),
    row("writeback", "randread", "4k", 32, { ...apart, ...poll }),
    row("writeback", "read", "128k", 16, { ...apart, ...poll }),
    ...IMAGES.flatMap(imageRows),
    row("writeback", "randread", "4k", 32, { disk: "nbd" }),
    row("writeback", "randwrite", "4k", 32, { disk: "nbd" }),
    row("writeback", "read", "128k", 16, { disk: "nbd" }),
  ];
}

/** Measured only when they are named: they need a cluster of Ceph's. */
export function cephRows(): Row[] {
  const disk = "rbd";
  return [
    row("writeback", "randread", "4k", 1, { disk }),
    row("writeback", "randread", "4k", 32, { disk }),
    row("writeback", "randwrite", "4k", 32, { disk }),
    row("writeback", "read", "128k", 16, { disk }),
    row("writeback", "write", "128k", 16, { disk }),
  ];
}

/** vbds of one daemon, at the name of each row of scale. */
export function scaleRows(): { name: string; vbds: number; quick: boolean }[] {
  return [1, 8, 64, 256].map((vbds) => ({ name: `scale/${vbds}`, vbds, quick: vbds === 8 }));
}
