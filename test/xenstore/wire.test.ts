import assert from "node:assert/strict";
import { test } from "node:test";
import {
  decodeStrings,
  encodeMessage,
  encodeStrings,
  MessageDecoder,
  MessageType,
  OversizedMessage,
  PAYLOAD_MAX,
} from "../../host/platform/xenstore/wire.js";

test("a message is four little-endian words and its payload", () => {
  const bytes = encodeMessage(MessageType.read, 0x01020304, 0xfffffffe, encodeStrings("/a"));
  assert.equal(bytes.toString("hex"), "0200000004030201feffffff030000002f6100");
});

test("the decoder follows a stream however it is cut", () => {
  const messages = [encodeStrings("/a", "t"), Buffer.alloc(0), Buffer.alloc(PAYLOAD_MAX, 7)];
  const stream = Buffer.concat(messages.map((payload, i) => encodeMessage(i, i + 10, i + 20, payload)));
  for (const step of [1, 2, 15, 16, 17, 4096, stream.length]) {
    const decoder = new MessageDecoder();
    const seen: unknown[] = [];
    for (let at = 0; at < stream.length; at += step) {
      decoder.push(stream.subarray(at, at + step));
      for (let m = decoder.next(); m; m = decoder.next()) {
        seen.push([m.type, m.requestId, m.transactionId, m.payload.toString("hex")]);
      }
    }
    assert.deepEqual(
      seen,
      messages.map((payload, i) => [i, i + 10, i + 20, payload.toString("hex")]),
    );
  }
});

test("a length beyond the limit is refused before its payload comes", () => {
  const decoder = new MessageDecoder();
  const header = encodeMessage(MessageType.read, 1, 0, Buffer.alloc(0));
  header.writeUInt32LE(PAYLOAD_MAX + 1, 12);
  decoder.push(header);
  assert.throws(() => decoder.next(), OversizedMessage);
});

test("strings end with a NUL; what follows the last is left out", () => {
  assert.deepEqual(decodeStrings(Buffer.from("a\0\0b\0rest")), ["a", "", "b"]);
  assert.deepEqual(decodeStrings(Buffer.from("rest")), []);
  assert.deepEqual(decodeStrings(encodeStrings("ä", "")), ["ä", ""]);
});
