/**
 * Which folder may import which: ARCHITECTURE.md's folders, from the one that stands on nothing to the one that stands on
 * all. A folder that is not in a list is not imported, so that there are no circles between folders.
 */

/** Files by a path's beginning, and what they may import beside their own folder. */
export const LAYERS: Readonly<Record<string, readonly string[]>> = {
  assembly: [],
  "host/core": ["assembly"],
  "host/nbd": [],
  "host/platform": ["host/core"],
  "host/session": ["host/core", "assembly"],
  "host/storage": ["host/platform", "host/nbd", "host/core", "assembly"],
  "host/guest": ["host/platform", "host/nbd", "host/core"],
  "host/reactor": ["host/storage", "host/session", "host/platform", "host/core", "assembly"],
  "host/vbd": ["host/reactor", "host/storage", "host/platform", "host/core", "assembly"],
  "host/toolstack": ["host/vbd", "host/storage", "host/platform"],
  "host/daemon": ["host/vbd", "host/reactor", "host/storage", "host/platform"],
  "host/metrics": ["host/daemon", "host/vbd", "host/reactor", "host/core"],
  "host/cli": [
    "host/metrics",
    "host/daemon",
    "host/toolstack",
    "host/vbd",
    "host/reactor",
    "host/guest",
    "host/storage",
    "host/session",
    "host/platform",
    "host/core",
    "assembly",
  ],
};

/** Files of host/core that need Node, which the others do without: they run in browsers. */
export const CORE_WITH_NODE: Readonly<Record<string, string>> = {
  "host/core/load.ts": "reads blkif.wasm from the disk; the package's entry does not export it",
};

/**
 * Files outside host/core that read or write the core's memory at offsets of assembly/abi.ts. Each knows how the memory is
 * laid out, so that the list should become shorter: what is missing in host/core belongs there.
 */
export const KNOW_OFFSETS: Readonly<Record<string, string>> = {
  "host/reactor/capped.ts": "counts how much memory a ring may come to need",
  "host/reactor/data-window.ts": "gives back pages of the data window, by the requests that own them",
  "host/reactor/fixed-pages.ts": "registers the pages that stay mapped",
  "host/reactor/journal.ts": "maps the journal's pages onto a file",
  "host/reactor/latency.ts": "reads an I/O without an allocation",
  "host/reactor/observer.ts": "reads what a pass has taken and answered",
  "host/reactor/recorder.ts": "reads requests as the guest wrote them",
  "host/reactor/ring-grants.ts": "carries out the tables of copies and maps",
  "host/reactor/ring-state.ts": "shows requests in flight",
  "host/reactor/ring.ts": "carries out a pass",
  "host/reactor/start.ts": "maps the shared ring",
  "host/reactor/tracer.ts": "reads requests as they are answered",
  "host/reactor/uring-queue.ts": "puts iovecs into the kernel's queue as they are",
  "host/reactor/vhost-queue.ts": "shares the data window with a server",
  "host/session/grants.ts": "plays a hypervisor that carries out the tables",
  "host/session/ios.ts": "plays a disk",
  "host/session/player.ts": "plays a host",
  "host/session/ring.ts": "plays a frontend",
  "host/storage/vhost-user/area.ts": "shares the data window with a server",
  "host/storage/vhost-user/data-path.ts": "shares the data window with a server",
};
