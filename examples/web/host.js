// A host of the core in a page: one ring, a disk in memory, and a guest with three requests.
// The same scene as examples/c/host.c; the loop is the one of docs/core.md.
import * as abi from "../../build/assembly/abi.js";
import { BlkifCore } from "../../build/host/core/blkif.js";

const SECTORS = 64;
const BYTES = 3 * 512;
const GNTST_BAD_GNTREF = -3;

// A page has shared memory only if its server isolates it (COOP and COEP). The plain build does without.
const shared = globalThis.crossOriginIsolated === true;
const build = shared ? "blkif.wasm" : "blkif-plain.wasm";
const pages = abi.MEMORY_BYTES / 65536;
const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
const bytes = new Uint8Array(memory.buffer);
const view = new DataView(memory.buffer);

const disk = new Uint8Array(SECTORS * 512);
/** The guest's pages, by grant reference. */
const granted = new Map([1, 2, 3].map((gref) => [gref, new Uint8Array(abi.PAGE)]));

const element = (id) => document.getElementById(id);
const log = (line) => element("log").append(`${line}\n`);

/** The guest: a request of one segment, laid out as xen/include/public/io/blkif.h has it on x86-64. */
function put(operation, sector, gref) {
  const index = view.getUint32(abi.SRING_REQ_PROD, true);
  const at = abi.SRING_ENTRIES + (index % 32) * 112;
  bytes.fill(0, at, at + 112);
  bytes.set([operation, 1], at);
  view.setBigUint64(at + 8, BigInt(100 + index), true);
  view.setBigUint64(at + 16, BigInt(sector), true);
  view.setUint32(at + 24, gref, true);
  bytes.set([0, BYTES / 512 - 1], at + 28);
  view.setUint32(abi.SRING_REQ_PROD, index + 1, true);
}

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

function show() {
  const index = (name, at) => `${name} ${view.getUint32(at, true)}`;
  element("indices").textContent = [
    index("req_prod", abi.SRING_REQ_PROD),
    index("req_event", abi.SRING_REQ_EVENT),
    index("rsp_prod", abi.SRING_RSP_PROD),
    index("rsp_event", abi.SRING_RSP_EVENT),
  ].join(", ");
  for (let i = 0; i < view.getUint32(abi.SRING_RSP_PROD, true); i++) {
    const at = abi.SRING_ENTRIES + i * 112;
    const row = element("ring").insertRow();
    const hex = Array.from(bytes.subarray(at, at + 16), (byte) => byte.toString(16).padStart(2, "0")).join(
      " ",
    );
    const cells = [i, view.getBigUint64(at, true), bytes[at + 8], view.getInt16(at + 10, true), hex];
    for (const cell of cells) row.insertCell().textContent = String(cell);
  }
  const same = granted.get(1).every((byte, i) => byte === granted.get(2)[i]);
  element("result").textContent = `The guest read ${same ? "what it wrote" : "something else"}.`;
}

async function main() {
  element("build").textContent = build;
  const module = await WebAssembly.compileStreaming(fetch(`../../build/${build}`));
  const words = { i32: new Int32Array(memory.buffer), u32: new Uint32Array(memory.buffer) };
  const core = new BlkifCore(module, { memory, u8: bytes, ...words, base: 0 });
  // An empty ring.
  view.setUint32(abi.SRING_REQ_EVENT, 1, true);
  view.setUint32(abi.SRING_RSP_EVENT, 1, true);
  const config = { abi: abi.ABI_X86_64, ringPages: 1, features: 0, domid: 1, sectors: SECTORS };
  const code = core.attach({ ...config, sectorSize: 512, maxIndirect: 0 });
  if (code !== abi.ATTACH_OK) throw new Error(`attach() returned ${code}`);
  granted.get(1).fill(0x78, 0, BYTES);
  put(abi.BLKIF_OP_WRITE, 8, 1);
  put(abi.BLKIF_OP_READ, 8, 2); // waits for the write: they overlap
  put(abi.BLKIF_OP_READ, SECTORS - 1, 3); // past the end
  run(core);
  show();
}

main().catch((error) => {
  element("result").textContent = String(error);
});
