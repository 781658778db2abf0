/** What is opened for a drive, and when it is not put in. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { BackendKeys } from "../../host/vbd/backend-keys.js";
import { Exchange, type Prepared } from "../../host/vbd/exchange.js";
import type { VbdHost } from "../../host/vbd/host.js";

const ID = { domid: 1, devid: 5632 };
const KEYS = { mode: "r", cdrom: true, directIoSafe: false } as BackendKeys;

/** Media whose sectors have so many bytes, and those that were dropped. */
function scene(sectorSize = 512) {
  const dropped: string[] = [];
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => (open = resolve));
  const prepare = async (path: string): Promise<Prepared> => {
    await opened;
    if (path.endsWith("no")) throw new Error(`${path}: no such file`);
    const device = { name: path, sectorSize } as Prepared["device"];
    return { device, take: () => device, drop: async () => void dropped.push(path) };
  };
  const exchange = new Exchange({ prepare } as unknown as VbdHost, ID, () => {});
  return { exchange, dropped, open };
}

test("a medium is there once it is announced, and for one taker", async () => {
  const { exchange, dropped, open } = scene();
  const announced: string[] = [];
  const done = exchange.prepare("/a", KEYS, 512, async () => {
    assert.equal(exchange.take(), null);
    announced.push("/a");
  });
  assert.equal(exchange.wants("/b", "/"), false, "one at a time");
  await assert.rejects(
    exchange.prepare("/b", KEYS, 512, async () => {}),
    /being changed already/,
  );
  open();
  await done;
  assert.equal(exchange.wants("/b", "/"), false, "it waits to be put in");
  assert.equal(exchange.take()?.path, "/a");
  assert.equal(exchange.take(), null);
  assert.deepEqual([announced, dropped], [["/a"], []]);
});

test("what does not fit, is not announced, or is wanted no more is closed", async () => {
  const { exchange, dropped, open } = scene(2048);
  open();
  await assert.rejects(
    exchange.prepare("/big", KEYS, 512, async () => {}),
    /sectors of 2048 bytes, and the guest knows the drive's to be of 512: detach the drive/,
  );
  await assert.rejects(
    exchange.prepare("/late", KEYS, 2048, async () => {
      throw new Error("the toolstack has changed the drive meanwhile");
    }),
    /the toolstack has changed the drive meanwhile/,
  );
  const fails = async (): Promise<void> => {
    throw new Error("no xenstore");
  };
  await assert.rejects(exchange.prepare("/untold", KEYS, 2048, fails), /no xenstore/);
  await exchange.prepare("/fits", KEYS, 4096, async () => {});
  await exchange.drop();
  await exchange.drop();
  assert.deepEqual(dropped, ["/big", "/late", "/untold", "/fits"]);
});

test("what the toolstack names and cannot be had is tried once, until it names what is there", async () => {
  const { exchange, open } = scene();
  open();
  assert.equal(exchange.wants("/a", "/a"), false);
  assert.equal(exchange.wants("/no", "/a"), true);
  await assert.rejects(
    exchange.prepare("/no", KEYS, 512, async () => {}),
    /no such file/,
  );
  assert.equal(exchange.wants("/no", "/a"), false);
  assert.equal(exchange.wants("/b", "/a"), true);
  assert.equal(exchange.wants("/a", "/a"), false);
  assert.equal(exchange.wants("/no", "/a"), true, "perhaps it is there by now");
});
