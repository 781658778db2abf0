// A host of the core in a page: one ring, a disk in memory, and the guest of guest.js.
// The same scene as examples/c/host.c; the loop is the one of docs/core.md.
import * as abi from "../../build/assembly/abi.js";
import { BlkifCore } from "../../build/host/core/blkif.js";
import { begin, DISK_SECTORS, granted, show } from "./guest.js";

const GNTST_BAD_GNTREF = -3;

const pages = abi.MEMORY_BYTES / 65536;
const limits = { initial: pages, maximum: pages };

/** A shared memory; null where the browser has none for a page whose server does not isolate it. */
function sharedMemory() {
  try {
    return new WebAssembly.Memory({ ...limits, shared: true });
  } catch {
    return null;
  }
}

const shared = sharedMemory();
// The plain build does without.
const build = shared ? "blkif.wasm" : "blkif-plain.wasm";
const memory = shared ?? new WebAssembly.Memory(limits);
const bytes = new Uint8Array(memory.buffer);
const view = new DataView(memory.buffer);

const disk = new Uint8Array(DISK_SECTORS * 512);

const element = (id) => document.getElementById(id);
const log = (line) => element("log").append(`${line}\n`);

/** Copies between the guest's pages and linear memory; every entry gets its status. */
function carryOutCopies(core) {
  for (let i = 0; i < core.copies; i++) {
    const entry = abi.COPIES + i * abi.COPY_BYTES;
    const toGuest = view.getUint16(entry + abi.COPY_FLAGS, true) === abi.COPY_DEST_GREF;
    const grant = entry + (toGuest ? abi.COPY_DEST : abi.COPY_SOURCE);
    const local = Number(view.getBigUint64(entry + (toGuest ? abi.COPY_SOURCE : abi.COPY_DEST), true));
    const offset = view.getUint16(grant + 4, true);
    const length = view.getUint16(entry + abi.COPY_LENGTH, true);
    const page = granted.get(view.getUint32(grant, true));
    if (page && toGuest) page.set(bytes.subarray(local, local + length), offset);
    else if (page) bytes.set(page.subarray(offset, offset + length), local);
    view.setInt16(entry + abi.COPY_STATUS, page ? 0 : GNTST_BAD_GNTREF, true);
  }
  log(`copied ${core.copies} pieces`);
}

/** Does one I/O, at once. A host with a slow disk would start it here, and complete it in a later step. */
function doIo({ operation, position, length, table, iovecs }) {
  const isWrite = operation === abi.IO_WRITE;
  log(`${isWrite ? "write" : "read"}, sector ${position / 512}, ${length} bytes`);
  for (let v = 0, at = position; v < iovecs; v++) {
    const address = Number(view.getBigUint64(table + v * abi.IOVEC_BYTES, true));
    const local = bytes.subarray(address, address + view.getUint32(table + v * abi.IOVEC_BYTES + 8, true));
    if (isWrite) disk.set(local, at);
    else local.set(disk.subarray(at, at + local.length));
    at += local.length;
  }
}

/** Steps until there is nothing to do: passes, and within them the rounds of grant operations. */
function run(core) {
  let completions = 0;
  let flags = 0;
  do {
    flags = core.step(completions);
    completions = 0;
    if (flags & abi.STEP_COPY) carryOutCopies(core);
    if (flags & abi.STEP_IO) {
      for (; completions < core.ios; completions++) {
        const io = core.io(completions);
        doIo(io);
        core.setCompletion(completions, io.slot, abi.IO_RESULT_SUCCESS);
      }
    }
    if (flags & abi.STEP_NOTIFY) log("notify the guest");
  } while (completions > 0 || flags & (abi.STEP_COPY | abi.STEP_MORE));
}

async function main() {
  element("build").textContent = build;
  const module = await WebAssembly.compileStreaming(fetch(`../../build/${build}`));
  const words = { i32: new Int32Array(memory.buffer), u32: new Uint32Array(memory.buffer) };
  const core = new BlkifCore(module, { memory, u8: bytes, ...words, base: 0 });
  begin(view);
  const config = { abi: abi.ABI_X86_64, ringPages: 1, features: 0, domid: 1, sectors: DISK_SECTORS };
  const code = core.attach({ ...config, sectorSize: 512, maxIndirect: 0 });
  if (code !== abi.ATTACH_OK) throw new Error(`attach() returned ${code}`);
  run(core);
  show(view);
}

main().catch((error) => {
  element("result").textContent = String(error);
});
