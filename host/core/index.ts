/** The portable core: what `import … from "xbdback/core"` gives. No Node, no platform. */
export * as abi from "../../assembly/abi.js";
export { BlkifCore, type CoreCopy, type CoreIo, type Iovec, type RingConfig } from "./blkif.js";
export { addCounters, type Counters, noCounters } from "./counters.js";
export { allocateMemory, type LinearMemory, PAGE_SIZE } from "./memory.js";
export { RingView } from "./ring-view.js";
export { compileCore, type WasmMemory, type WasmModule } from "./webassembly.js";
