/** The end of a daemon of which something takes long that is not a disk's: its threads', on a slow machine. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { Departure } from "../../host/cli/departure.js";
import type { Daemon } from "../../host/daemon/serve.js";

test("where every disk is released, a stop that takes long is waited for, and nothing is said", async () => {
  let stopped = false;
  const daemon = {
    async stop() {
      // Longer than disks are given.
      await pause(1200);
      stopped = true;
    },
    unreleased: () => [],
  } as Partial<Daemon> as Daemon;
  const departure = new Departure();
  const asked = departure.ask();
  await departure.drain(daemon, 60, (message) => assert.fail(message));
  assert.ok(stopped);
  assert.deepEqual(await asked, { unreleased: [] });
});
