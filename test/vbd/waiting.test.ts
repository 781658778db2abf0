/** Storage that ceases to answer is told of once, and so is its return. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { BlockDevice, Outage } from "../../host/storage/device.js";
import { openDevice } from "../../host/storage/open.js";
import { LIMIT, onMachine, until } from "./harness.js";

const told: string[] = [];
let outage: Outage | null = null;

test(
  "an outage is one event, and its end another",
  LIMIT,
  onMachine(
    async (machine) => {
      const guest = await machine.guest();
      machine.image();
      await machine.plug();
      await machine.connect(guest);
      await until("it is attached", () => told.length === 1);
      outage = { reason: "its server has gone", since: Date.now() };
      await until("it is told", () => told.length > 1);
      outage = null;
      await until("its end is told", () => told.length > 2);
      assert.deepEqual(told.slice(1), ["waiting its server has gone", "answering the storage answers again"]);
    },
    {
      open: async (path, options) => {
        const device: BlockDevice = await openDevice(path, options);
        return Object.defineProperty(device, "outage", { get: () => outage });
      },
      tell: (_, event, message) => void told.push(`${event} ${message}`),
    },
  ),
);
