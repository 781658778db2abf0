/** Looking for work before sleeping (`serve --poll-us`), with a kernel that says what it likes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Reactor } from "../../host/reactor/reactor.js";
import { UringLoop } from "../../host/reactor/uring-loop.js";
import type { UringEngine } from "../../host/storage/uring/engine.js";

const MOST_CALLS = 1e6;

/** A ring whose kernel goes on promising completions, and has none. */
function promisingRing() {
  return {
    enters: 0,
    prepared: 0,
    ready: 0,
    promising: true,
    canWaitForMore: true,
    enter(): void {
      if (++this.enters > MOST_CALLS) throw new Error("it looks at the kernel's promises for ever");
    },
  };
}

function loopOver(
  ring: ReturnType<typeof promisingRing>,
  look: (loop: UringLoop) => boolean,
  reap: (loop: UringLoop) => void = () => {},
  askForSignals: () => boolean = () => false,
): UringLoop {
  const inbox = new Uint8Array(new ArrayBuffer(64));
  let quiet = false;
  const reactor = {
    events: { fd: 0, inbox, unmaskBy() {} },
    due: Number.POSITIVE_INFINITY,
    ready: false,
    watching: false,
    turn() {},
    quiet: () => (quiet = true),
    look: (): boolean => look(loop),
    listen(): boolean {
      const asked = quiet;
      quiet = false;
      return asked;
    },
  };
  const engine = {
    ...{ ring, underWay: 0, foreign: 0, hasAnswers: false, askForSignals },
    ...{ reap: () => reap(loop), read() {}, poll() {}, writeWord() {} },
  };
  const loop = new UringLoop({
    reactor: reactor as unknown as Reactor,
    engine: engine as unknown as UringEngine,
    wakeFd: 0,
    pollUs: 50,
    onWake() {},
    onTurn() {},
  });
  return loop;
}

test("requests are found while the kernel promises completions that do not come", async () => {
  let looks = 0;
  const loop = loopOver(promisingRing(), (loop) => {
    // The guest, which was asked for no events, puts a request on its ring after a while.
    if (++looks < 3) return false;
    loop.stop();
    return true;
  });
  await loop.run();
  assert.equal(looks, 3);
});

test("promises that are not kept do not keep the thread from sleeping", async () => {
  const ring = promisingRing();
  let looks = 0;
  const loop = loopOver(ring, () => {
    looks++;
    return false;
  });
  const enter = ring.enter;
  ring.enter = function (...args: unknown[]): void {
    // One that waits for a completion: the thread sleeps.
    if (args[0] === 1) loop.stop();
    enter.call(this);
  };
  await loop.run();
  assert.ok(looks > 0);
});

test("a guest that never ceases to ask keeps no completion waiting", async () => {
  const ring = promisingRing();
  ring.enter = () => void (ring.ready = 1);
  let looks = 0;
  const loop = loopOver(
    ring,
    () => {
      if (++looks > MOST_CALLS) throw new Error("the completion waits for ever");
      return true;
    },
    (loop) => {
      if (ring.ready > 0) loop.stop();
    },
  );
  await loop.run();
  assert.ok(looks <= 1);
});

test("an answer that comes before its signal was asked for is taken, and not slept on", async () => {
  const ring = promisingRing();
  const enters: unknown[] = [];
  const enter = ring.enter;
  ring.enter = function (...args: unknown[]): void {
    enters.push(args[0]);
    enter.call(this);
  };
  let asked = false;
  const loop = loopOver(
    ring,
    () => false,
    (loop) => {
      if (asked) loop.stop();
    },
    () => (asked = true),
  );
  await loop.run();
  assert.ok(asked);
  assert.ok(!enters.includes(1), "it has slept");
});
