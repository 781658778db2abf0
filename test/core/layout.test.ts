/** The bytes on the ring: requests as blkif.h lays them out, written here by hand, and what a response may touch. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as abi from "../../assembly/abi.js";
import { EOPNOTSUPP, Guest, OKAY, short } from "./guest.js";
import { ALL_FEATURES, Harness } from "./harness.js";
import { encodeRequest, encodeSegment, type Layout, strideOf, type WireRequest } from "./wire.js";

/** An entry from hexadecimal digits; the rest, and all padding, is 0xee. */
function entry(layout: Layout, hex: string): Uint8Array {
  const bytes = new Uint8Array(strideOf(layout)).fill(0xee);
  bytes.set(Buffer.from(hex.replace(/[^0-9a-f]/g, ""), "hex"));
  return bytes;
}

const ID = 0x1122334455667788n;

interface Golden {
  request: WireRequest;
  /** operation, nr_segments, handle, [padding], id, sector_number, … */
  x86_64: string;
  x86_32: string;
  ios: string[];
  flags: number;
  /** gref, offset, length of every copy; ">" to the guest, "<" from it. */
  copies: string[];
  response: { operation: number; status: number };
}

const goldens: Record<string, Golden> = {
  READ: {
    request: {
      operation: 0,
      id: ID,
      sector: 16n,
      segments: [
        { gref: 0x0a0b0c0d, first: 2, last: 7 },
        { gref: 0x01020304, first: 0, last: 3 },
      ],
    },
    x86_64: `00 02 eeee eeeeeeee 8877665544332211 1000000000000000
             0d0c0b0a 02 07 eeee 04030201 00 03 eeee`,
    x86_32: `00 02 eeee 8877665544332211 1000000000000000
             0d0c0b0a 02 07 eeee 04030201 00 03 eeee`,
    ios: ["R16+10"],
    flags: 0,
    copies: ["> a0b0c0d 1024 3072", "> 1020304 0 2048"],
    response: { operation: 0, status: OKAY },
  },
  WRITE: {
    request: { operation: 1, id: ID, sector: 0x201n, segments: [{ gref: 0xf0e0d0c0, first: 7, last: 7 }] },
    x86_64: "01 01 eeee eeeeeeee 8877665544332211 0102000000000000 c0d0e0f0 07 07 eeee",
    x86_32: "01 01 eeee 8877665544332211 0102000000000000 c0d0e0f0 07 07 eeee",
    ios: ["W513+1"],
    flags: 0,
    copies: ["< f0e0d0c0 3584 512"],
    response: { operation: 1, status: OKAY },
  },
  "WRITE of eleven segments": {
    request: {
      operation: 1,
      id: ID,
      sector: 0n,
      segments: Array.from({ length: 11 }, (_, i) => ({ gref: 0x11 + i, first: 0, last: 0 })),
    },
    x86_64: `01 0b eeee eeeeeeee 8877665544332211 0000000000000000
             11000000 0000eeee 12000000 0000eeee 13000000 0000eeee 14000000 0000eeee 15000000 0000eeee 16000000 0000eeee
             17000000 0000eeee 18000000 0000eeee 19000000 0000eeee 1a000000 0000eeee 1b000000 0000eeee`,
    x86_32: `01 0b eeee 8877665544332211 0000000000000000
             11000000 0000eeee 12000000 0000eeee 13000000 0000eeee 14000000 0000eeee 15000000 0000eeee 16000000 0000eeee
             17000000 0000eeee 18000000 0000eeee 19000000 0000eeee 1a000000 0000eeee 1b000000 0000eeee`,
    ios: ["W0+11"],
    flags: 0,
    copies: Array.from({ length: 11 }, (_, i) => `< ${(0x11 + i).toString(16)} 0 512`),
    response: { operation: 1, status: OKAY },
  },
  WRITE_BARRIER: {
    request: { operation: 2, id: ID, sector: 8n, segments: [{ gref: 5, first: 0, last: 7 }] },
    x86_64: "02 01 eeee eeeeeeee 8877665544332211 0800000000000000 05000000 00 07 eeee",
    x86_32: "02 01 eeee 8877665544332211 0800000000000000 05000000 00 07 eeee",
    ios: ["W8+8"],
    flags: abi.IO_PREFLUSH | abi.IO_FUA,
    copies: ["< 5 0 4096"],
    response: { operation: 2, status: OKAY },
  },
  FLUSH_DISKCACHE: {
    request: { operation: 3, id: ID, sector: 0n },
    x86_64: "03 00 eeee eeeeeeee 8877665544332211 0000000000000000",
    x86_32: "03 00 eeee 8877665544332211 0000000000000000",
    ios: ["F"],
    flags: 0,
    copies: [],
    response: { operation: 3, status: OKAY },
  },
  "FLUSH_DISKCACHE with data": {
    request: { operation: 3, id: ID, sector: 8n, segments: [{ gref: 5, first: 0, last: 7 }] },
    x86_64: "03 01 eeee eeeeeeee 8877665544332211 0800000000000000 05000000 00 07 eeee",
    x86_32: "03 01 eeee 8877665544332211 0800000000000000 05000000 00 07 eeee",
    ios: ["W8+8"],
    flags: abi.IO_PREFLUSH,
    copies: ["< 5 0 4096"],
    response: { operation: 3, status: OKAY },
  },
  DISCARD: {
    request: { operation: 5, id: ID, sector: 0x102n, sectors: 0x304n, flag: 1 },
    x86_64: "05 01 eeee eeeeeeee 8877665544332211 0201000000000000 0403000000000000",
    x86_32: "05 01 eeee 8877665544332211 0201000000000000 0403000000000000",
    ios: ["D258+772"],
    flags: abi.IO_SECURE,
    copies: [],
    response: { operation: 5, status: OKAY },
  },
  "INDIRECT read": {
    request: { operation: 6, inner: 0, nrSegments: 2, id: ID, sector: 24n, indirectGrefs: [0x0badcafe] },
    x86_64: "06 00 0200 eeeeeeee 8877665544332211 1800000000000000 eeee eeee fecaad0b",
    x86_32: "06 00 0200 8877665544332211 1800000000000000 eeee eeee fecaad0b",
    ios: ["R24+9"],
    flags: 0,
    copies: ["< badcafe 0 16", "> 31 0 4096", "> 32 512 512"],
    response: { operation: 0, status: OKAY },
  },
  "INDIRECT write": {
    request: { operation: 6, inner: 1, nrSegments: 2, id: ID, sector: 24n, indirectGrefs: [0x0badcafe] },
    x86_64: "06 01 0200 eeeeeeee 8877665544332211 1800000000000000 eeee eeee fecaad0b",
    x86_32: "06 01 0200 8877665544332211 1800000000000000 eeee eeee fecaad0b",
    ios: ["W24+9"],
    flags: 0,
    copies: ["< badcafe 0 16", "< 31 0 4096", "< 32 512 512"],
    response: { operation: 1, status: OKAY },
  },
  "an operation that nobody knows": {
    request: { operation: 4, id: ID, sector: 0n },
    x86_64: "04 00 eeee eeeeeeee 8877665544332211 0000000000000000",
    x86_32: "04 00 eeee 8877665544332211 0000000000000000",
    ios: [],
    flags: 0,
    copies: [],
    response: { operation: 4, status: EOPNOTSUPP },
  },
};

