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
