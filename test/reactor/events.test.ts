/** What a reactor makes of reads of event channels that somebody else made for it. */
import assert from "node:assert/strict";
import { constants } from "node:os";
import { test } from "node:test";
import type { EventChannels, GrantTable } from "../../host/platform/ports.js";
import { Reactor } from "../../host/reactor/reactor.js";

/** Answers each read with the ports of the next list; nobody has them, so they are re-armed at once. */
function reading(...lists: number[][]): { reactor: Reactor; rearmed: number[]; results: number[] } {
  const rearmed: number[] = [];
  const results: number[] = [];
  const next = (ports: Uint32Array): number => {
    const list = lists.shift() ?? [];
    ports.set(list);
    return list.length;
  };
  const events = {
    received(result: number, ports: Uint32Array) {
      results.push(result);
      return next(ports);
    },
    read: next,
    unmask: (port: number) => rearmed.push(port),
  };
  return { reactor: new Reactor(events as unknown as EventChannels, {} as GrantTable), rearmed, results };
}

const ports = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i);

test("after an overflow all ports are heard, however many they are", () => {
  const { reactor, rearmed, results } = reading(ports(1, 64), ports(65, 64), ports(129, 5));
  reactor.received(-constants.errno.EFBIG);
  assert.deepEqual(results, [-constants.errno.EFBIG]);
  assert.deepEqual(rearmed, ports(1, 133));
  assert.equal(reactor.eventReads, 3);
});

test("after an overflow all ports are heard on the event loop, too, where nothing makes the descriptor readable", () => {
  const { reactor, rearmed } = reading(ports(1, 64), ports(65, 64), ports(129, 5));
  reactor.dispatch();
  assert.deepEqual(rearmed, ports(1, 133));
});

test("a read that was not full costs no other", () => {
  const { reactor, rearmed } = reading(ports(1, 3), ports(4, 1));
  reactor.received(12);
  assert.deepEqual(rearmed, [1, 2, 3]);
});

test("a guest that rings without end does not keep the thread", () => {
  const { reactor } = reading(...Array.from({ length: 1000 }, () => ports(1, 64)));
  reactor.received(256);
  assert.equal(reactor.eventReads, 64);
});
