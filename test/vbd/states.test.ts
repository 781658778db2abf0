/** The table of docs/xenbus.md: our state, the frontend's, and what comes of the two. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { backendPath, frontendPath, LIMIT, type Machine, onMachine, until } from "./harness.js";

interface Row {
  readonly ours: number;
  readonly connected: boolean;
  readonly online: 0 | 1;
  /** By the frontend's state 0, 1, 2, 3, 4, 5, 6: where it ends. */
  readonly ends: readonly number[];
}

const ROWS: readonly Row[] = [
  { ours: 2, connected: false, online: 1, ends: [2, 2, 2, 2, 2, 5, 6] },
  { ours: 2, connected: false, online: 0, ends: [6, 2, 2, 2, 2, 6, 6] },
  { ours: 4, connected: true, online: 1, ends: [6, 2, 4, 4, 4, 5, 6] },
  { ours: 5, connected: true, online: 0, ends: [6, 6, 5, 5, 5, 5, 6] },
  { ours: 5, connected: false, online: 0, ends: [6, 6, 6, 6, 6, 6, 6] },
  { ours: 6, connected: false, online: 1, ends: [6, 2, 6, 2, 2, 6, 6] },
  { ours: 6, connected: false, online: 0, ends: [6, 6, 6, 6, 6, 6, 6] },
  // Not connected, but at 4: left so by a daemon that has ended.
  { ours: 4, connected: false, online: 1, ends: [6, 2, 4, 4, 4, 5, 6] },
];

async function arrange(machine: Machine, { ours, connected, online }: Row, theirs: number): Promise<void> {
  const guest = await machine.guest();
  await machine.plug({ path: machine.image(), noHotplug: !connected });
  const front = machine.front(guest);
  await front.write(await front.ring());
  if (connected) await front.state(3);
  await machine.untilState(connected ? 4 : 2);
  // Both at once, so that nothing comes of one of them alone.
  await machine.xenstore.transaction(async (t) => {
    await t.write(`${backendPath()}/state`, String(ours));
    await t.write(`${backendPath()}/online`, String(online));
    if (theirs === 0) await t.remove(frontendPath());
    else await t.write(`${frontendPath()}/state`, String(theirs));
  });
}

for (const row of ROWS) {
  const { ours, connected, online, ends } = row;
  const what = `ours at ${ours}${connected ? ", connected" : ""}, online=${online}`;
  for (const [theirs, end] of ends.entries()) {
    test(
      `${what}, the frontend at ${theirs}: ${end}`,
      LIMIT,
      onMachine(async (machine) => {
        await arrange(machine, row, theirs);
        await machine.untilState(end);
        await machine.looked();
        await machine.untilState(end);
        await until("it has looked", () => machine.status()?.state === end);
        assert.equal(machine.status()?.queues, connected && (end === 4 || end === 5) ? 1 : 0);
        // The state that is at work has no reason to wait, and every other has one.
        assert.equal(machine.status()?.waitsFor === null, connected && end === 4);
      }),
    );
  }
}
