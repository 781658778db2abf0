/** An operator's limits, where xenstore has not told yet what they were. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Backend } from "../../host/daemon/backend.js";
import { commands } from "../../host/daemon/commands.js";
import { Events } from "../../host/daemon/events.js";
import type { ReplacedImages } from "../../host/daemon/replaced-images.js";
import type { Xenstore } from "../../host/platform/ports.js";
import type { RingHost } from "../../host/reactor/ring-host.js";
import { type ThrottleChange, Throttling } from "../../host/vbd/throttling.js";

test("a limit that is set before the others are recalled leaves them as they are, here and in xenstore", async () => {
  const keys = new Map([
    ["d/state", "4"],
    ["d/limit-iops", "100"],
    ["d/paused", "1"],
  ]);
  const requests = {
    read: async (path: string) => keys.get(path) ?? null,
    write: async (path: string, value: string) => void keys.set(path, value),
    remove: async (path: string) => void keys.delete(path),
  };
  const transaction = (body: (t: typeof requests) => Promise<void>) => body(requests);
  const throttling = new Throttling({ ...requests, transaction } as unknown as Xenstore, "d");
  const vbd = {
    throttle: (change: ThrottleChange) => throttling.set(change, null),
    status: () => throttling.status,
  };
  const handle = commands(
    { vbd: () => vbd } as unknown as Backend,
    {} as RingHost,
    new Events(),
    {} as ReplacedImages,
  );
  const request = { command: "limit", vbd: "v", limits: { bps: 5000 } };
  // The vbd itself looks at the same moment, and hears of it later.
  const [answer] = await Promise.all([
    handle(request, new AbortController().signal),
    Promise.resolve().then(() => throttling.recall()),
  ]);
  const limits = { iops: 100, bps: 5000, burst: 1 };
  assert.deepEqual(answer, { limits, limitsFrom: "disk" });
  assert.deepEqual(throttling.status, { limits, limitsFrom: "disk", paused: true });
  assert.deepEqual(Object.fromEntries(keys), {
    "d/state": "4",
    "d/limit-iops": "100",
    "d/limit-bps": "5000",
    "d/paused": "1",
  });
});
