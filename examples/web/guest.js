// The guest of host.js: three requests on a ring of one page, as xen/include/public/io/blkif.h lays them out on x86-64.
import * as abi from "../../build/assembly/abi.js";

export const DISK_SECTORS = 64;
const BYTES = 3 * 512;
const ENTRY_BYTES = 112;

/** Its pages, by grant reference. */
export const granted = new Map([1, 2, 3].map((gref) => [gref, new Uint8Array(abi.PAGE)]));

const entry = (index) => abi.SRING_ENTRIES + (index % 32) * ENTRY_BYTES;

/** A request of one segment. `memory` is a view of the linear memory in which the ring lies. */
function put(memory, operation, sector, gref) {
  const index = memory.getUint32(abi.SRING_REQ_PROD, true);
  const at = entry(index);
  memory.setUint8(at, operation);
  memory.setUint8(at + 1, 1);
  memory.setBigUint64(at + 8, BigInt(100 + index), true);
  memory.setBigUint64(at + 16, BigInt(sector), true);
  memory.setUint32(at + 24, gref, true);
  memory.setUint8(at + 29, BYTES / 512 - 1);
  memory.setUint32(abi.SRING_REQ_PROD, index + 1, true);
}

export function begin(memory) {
  // An empty ring.
  memory.setUint32(abi.SRING_REQ_EVENT, 1, true);
  memory.setUint32(abi.SRING_RSP_EVENT, 1, true);
  granted.get(1).fill(0x78, 0, BYTES);
  put(memory, abi.BLKIF_OP_WRITE, 8, 1);
  put(memory, abi.BLKIF_OP_READ, 8, 2); // waits for the write: they overlap
  put(memory, abi.BLKIF_OP_READ, DISK_SECTORS - 1, 3); // past the end
}

const element = (id) => document.getElementById(id);

/** Shows the ring, and whether the guest has read what it wrote. */
export function show(memory) {
  const { SRING_REQ_PROD, SRING_REQ_EVENT, SRING_RSP_PROD, SRING_RSP_EVENT } = abi;
  const indices = Object.entries({ SRING_REQ_PROD, SRING_REQ_EVENT, SRING_RSP_PROD, SRING_RSP_EVENT });
  element("indices").textContent = indices
    .map(([name, at]) => `${name.slice(6).toLowerCase()} ${memory.getUint32(at, true)}`)
    .join(", ");
  for (let i = 0; i < memory.getUint32(abi.SRING_RSP_PROD, true); i++) {
    const at = entry(i);
    const bytes = Array.from(new Uint8Array(memory.buffer, at, 16), (byte) =>
      byte.toString(16).padStart(2, "0"),
    );
    const id = memory.getBigUint64(at, true);
    const cells = [i, id, memory.getUint8(at + 8), memory.getInt16(at + 10, true), bytes.join(" ")];
    const row = element("ring").insertRow();
    for (const cell of cells) row.insertCell().textContent = String(cell);
  }
  const same = granted.get(1).every((byte, i) => byte === granted.get(2)[i]);
  element("result").textContent = `The guest read ${same ? "what it wrote" : "something else"}.`;
}
