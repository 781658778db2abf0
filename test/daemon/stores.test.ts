/** Who may have a store beside whom, where the store itself would let everybody in. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { symlinkSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { Stores } from "../../host/daemon/stores.js";
import { type Xenstore, XenstoreError } from "../../host/platform/ports.js";
import type { BlockDevice } from "../../host/storage/device.js";
import { identityOf } from "../../host/storage/disk.js";
import type { OpenOptions } from "../../host/storage/open.js";
import { directory } from "../storage/helpers.js";

const URI = "nbd://server/disk";
const ONE = { domid: 1, devid: 51712 };
const TWO = { domid: 2, devid: 51712 };
const WRITE = { readOnly: false };

/** Stores that all open when `openAll` is called, and not before. */
function slow(): { stores: Stores; opened: string[]; closed: string[]; openAll: (error?: Error) => void } {
  const opened: string[] = [];
  const closed: string[] = [];
  let openAll: (error?: Error) => void = () => {};
  const answer = new Promise<Error | undefined>((resolve) => (openAll = resolve));
  const xenstore = { read: async () => null } as unknown as Xenstore;
  const stores = new Stores(xenstore, async (_, __, { domid }) => {
    opened.push(`${domid}`);
    const error = await answer;
    if (error) throw error;
    return {
      close: async () => void closed.push(`${domid}`),
      refreshSize: async () => false,
    } as unknown as BlockDevice;
  });
  return { stores, opened, closed, openAll: (error) => openAll(error) };
}

test("where a driver domain may not read the keys of domains, a disk in use is refused as such", async () => {
  const xenstore = {
    read: async (path: string) => {
      throw new XenstoreError("EACCES", `read ${path}`);
    },
  } as unknown as Xenstore;
  const stores = new Stores(xenstore, async () => ({ close: async () => {} }) as unknown as BlockDevice);
  await stores.hold(URI, WRITE, ONE);
  await assert.rejects(stores.hold(URI, WRITE, TWO), /in use by xbdback1i51712, a disk of domain 1/);
});

test("of two that come at the same time, the first gets the disk, until its vbd is removed", async () => {
  const { stores, opened, closed, openAll } = slow();
  const first = stores.open(URI, WRITE, ONE);
  await assert.rejects(stores.open(URI, WRITE, TWO), /in use by xbdback1i51712, a disk of domain 1/);
  await assert.rejects(stores.hold(URI, { readOnly: true }, TWO), /in use by xbdback1i51712/);
  openAll();
  const device = await first;
  await assert.rejects(stores.open(URI, WRITE, TWO), /in use by/);
  await device.close();
  // The frontend has closed, and connects again, as GRUB and Linux do; the hotplug script may ask again at any time.
  await assert.rejects(stores.open(URI, WRITE, TWO), /in use by/);
  await stores.hold(URI, WRITE, ONE);
  const again = await stores.open(URI, WRITE, ONE);
  assert.equal(again, device);
  await stores.hold(URI, WRITE, ONE);
  await assert.rejects(stores.hold("/other.img", WRITE, ONE), /xbdback1i51712 still uses nbd:/);
  assert.deepEqual(opened, ["1"]);
  await stores.release(ONE);
  await assert.rejects(stores.open(URI, WRITE, TWO), /in use by/);
  await again.close();
  assert.deepEqual(closed, ["1"]);
  await stores.open(URI, WRITE, TWO);
  assert.deepEqual(opened, ["1", "2"]);
});

test("another disk for the same vbd; one whose flush has failed; and the end", async () => {
  const { stores, opened, closed, openAll } = slow();
  openAll();
  await stores.hold(URI, WRITE, ONE);
  await stores.hold(`${URI}2`, WRITE, ONE);
  assert.deepEqual(closed, ["1"]);
  const device = await stores.open(`${URI}2`, WRITE, ONE);
  device.flushErrno = 5;
  await device.close();
  assert.equal(closed.length, 2);
  const fresh = await stores.open(`${URI}2`, WRITE, ONE);
  assert.equal(opened.length, 3);
  stores.keepNothing();
  await fresh.close();
  assert.equal(closed.length, 3);
  await stores.hold(URI, WRITE, TWO);
  await stores.close();
  assert.equal(closed.length, 4);
});

