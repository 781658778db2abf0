import assert from "node:assert/strict";
import { test } from "node:test";
import { Arbiter, type Handle, type PortSpace } from "../../host/platform/loopback/arbiter.js";
import * as words from "../../host/platform/loopback/evtchn-words.js";

function space(domid: number): PortSpace {
  return { domid, words: new Int32Array(words.EVTCHN_BYTES / 4), ports: new Map() };
}

function handle(id: number, of: PortSpace): Handle {
  return { id, space: of, ports: new Set(), queued: new Set() };
}

/** Domain 5's port 1 (handle 1), bound to domain 0's port 1 (handle 2). */
function pair() {
  const rung: [number, number][] = [];
  const arbiter = new Arbiter((id, port) => rung.push([id, port]));
  const front = handle(1, space(5));
  const back = handle(2, space(0));
  const frontPort = arbiter.allocUnbound(front, 0);
  const backPort = arbiter.bindInterdomain(back, front.space, frontPort.number);
  return { rung, arbiter, front, back, frontPort, backPort };
}

test("binding queues the new port, and links both ways", () => {
  const { rung, front, back } = pair();
  assert.deepEqual(rung, [[2, 1]]);
  const link = { domid: 0, port: 0, generation: 0 };
  assert.ok(words.readLink(front.space.words, 1, link));
  assert.deepEqual([link.domid, link.port], [0, 1]);
  assert.ok(words.readLink(back.space.words, 1, link));
  assert.deepEqual([link.domid, link.port], [5, 1]);
});

test("an event whose notifier died before it queued it is queued by the hypervisor", () => {
  const { rung, arbiter, front, back } = pair();
  rung.length = 0;
  assert.equal(words.raise(front.space.words, 1, 0), true, "the notifier dies here");
  arbiter.closeHandle(back);
  assert.deepEqual(rung, [[1, 1]]);
  assert.equal(words.take(front.space.words, 1, 1), true);
  assert.equal(words.take(front.space.words, 1, 1), false);
});

test("a peer that has nothing pending, or is masked, is not disturbed by a close", () => {
  const { rung, arbiter, front, back, backPort } = pair();
  rung.length = 0;
  words.raise(front.space.words, 1, 0);
  words.take(front.space.words, 1, 1);
  words.raise(front.space.words, 1, 0);
  arbiter.close(back, backPort);
  assert.deepEqual(rung, []);
});

test("an old link cannot raise a port that was closed, nor its successor", () => {
  const { arbiter, front, frontPort } = pair();
  const before = words.generationOf(front.space.words, 1);
  arbiter.close(front, frontPort);
  assert.equal(words.raise(front.space.words, 1, before), false);
  const next = arbiter.allocUnbound(front, 0);
  assert.equal(next.number, 1);
  assert.equal(words.raise(front.space.words, 1, before), false);
  assert.equal(words.isQueued(front.space.words, 1), false);
});

test("ports that were closed with an event unread are free again when their handle goes", () => {
  const { arbiter, back, backPort } = pair();
  arbiter.close(back, backPort);
  const other = handle(3, back.space);
  assert.equal(arbiter.allocUnbound(other, 5).number, 2);
  arbiter.closeHandle(back);
  assert.equal(arbiter.allocUnbound(other, 5).number, 1);
});
