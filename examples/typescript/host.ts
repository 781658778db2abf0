// A host of the core in TypeScript, with its typed wrapper: one ring, a disk in memory, and a guest that writes a page in
// two pieces and reads it back. The loop is the one of docs/core.md.
//
//     npx tsc --module nodenext --target es2022 --types node host.ts && node host.js
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { abi, allocateMemory, BlkifCore, type CoreIo, compileCore } from "xbdback/core";

const SECTORS = 64;
const GNTST_OKAY = 0;
const GNTST_BAD_GNTREF = -3;

const wasm = readFileSync(fileURLToPath(import.meta.resolve("xbdback/core/blkif.wasm")));
const memory = allocateMemory(abi.MEMORY_BYTES);
const core = new BlkifCore(compileCore(wasm), memory);
const disk = new Uint8Array(SECTORS * 512);

// ---- The guest: its pages, by grant reference, and its half of the ring (xen/include/public/io/blkif.h, x86-64) ----

const granted = new Map([1, 2].map((gref) => [gref, new Uint8Array(abi.PAGE)]));
const ring = new DataView(memory.u8.buffer, abi.SRING, abi.PAGE);
const RING = { reqProd: 0, reqEvent: 4, rspProd: 8, rspEvent: 12, entries: 64, entryBytes: 112 };
let requests = 0;

/** A request for a whole page, in segments of four sectors that lie `step` apart on the page. */
function request(operation: number, sector: number, gref: number): void {
  const at = RING.entries + (requests % 32) * RING.entryBytes;
  ring.setUint8(at, operation);
  ring.setUint8(at + 1, 2); // segments
  ring.setBigUint64(at + 8, BigInt(100 + requests), true); // id
  ring.setBigUint64(at + 16, BigInt(sector), true);
  for (const [i, first] of [0, 4].entries()) {
    ring.setUint32(at + 24 + i * 8, gref, true);
    ring.setUint8(at + 28 + i * 8, first);
    ring.setUint8(at + 29 + i * 8, first + 3);
  }
  requests += 1;
  ring.setUint32(RING.reqProd, requests, true);
}

// ---- The host ----

/** Copies between the guest's pages and linear memory. The core trusts no page until its status says success. */
function carryOutCopies(): void {
  for (let i = 0; i < core.copies; i++) {
    const { toGuest, gref, pageOffset, offset, length } = core.copy(i);
    const page = granted.get(gref)?.subarray(pageOffset, pageOffset + length);
    const local = memory.u8.subarray(offset, offset + length);
    if (page) (toGuest ? page : local).set(toGuest ? local : page);
    core.setCopyStatus(i, page ? GNTST_OKAY : GNTST_BAD_GNTREF);
  }
}

/** Does one I/O at once; a host with a slow disk starts it here and completes it before a later step. */
function carryOut(io: CoreIo): number {
  let at = io.position;
  for (let i = 0; i < io.iovecs; i++) {
    const { offset, length } = core.iovec(io, i);
    const local = memory.u8.subarray(offset, offset + length);
    if (io.operation === abi.IO_WRITE) disk.set(local, at);
    else local.set(disk.subarray(at, at + length));
    at += length;
  }
  const kind = io.operation === abi.IO_WRITE ? "write" : "read";
  console.log(`${kind} ${io.length} bytes at sector ${io.position / 512}`);
  return abi.IO_RESULT_SUCCESS;
}

/** Steps until there is nothing to do. */
function serve(): void {
  let completions = 0;
  let flags = 0;
  do {
    flags = core.step(completions);
    completions = 0;
    if (flags & abi.STEP_COPY) carryOutCopies();
    if (flags & abi.STEP_IO) {
      for (; completions < core.ios; completions++) {
        const io = core.io(completions);
        core.setCompletion(completions, io.slot, carryOut(io));
      }
    }
  } while (completions > 0 || flags & (abi.STEP_COPY | abi.STEP_MORE));
}

ring.setUint32(RING.reqEvent, 1, true);
ring.setUint32(RING.rspEvent, 1, true);
const config = { abi: abi.ABI_X86_64, ringPages: 1, features: 0, domid: 1, sectors: SECTORS };
const attached = core.attach({ ...config, sectorSize: 512, maxIndirect: 0 });
if (attached !== abi.ATTACH_OK) throw new Error(`attach() returned ${attached}`);

granted.get(1)!.set(Uint8Array.from({ length: abi.PAGE }, (_, i) => i % 251));
request(abi.BLKIF_OP_WRITE, 8, 1);
request(abi.BLKIF_OP_READ, 8, 2); // waits for the write: they overlap
serve();

const same = granted.get(1)!.every((byte, i) => byte === granted.get(2)![i]);
console.log(
  `${ring.getUint32(RING.rspProd, true)} responses; the guest read ${same ? "what it wrote" : "something else"}`,
);