test("a disk that is changed under a vbd is opened again only while the vbd is to have it", async () => {
  const { stores, opened, closed, openAll } = slow();
  openAll();
  await stores.hold(URI, WRITE, ONE);
  const releases = stores.releasesOf(ONE);
  await (await stores.reopen(URI, WRITE, ONE, { releases })).close();
  assert.deepEqual([opened.length, closed.length], [2, 1]);
  // What has failed in the midst of it leaves no disk that the next connection would get.
  const fails = async (): Promise<void> => {
    throw new Error("no");
  };
  await assert.rejects(stores.reopen(URI, WRITE, ONE, { releases, closing: fails }), /^Error: no$/);
  assert.equal(stores.deviceOf(ONE), null);
  assert.equal(closed.length, 2);
  await stores.hold(URI, WRITE, ONE);
  // The vbd is removed while that is about to be done.
  const released = stores.release(ONE);
  await assert.rejects(stores.reopen(URI, WRITE, ONE, { releases }), /the disk was closed meanwhile/);
  await released;
  assert.deepEqual([opened.length, closed.length], [3, 3]);
  assert.equal(stores.deviceOf(ONE), null);
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
    await (await others.stores.open(URI, { readOnly: true }, vbd)).close();
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

test("a domain gets so many disks, connected or not, and a disk that is released counts no longer", async () => {
  const xenstore = { read: async () => null } as unknown as Xenstore;
  const device = { close: async () => {}, refreshSize: async () => false } as unknown as BlockDevice;
  const stores = new Stores(xenstore, async () => ({ ...device }), { maxVbds: 2 });
  const hold = (devid: number, domid = 1) => stores.hold(`${URI}${domid}-${devid}`, WRITE, { domid, devid });
  // At the same time: the third one is the one too many.
  const outcomes = await Promise.allSettled([hold(1), hold(2), hold(3)]);
  assert.deepEqual(
    outcomes.map(({ status }) => status),
    ["fulfilled", "fulfilled", "rejected"],
  );
  await assert.rejects(hold(3), /: domain 1 has 2 disks, as many as it may: detach a disk, .*--max-vbds$/);
  await hold(2);
  await hold(3, 2);
  await stores.forget({ domid: 1, devid: 1 });
  await hold(3);
});

test("a disk that has been held since the script's question has its present size when a frontend connects", async () => {
  let size = 1 << 20;
  const device = {
    size,
    async refreshSize(): Promise<boolean> {
      device.size = size;
      return true;
    },
    close: async () => {},
  };
  const xenstore = { read: async () => null } as unknown as Xenstore;
  const stores = new Stores(xenstore, async () => device as unknown as BlockDevice);
  await stores.hold(URI, WRITE, ONE);
  size = 4 << 20;
  const connected = await stores.open(URI, WRITE, ONE);
  assert.equal(connected.size, 4 << 20);
  await connected.close();
  size = 2 << 20;
  assert.equal((await stores.open(URI, WRITE, ONE)).size, 2 << 20);
});

test("the disk of a domain of type hvm is opened beside its device model, and others alone", async () => {
  const read = async (path: string) => (path === "/libxl/1/type" ? "hvm" : null);
  const opened: OpenOptions[] = [];
  const stores = new Stores({ read } as unknown as Xenstore, async (_, options) => {
    opened.push(options);
    return { close: async () => {} } as unknown as BlockDevice;
  });
  await stores.hold(`${URI}1`, WRITE, ONE);
  await stores.hold(`${URI}2`, WRITE, TWO);
  assert.deepEqual(
    opened.map(({ deviceModel, again }) => [deviceModel, again]),
    [
      [true, false],
      [false, false],
    ],
  );
});
