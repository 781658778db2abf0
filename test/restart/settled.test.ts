/** What a journal says of the disk that its process had: whether all was answered, and whether a flush had failed. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { JOURNAL_IDENTITY_BYTES } from "../../assembly/abi.js";
import { RingJournal } from "../../host/reactor/journal.js";
import { directory } from "../storage/helpers.js";

test("a journal is settled after its disk, until the next process begins; a failed last flush stays", (t) => {
  const path = join(directory(t), "journal");
  const first = RingJournal.create(path, new Uint8Array(JOURNAL_IDENTITY_BYTES));
  assert.equal(first.settled, false);
  first.handedOver = 5;
  assert.equal(first.settled, false);
  first.release();
  first.settle(5);

  const second = RingJournal.open(path);
  assert.ok(second);
  assert.deepEqual([second.settled, second.flushErrno, second.handedOver], [true, 5, 5]);
  second.unsettle();
  assert.deepEqual([second.settled, second.flushErrno, second.handedOver], [false, 5, 0]);
  second.release();
  second.settle(0);

  const third = RingJournal.open(path);
  assert.ok(third);
  assert.deepEqual([third.settled, third.flushErrno], [true, 5]);
  third.remove();
  third.settle(0);
});
