/** Who may have a store beside whom, where the store itself would let everybody in. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { symlinkSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { Stores } from "../../host/daemon/stores.js";
import type { Xenstore } from "../../host/platform/ports.js";
import type { BlockDevice } from "../../host/storage/device.js";
import { identityOf } from "../../host/storage/disk.js";
import { directory } from "../storage/helpers.js";

const URI = "nbd://server/disk";
const ONE = { domid: 1, devid: 51712 };
const TWO = { domid: 2, devid: 51712 };
const WRITE = { readOnly: false };

/** Stores that all open when `openAll` is called, and not before. */
function slow(): { stores: Stores; opened: string[]; openAll: (error?: Error) => void } {
  const opened: string[] = [];
  let openAll: (error?: Error) => void = () => {};
  const answer = new Promise<Error | undefined>((resolve) => (openAll = resolve));
  const xenstore = { read: async () => null } as unknown as Xenstore;
  const stores = new Stores(xenstore, async (_, __, { domid }) => {
    opened.push(`${domid}`);
    const error = await answer;
    if (error) throw error;
    return { close: async () => {} } as BlockDevice;
  });
  return { stores, opened, openAll: (error) => openAll(error) };
}

test("of two that come at the same time, the first gets the store, until it is closed", async () => {
  const { stores, opened, openAll } = slow();
  const first = stores.open(URI, WRITE, ONE);
  await assert.rejects(stores.open(URI, WRITE, TWO), /in use by xbdback1i51712, a disk of domain 1/);
  await assert.rejects(stores.hold(URI, { readOnly: true }, TWO), /in use by xbdback1i51712/);
  openAll();
  const device = await first;
  await assert.rejects(stores.open(URI, WRITE, TWO), /in use by/);
  await device.close();
  await stores.open(URI, WRITE, TWO);
  assert.deepEqual(opened, ["1", "2"]);
});

test("a store that could not be opened, readers, and what has no identity are in nobody's way", async () => {
  const { stores, openAll } = slow();
  const first = stores.open(URI, WRITE, ONE);
  openAll(new Error("no such server"));
  await assert.rejects(first, /no such server/);
  await assert.rejects(stores.open(URI, WRITE, TWO), /no such server/);
  const others = slow();
  others.openAll();
  for (const vbd of [ONE, TWO]) {
    await others.stores.open(URI, { readOnly: true }, vbd);
    await others.stores.open("/no/such/disk.img", WRITE, vbd);
  }
});

test("a socket is the same, by any name, when its server is started again", async (t: TestContext) => {
  const socket = join(directory(t), "nbd.sock");
  const target = `nbd+unix:///e?socket=${socket}`;
  const link = join(directory(t), "link.sock");
  symlinkSync(socket, link);
  const identities: string[] = [];
  for (let starts = 0; starts < 2; starts++) {
    const server = createServer().listen(socket);
    await once(server, "listening");
    identities.push(await identityOf(target), await identityOf(`nbd+unix:///e?socket=${link}`));
    await new Promise((resolve) => server.close(resolve));
    identities.push(await identityOf(target));
  }
  assert.equal(new Set(identities).size, 1, identities.join("\n"));
  assert.notEqual(await identityOf(`nbd+unix:///f?socket=${socket}`), identities[0]);
});
