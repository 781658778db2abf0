/** The portable core: what `import … from "xbdback/core"` gives. No Node, no platform. */
export * as abi from "../../assembly/abi.js";
export {
  addCounters,
  BlkifCore,
  type CoreCopy,
  type CoreIo,
  type Counters,
  type Iovec,
  noCounters,
  type RingConfig,
} from "./blkif.js";
export { allocateMemory, type LinearMemory, PAGE_SIZE } from "./memory.js";
export { compileCore, type WasmMemory, type WasmModule } from "./webassembly.js";
