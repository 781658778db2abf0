/** Who is told of guests that are suspended, go on, and die. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Guests } from "../../host/daemon/guests.js";
import { LoopbackHost, xenstoreSocket } from "../../host/platform/loopback/host.js";
import { openDomain } from "../../host/platform/loopback/index.js";
import { connectXenstore } from "../../host/platform/xenstore/client.js";
import { until } from "../vbd/harness.js";

/** A machine with guests 1 and 2, and what was told of them. */
async function onMachine(
  body: (host: LoopbackHost, told: string[]) => Promise<void>,
  knows = true,
): Promise<void> {
  const host = await LoopbackHost.start();
  const xenstore = await connectXenstore(xenstoreSocket(host.directory, 0));
  const domain = await openDomain(host.directory, 0);
  const told: string[] = [];
  for (const domid of [1, 2]) await host.createGuest(domid, 1 << 20);
  const guests = new Guests({
    xenstore,
    isSuspended: async (domid) => (knows ? domain.isSuspended(domid) : null),
    domids: () => new Set([1, 2]),
    died: (domid) => void told.push(`${domid} died`),
    stopped: (domid) => void told.push(`${domid} stopped`),
  });
  try {
    await guests.start();
    await body(host, told);
  } finally {
    await guests.stop();
    await domain.close();
    xenstore.close();
    await host.close();
  }
}

test("a guest is looked at when it is suspended, when it goes on, and when it is suspended again", () =>
  onMachine(async (host, told) => {
    const next = async (...lines: string[]): Promise<void> => {
      await until(lines.join(), () => told.length >= lines.length);
      assert.deepEqual(told.splice(0), lines);
    };
    host.suspendGuest(1);
    await next("1 stopped");
    host.suspendGuest(2);
    // Of each it may be the news.
    await next("1 stopped", "2 stopped");
    host.resumeGuest(1);
    await next("1 stopped");
    host.resumeGuest(2);
    await next("2 stopped");
    host.suspendGuest(2);
    await next("2 stopped");
    await host.killGuest(2);
    await until("it has died", () => told.includes("2 died"));
    assert.ok(!told.some((line) => line.startsWith("1")));
  }));

test("where nobody tells of suspension, deaths are told of all the same", () =>
  onMachine(async (host, told) => {
    host.suspendGuest(1);
    await host.killGuest(1);
    await until("it has died", () => told.length > 0);
    assert.deepEqual(told, ["1 died"]);
  }, false));
