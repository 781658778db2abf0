import type { Machine } from "../vbd/harness.js";

/** A frontend by hand, connected with an empty ring. */
export async function connected(machine: Machine) {
  const guest = await machine.guest();
  const path = machine.image();
  await machine.plug({ path });
  const front = machine.front(guest);
  const keys = await front.ring();
  await front.write(keys);
  await front.state(3);
  await machine.untilState(4);
  return { guest, path, front, keys };
}
