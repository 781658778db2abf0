import assert from "node:assert/strict";
import { test } from "node:test";
import * as format from "../../assembly/session/format.js";
import { decodeSession, encodeSession, readSession, type Session } from "../../host/session/index.js";

const header = {
  abi: 1,
  ringPages: 4,
  features: 0x2e,
  sectorSize: 2048,
  spoilt: 7,
  maxIndirect: 256,
  maxPersistent: 2048,
  batch: 512,
  domid: 0x7fef,
  maxIo: 1048576,
  sectors: 2 ** 44 - 4,
  start: 0xfffffff0,
  ahead: 3,
  passSegments: 300,
  passBytes: 65536,
};

const session: Session = {
  header,
  records: [
    { kind: "request", entry: Uint8Array.from({ length: 112 }, (_, i) => i) },
    { kind: "request", entry: new Uint8Array(0) },
    { kind: "push" },
    { kind: "index", which: 3, value: 0xdeadbeef },
    { kind: "page", gref: 0xfffffffe, offset: 4000, bytes: Uint8Array.of(1, 2, 3) },
    { kind: "step" },
    { kind: "complete", which: 511, result: 3 },
    { kind: "fault", distance: 4095, status: -11 },
    { kind: "trim", now: 600 },
    { kind: "resize", sectors: 2 ** 40 + 8 },
    { kind: "batch", batch: 0 },
    { kind: "budget", segments: 131072, bytes: 1 },
    { kind: "once" },
    { kind: "ended", slot: 40000, result: 2 },
    { kind: "grant", gref: 0x80000009, status: format.FORGOTTEN },
  ],
};

test("what is written is read again", () => {
  const bytes = encodeSession(session);
  assert.deepEqual(decodeSession(bytes), session);
  assert.deepEqual(readSession("x", bytes), session);
});

test("the bytes are those of the documentation", () => {
  const bytes = Buffer.from(encodeSession({ header, records: session.records.slice(2, 5) }));
  assert.equal(
    bytes.toString("hex"),
    `${"58424453"}${"0300"}${"01"}${"02"}${"2e00"}${"02"}${"07"}${"0001"}${"0008"}${"0002"}${"ef7f"}${"00001000"}` +
      `${"fcffffffff0f0000"}${"f0ffffff"}${"03000000"}${"2b010000"}${"ffff0000"}` +
      `${"01"}${"0203efbeadde"}${"03feffffffa00f0300010203"}`,
  );
});

test("any bytes are a session, and their meaning is stable", () => {
  const noise = Uint8Array.from({ length: 5000 }, (_, i) => (Math.imul(i + 7, 0x9e3779b1) >>> 13) & 255);
  for (let length = 0; length < 600; length++) {
    const decoded = decodeSession(noise.subarray(length, length * 9));
    assert.deepEqual(decodeSession(encodeSession(decoded)), decoded, `${length} bytes`);
  }
});

test("a record that the end cuts short is filled with zeros", () => {
  const bytes = encodeSession({ header, records: [{ kind: "index", which: 1, value: 0x01020304 }] });
  const { records } = decodeSession(bytes.subarray(0, bytes.length - 2));
  assert.deepEqual(records, [{ kind: "index", which: 1, value: 0x0304 }]);
});

test("a file of another kind or version is refused by name", () => {
  const bytes = encodeSession(session);
  assert.throws(() => readSession("a.xbds", bytes.subarray(0, 20)), /a\.xbds is not a session file/);
  assert.throws(
    () =>
      readSession(
        "b.png",
        Uint8Array.from(bytes, (b, i) => (i === 0 ? 0 : b)),
      ),
    /b\.png is not/,
  );
  const newer = bytes.slice();
  newer[format.HEADER_VERSION] = 4;
  assert.throws(() => readSession("c.xbds", newer), /c\.xbds has format version 4, this program reads 3/);
});
