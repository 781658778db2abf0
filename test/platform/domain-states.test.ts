/** What Xen's flags of a domain say, and a machine that has no such devices. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { CONTROL_DEVICES } from "../../host/platform/xen/abi.js";
import { DomainStates, suspended } from "../../host/platform/xen/domain-states.js";

/** XEN_DOMINF_* of xen/include/public/domctl.h; the reasons are SHUTDOWN_* of sched.h. */
const DYING = 1;
const HVM = 2;
const SHUT_DOWN = 4;
const PAUSED = 8;
const because = (reason: number): number => reason << 16;

test("only a domain that has shut down to be suspended, and is not dying, is suspended", () => {
  assert.ok(suspended(SHUT_DOWN | because(2)));
  assert.ok(suspended(SHUT_DOWN | HVM | PAUSED | because(2)));
  assert.ok(!suspended(because(2)));
  assert.ok(!suspended(PAUSED));
  assert.ok(!suspended(SHUT_DOWN | DYING | because(2)));
  // poweroff, reboot, crash, watchdog, soft reset
  for (const reason of [0, 1, 3, 4, 5]) assert.ok(!suspended(SHUT_DOWN | because(reason)), `${reason}`);
});

test("without the devices nothing is known, and nothing fails", {
  skip: existsSync(CONTROL_DEVICES.privcmd) && "this is a Xen domain",
}, () => {
  const states = new DomainStates();
  assert.equal(states.isSuspended(1), null);
  assert.equal(states.isSuspended(1), null);
  states.close();
});
