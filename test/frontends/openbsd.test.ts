/**
 * OpenBSD's xbf(4) asks for a response (rsp_event) after its request is on the ring, rings for every request, and never
 * looks again before it sleeps. A response that is published in between goes unnoticed, but for the event that follows.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { PAGE_SIZE } from "../../host/core/memory.js";
import { connected } from "../advisories/connected.js";
import { LIMIT, onMachine, until } from "../vbd/harness.js";

test(
  "a response that was published before rsp_event was written is announced at the next event, once",
  LIMIT,
  onMachine(async (machine) => {
    const { guest, front, keys } = await connected(machine);
    const { i32, u8 } = guest.pages.memory;
    // Operation 4 is answered at once, whatever else the entry holds.
    u8.fill(4, front.at + 64, front.at + PAGE_SIZE);
    const notifications = (): number => machine.backend.status()[0].counters.notifications;
    const ask = (response: number): number => Atomics.store(i32, (front.at >>> 2) + 3, response);
    const send = (index: number): void => {
      front.reqProd = index;
      front.kick(keys);
    };
    const answered = (index: number) => until(`response ${index} is there`, () => front.rspProd === index);
    send(1);
    await answered(1);
    assert.equal(notifications(), 1, "a new ring asks for the first response");
    send(2);
    await answered(2);
    assert.equal(notifications(), 1, "nobody has asked for the second");
    ask(2);
    front.kick(keys);
    await until("it is announced", () => notifications() === 2);
    for (let i = 0; i < 5; i++) front.kick(keys);
    ask(4);
    send(3);
    await answered(3);
    front.kick(keys);
    send(4);
    await answered(4);
    assert.equal(
      notifications(),
      3,
      "the same is not announced again, and what is to come not before it is there",
    );
  }),
);
