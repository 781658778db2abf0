/** The portable core: what `import … from "xbdback/core"` gives. No Node, no platform. */
export * as abi from "../../assembly/abi.js";
export { addCounters, BlkifCore, type CoreIo, type Counters, noCounters, type RingConfig } from "./blkif.js";
export { allocateMemory, type LinearMemory, PAGE_SIZE } from "./memory.js";