const features = ALL_FEATURES | abi.FEATURE_SECURE_DISCARD;

for (const layout of ["x86_64", "x86_32"] as const) {
  for (const [name, golden] of Object.entries(goldens)) {
    test(`${layout}: ${name}`, () => {
      const h = new Harness({ layout, features, poison: 0xa5 });
      const bytes = entry(layout, golden[layout]);
      assert.deepEqual(
        Buffer.from(encodeRequest(layout, golden.request, 0xee)),
        Buffer.from(bytes),
        "the encoder",
      );
      for (const { gref } of golden.request.segments ?? []) h.page(gref);
      for (const gref of [0x31, 0x32]) h.page(gref);
      const indirect = new DataView(h.page(0x0badcafe).buffer);
      encodeSegment(indirect, 0, { gref: 0x31, first: 0, last: 7 });
      encodeSegment(indirect, 8, { gref: 0x32, first: 1, last: 1 });

      const at = h.putBytes(bytes);
      h.push();
      h.step();
      assert.deepEqual(h.ios.map(short), golden.ios);
      for (const io of h.ios) assert.equal(io.flags, golden.flags);
      h.finish();
      assert.deepEqual(
        h.copies.map((c) => `${c.toGuest ? ">" : "<"} ${c.gref.toString(16)} ${c.offset} ${c.length}`),
        golden.copies,
      );
      // Of the slot, the response has changed its own three fields and no byte more (XSA-216).
      const slot = bytes.slice();
      const view = new DataView(slot.buffer);
      view.setBigUint64(0, ID, true);
      view.setUint8(8, golden.response.operation);
      view.setInt16(10, golden.response.status, true);
      assert.deepEqual(Buffer.from(h.memory.u8.slice(at, at + bytes.length)), Buffer.from(slot), "the slot");
      h.release();
    });
  }

  test(`${layout}: slots lie ${strideOf(layout)} bytes apart, to the last`, () => {
    const h = new Harness({ layout, poison: 0xa5, ringPages: 2 });
    const guest = new Guest(h);
    const before = h.memory.u8.slice(abi.SRING + 64, abi.PERSISTENT);
    for (let i = 0; i < 64; i++) {
      const bytes = encodeRequest(layout, { operation: 4, id: guest.id(), sector: 0n }, 0xee);
      before.set(bytes, i * strideOf(layout));
      assert.equal(h.putBytes(bytes), abi.SRING + 64 + i * strideOf(layout));
    }
    h.push();
    h.step();
    const after = h.memory.u8.slice(abi.SRING + 64, abi.PERSISTENT);
    for (let i = 0; i < 64; i++) {
      const at = i * strideOf(layout);
      const id = new DataView(before.buffer).getBigUint64(at + (layout === "x86_64" ? 8 : 4), true);
      assert.equal(new DataView(after.buffer).getBigUint64(at, true), id);
      for (const touched of [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]) before[at + touched] = after[at + touched];
    }
    assert.deepEqual(Buffer.from(after), Buffer.from(before));
    h.release();
  });

  test(`${layout}: what the guest writes after the copy was taken is not seen (XSA-155)`, () => {
    const h = new Harness({ layout });
    const guest = new Guest(h);
    const write = guest.transfer(1, 0, guest.segments(11, 0, 0));
    const indirect = guest.indirect(1, 64, guest.segments(20, 1, 1));
    const trim = guest.discard(128, 8);
    const requests = [write, indirect, trim];
    for (const request of requests) h.put(request);
    h.push();
    let rounds = 0;
    h.onRound = () => {
      rounds++;
      h.memory.u8.fill(0xff, abi.SRING_ENTRIES, abi.PERSISTENT);
      // The first round copies the indirect page.
      if (rounds > 1) h.page(indirect.indirectGrefs[0]).fill(0xff);
    };
    h.step();
    assert.equal(rounds, 2);
    assert.deepEqual(h.ios.map(short).sort(), ["D128+8", "W0+11", "W64+20"]);
    h.finish();
    assert.deepEqual(h.statuses(requests), [OKAY, OKAY, OKAY]);
    assert.equal(h.copies.length, 11 + 1 + 20);
    h.release();
  });
}
