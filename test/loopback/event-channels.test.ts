import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { Hypervisor } from "../../host/platform/loopback/index.js";
import type { EventChannels } from "../../host/platform/ports.js";
import { GUEST, joinDomain, startHypervisor, takeEvents } from "./support.js";

interface Pair {
  hypervisor: Hypervisor;
  front: EventChannels;
  back: EventChannels;
  frontPort: number;
  backPort: number;
}

/** A guest's port, bound by domain 0, with nothing pending. */
async function pair(t: TestContext): Promise<Pair> {
  const hypervisor = await startHypervisor(t);
  const front = await (await joinDomain(t, hypervisor, GUEST)).eventChannels();
  const back = await (await joinDomain(t, hypervisor, 0)).eventChannels();
  const frontPort = await front.allocUnbound(0);
  const backPort = await back.bindInterdomain(GUEST, frontPort);
  assert.deepEqual(takeEvents(back), [backPort], "pending at once");
  assert.deepEqual(takeEvents(front), [], "the other side is not");
  return { hypervisor, front, back, frontPort, backPort };
}

test("events go both ways, once each", async (t) => {
  const { front, back, frontPort, backPort } = await pair(t);
  for (let i = 0; i < 5; i++) front.notify(frontPort);
  assert.deepEqual(takeEvents(back), [backPort]);
  assert.deepEqual(takeEvents(back), []);
  back.notify(backPort);
  assert.deepEqual(takeEvents(front), [frontPort]);
});

test("a port that was read stays quiet until it is unmasked, and then tells what came meanwhile", async (t) => {
  const { front, back, frontPort, backPort } = await pair(t);
  const ports = new Uint32Array(4);
  front.notify(frontPort);
  assert.equal(back.read(ports), 1);
  front.notify(frontPort);
  front.notify(frontPort);
  assert.equal(back.read(ports), 0);
  back.unmask(backPort);
  assert.equal(back.read(ports), 1);
  assert.equal(ports[0], backPort);
  back.unmask(backPort);
  assert.equal(back.read(ports), 0);
  back.unmask(backPort);
  back.unmask(0);
  back.unmask(4096);
  assert.equal(back.read(ports), 0);
});

test("two handles of one domain get the events of their own ports only", async (t) => {
  const { hypervisor, front, back, frontPort, backPort } = await pair(t);
  const other = await (await joinDomain(t, hypervisor, 0)).eventChannels();
  const secondPort = await front.allocUnbound(0);
  const otherPort = await other.bindInterdomain(GUEST, secondPort);
  assert.deepEqual(takeEvents(other), [otherPort]);
  front.notify(frontPort);
  front.notify(secondPort);
  assert.deepEqual(takeEvents(back), [backPort]);
  assert.deepEqual(takeEvents(other), [otherPort]);
  other.notify(backPort);
  other.unmask(backPort);
  assert.deepEqual(takeEvents(front), [], "nobody notifies through a port of another handle");
  await assert.rejects(other.unbind(backPort), { code: "ENOTCONN" });
});

test("bind wants a port that waits for this domain", async (t) => {
  const { hypervisor, front, back, frontPort } = await pair(t);
  await assert.rejects(back.bindInterdomain(GUEST, frontPort), { code: "EINVAL" });
  await assert.rejects(back.bindInterdomain(GUEST, 77), { code: "EINVAL" });
  await assert.rejects(back.bindInterdomain(9, 1), { code: "ESRCH" });
  const forOther = await front.allocUnbound(3);
  await assert.rejects(
    back.bindInterdomain(GUEST, forOther),
    /port 2 of domain 5 is not waiting for domain 0/,
  );
  assert.equal(hypervisor.portsInUse(0), 1, "a failed bind leaves no port");
});

test("closing one end leaves the other unbound, for the same domain to bind again", async (t) => {
  const { hypervisor, front, back, frontPort, backPort } = await pair(t);
  front.notify(frontPort);
  await back.unbind(backPort);
  assert.deepEqual(takeEvents(back), [], "a closed port tells nothing");
  front.notify(frontPort);
  assert.equal(hypervisor.portsInUse(0), 0);

  const again = await (await joinDomain(t, hypervisor, 0)).eventChannels();
  const port = await again.bindInterdomain(GUEST, frontPort);
  assert.deepEqual(takeEvents(again), [port]);
  front.notify(frontPort);
  assert.deepEqual(takeEvents(again), [port]);
  again.notify(port);
  assert.deepEqual(takeEvents(front), [frontPort]);
  await again.close();
  await again.close();
  again.notify(port);
  assert.equal(again.read(new Uint32Array(4)), 0);
  assert.equal(hypervisor.portsInUse(0), 0);
  front.notify(frontPort);
  await back.bindInterdomain(GUEST, frontPort);
});

test("a port's number comes back only after its last event was read, and without that event", async (t) => {
  const { front, back, frontPort, backPort } = await pair(t);
  front.notify(frontPort);
  await back.unbind(backPort);
  const next = await back.bindInterdomain(GUEST, frontPort);
  assert.notEqual(next, backPort);
  assert.deepEqual(takeEvents(back), [next]);
  await back.unbind(next);
  assert.equal(await back.allocUnbound(GUEST), backPort);
  assert.deepEqual(takeEvents(back), []);
});

test("ports run out with a clear error, and come back", async (t) => {
  const { hypervisor, back } = await pair(t);
  const more = await (await joinDomain(t, hypervisor, 0)).eventChannels();
  await Promise.all(Array.from({ length: 4094 }, () => more.allocUnbound(GUEST)));
  await assert.rejects(back.allocUnbound(GUEST), { code: "ENOSPC", message: /all 4095 ports in use/ });
  await more.close();
  assert.equal(hypervisor.portsInUse(0), 1);
  await back.allocUnbound(GUEST);
});

test("a destroyed domain's peers become unbound, and its successor starts anew", async (t) => {
  const { hypervisor, front, back, frontPort, backPort } = await pair(t);
  await hypervisor.destroyDomain(GUEST);
  back.notify(backPort);
  front.notify(frontPort);
  assert.deepEqual(takeEvents(back), []);
  await assert.rejects(front.allocUnbound(0), { code: "ESRCH", message: /domain 5 was destroyed/ });

  await hypervisor.createDomain(GUEST, 1 << 20);
  const next = await (await joinDomain(t, hypervisor, GUEST)).eventChannels();
  const port = await next.bindInterdomain(0, backPort);
  assert.deepEqual(takeEvents(next), [port]);
  back.notify(backPort);
  assert.deepEqual(takeEvents(next), [port]);
  next.notify(port);
  assert.deepEqual(takeEvents(back), [backPort]);
});
