/** A suspended guest's disk that cannot be left to others, as the connection to it goes wrong in more than one way. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { RingHost } from "../../host/reactor/ring-host.js";
import { Result } from "../../host/storage/device.js";
import { testDevices } from "./device.js";
import { DOMID, LIMIT, onMachine, until } from "./harness.js";

const NOT_IN_ORDER = "the ring was not detached in order";

test(
  "a ring that is not detached in order, and a flush that fails: the disk stays open, and the guest's",
  LIMIT,
  () => {
    const { devices, open } = testDevices();
    let wrong = false;
    let left = 0;
    const between = (host: RingHost): RingHost => {
      const attach = host.attach.bind(host);
      host.attach = async (options) => {
        const ring = await attach(options);
        const detach = ring.detach.bind(ring);
        ring.detach = async () => {
          await detach();
          if (wrong) throw new Error(NOT_IN_ORDER);
        };
        return ring;
      };
      return host;
    };
    const leave = async (): Promise<void> => void left++;
    return onMachine(
      async (machine) => {
        const path = machine.image();
        await machine.plug({ path });
        const disk = await machine.connect(await machine.guest());
        const device = devices.get(path);
        assert.ok(device);
        device.fault = (operation) => (wrong && operation === "flush" ? Result.Failure : null);
        wrong = true;
        machine.host.suspendGuest(DOMID);
        const said = (what: string) => () => machine.log.some((line) => line.includes(what));
        await until("the ring's trouble is told", said(NOT_IN_ORDER));
        await until(
          "the flush's is told",
          said("cannot be flushed: the disk is not released; resume the guest"),
        );
        await until("the rings are served again", () => machine.status()?.queues === 1);
        assert.deepEqual({ closed: device.closed, left }, { closed: false, left: 0 });
        wrong = false;
        machine.host.resumeGuest(DOMID);
        await disk.read(0, new Uint8Array(4096));
        assert.equal(devices.get(path), device, "it was not opened again");
      },
      { open, between, leave },
    )();
  },
);
