/** Transfers in parts: no call is asked for more than its caller may take up at once. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { IOVEC_BYTES, type IoVector } from "../../host/storage/device.js";
import { type Most, transfer, WHOLE } from "../../host/storage/transfer.js";
import { EIO, scatter } from "./helpers.js";

/** The list's addresses and lengths. */
function entriesOf({ memory, table, count }: IoVector): [bigint, bigint][] {
  const words = new BigUint64Array(memory.memory.buffer, table, (count * IOVEC_BYTES) / 8);
  return Array.from({ length: count }, (_, i) => [words[2 * i], words[2 * i + 1]]);
}

/** Lengths of the calls that a transfer makes; each moves what `moves` says of it. */
function callsOf(io: IoVector, most: Most, moves = (bytes: number): number => bytes) {
  const calls: { position: number; lengths: number[] }[] = [];
  const covered: [bigint, bigint][] = [];
  let outcome: [number, number] | null = null;
  transfer(
    (position, part, done) => {
      const entries = entriesOf(part);
      calls.push({ position, lengths: entries.map(([, length]) => Number(length)) });
      const moved = moves(part.bytes);
      let left = BigInt(moved);
      for (const [address, length] of entries) {
        const here = left < length ? left : length;
        if (here > 0n) covered.push([address, here]);
        left -= here;
      }
      done(moved < 0 ? EIO : 0, Math.max(moved, 0));
    },
    1000,
    io,
    (...result) => (outcome = result),
    most,
  );
  return { calls, covered, outcome };
}

test("no call moves more bytes, or has more entries, than it may", () => {
  const io = scatter(4096, 512, 512, 512, 10_000, 100);
  const before = entriesOf(io);
  for (const most of [
    { bytes: 4096, entries: 2 },
    { bytes: 5000, entries: 1 },
    { bytes: 512, entries: 100 },
    { bytes: 1_000_000, entries: 3 },
  ]) {
    const { calls, covered, outcome } = callsOf(io, most);
    let position = 1000;
    for (const call of calls) {
      const bytes = call.lengths.reduce((sum, length) => sum + length, 0);
      assert.equal(call.position, position);
      assert.ok(bytes > 0 && bytes <= most.bytes && call.lengths.length <= most.entries, `${call.lengths}`);
      position += bytes;
    }
    assert.equal(position, 1000 + io.bytes);
    assert.deepEqual(outcome, [0, io.bytes]);
    // Each byte of each entry once, in its order.
    const joined: [bigint, bigint][] = [];
    for (const [address, length] of covered) {
      const last = joined.at(-1);
      if (last && last[0] + last[1] === address) last[1] += length;
      else joined.push([address, length]);
    }
    assert.deepEqual(joined, before);
    assert.deepEqual(entriesOf(io), before, "the list is whole again");
  }
});

test("a part that is cut short is continued where it ended, and an error ends all of it", () => {
  const io = scatter(4096, 4096);
  let call = 0;
  const cut = callsOf(io, { bytes: 4096, entries: 1 }, (bytes) => (call++ === 0 ? 100 : bytes));
  assert.deepEqual(
    cut.calls.map(({ lengths }) => lengths),
    [[4096], [3996], [4096]],
  );
  assert.deepEqual(cut.outcome, [0, 8192]);
  call = 0;
  const failed = callsOf(io, { bytes: 4096, entries: 1 }, (bytes) => (call++ === 0 ? bytes : -1));
  assert.deepEqual(failed.outcome, [EIO, 4096]);
});

test("without a limit the kernel gets the list as it is", () => {
  const { calls } = callsOf(scatter(4096, 512), WHOLE);
  assert.deepEqual(calls, [{ position: 1000, lengths: [4096, 512] }]);
});
