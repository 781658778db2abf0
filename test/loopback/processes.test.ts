import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { PAGE_SIZE } from "../../host/core/memory.js";
import { pollReadable } from "../../host/platform/libc.js";
import type { EventChannels, GuestPages } from "../../host/platform/ports.js";
import { GUEST, joinDomain, Peer, startHypervisor, until } from "./support.js";

/** This process is the guest: a granted page, and a port for domain 0. */
async function guest(t: TestContext) {
  const hypervisor = await startHypervisor(t);
  const domain = await joinDomain(t, hypervisor, GUEST);
  const pages: GuestPages = await domain.pages();
  const channels: EventChannels = await domain.eventChannels();
  const frame = pages.allocate(1);
  const ref = pages.grant(0, frame, false);
  const page = pages.memory.i32.subarray((frame * PAGE_SIZE) / 4, ((frame + 1) * PAGE_SIZE) / 4);
  const port = await channels.allocUnbound(0);
  return { hypervisor, directory: hypervisor.directory, pages, channels, ref, page, port };
}

/** Calls `react` for each event of the handle. */
function onEvent(t: TestContext, channels: EventChannels, react: () => void): void {
  const ports = new Uint32Array(4);
  const poll = pollReadable(channels.fd, () => {
    const count = channels.read(ports);
    for (let i = 0; i < count; i++) channels.unmask(ports[i]);
    if (count > 0) react();
  });
  t.after(() => poll.close());
}

test("atomic additions of two processes on one granted word are exact", { timeout: 120_000 }, async (t) => {
  const { hypervisor, directory, pages, ref, page } = await guest(t);
  page[1] = 300_000;
  const peers = [
    new Peer(t, "count", directory, 0, GUEST, ref),
    new Peer(t, "count", directory, 0, GUEST, ref),
  ];
  for (const peer of peers) await peer.hear();
  assert.equal(page[0], 600_000);

  assert.equal(hypervisor.grantsInUse(), 2);
  await peers[0].kill();
  await until(() => hypervisor.grantsInUse() === 1, "the first one's pin goes");
  assert.equal(pages.endAccess(ref), false, "the second one still has the page");
  await peers[1].kill();
  await until(() => hypervisor.grantsInUse() === 0, "the second one's pin goes");
  assert.equal(pages.endAccess(ref), true);
});

test("100000 events in turn between two processes, and none is lost", { timeout: 60_000 }, async (t) => {
  const { directory, channels, port } = await guest(t);
  const peer = new Peer(t, "echo", directory, 0, GUEST, port);
  await peer.hear();
  const rounds = 50_000;
  let answers = 0;
  await new Promise<void>((resolve) => {
    onEvent(t, channels, () => {
      if (++answers >= rounds) resolve();
      else channels.notify(port);
    });
    channels.notify(port);
  });
  assert.ok(answers >= rounds);
});

test("a notifier that is killed in a storm leaves a port that works", { timeout: 60_000 }, async (t) => {
  const { hypervisor, directory, channels, ref, page, port } = await guest(t);
  let seen = -1;
  onEvent(t, channels, () => {
    seen = Atomics.load(page, 0);
  });
  Atomics.store(page, 1, 0x7fffffff);
  for (let round = 0; round < 5; round++) {
    const peer = new Peer(t, "storm", directory, 0, GUEST, port, ref);
    await peer.hear();
    const from = Atomics.load(page, 0);
    await until(() => Atomics.load(page, 0) > from + 1000 * (round + 1), "the storm begins");
    await peer.kill();
    await until(() => hypervisor.portsInUse(0) === 0, "its port is closed");
  }
  Atomics.store(page, 1, Atomics.load(page, 0) + 5000);
  const last = new Peer(t, "storm", directory, 0, GUEST, port, ref);
  await until(() => seen === Atomics.load(page, 1), "the last event of the last process arrives");
  await last.kill();
});

test("a listener that is killed in a storm is followed by one that misses nothing", {
  timeout: 60_000,
}, async (t) => {
  const { hypervisor, directory, channels, ref, page, port } = await guest(t);
  for (let round = 0; round < 5; round++) {
    const peer = new Peer(t, "watch", directory, 0, GUEST, port, ref);
    let bound = false;
    peer.hear().then(
      () => (bound = true),
      () => {},
    );
    // The storm goes on before, while and after the process binds: all of it must have been seen at its end.
    const end = Date.now() + 3000;
    let after = 0;
    while (after < 2000) {
      Atomics.add(page, 0, 1);
      channels.notify(port);
      if (bound) after++;
      if (after % 100 === 0) await new Promise(setImmediate);
      assert.ok(Date.now() < end + 3000, "the listener binds");
    }
    await until(() => Atomics.load(page, 2) === Atomics.load(page, 0), `round ${round}: all was seen`);
    const storm = setInterval(() => channels.notify(port), 0);
    await peer.kill();
    clearInterval(storm);
    await until(() => hypervisor.portsInUse(0) === 0, "its port is closed");
  }
});

test("a process that is killed while it pins leaves nothing locked", { timeout: 120_000 }, async (t) => {
  const { hypervisor, directory, pages, ref } = await guest(t);
  for (let round = 0; round < 4; round++) {
    const peers = [
      new Peer(t, "copy", directory, 0, GUEST, ref),
      new Peer(t, "copy", directory, 0, GUEST, ref),
    ];
    for (const peer of peers) await peer.hear();
    await Promise.all(peers.map((peer) => peer.kill()));
    await until(() => hypervisor.sessions === 1, "both are gone");
    await until(() => hypervisor.grantsInUse() === 0, "their pins go");
  }
  await until(() => pages.endAccess(ref), "the guest has its page back");
});
