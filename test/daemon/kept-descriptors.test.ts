/** When an open file with a disk's locks is given back to the service manager: as soon as no disk has it, and not before. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync, fstatSync, openSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { KeptDescriptors } from "../../host/daemon/kept-descriptors.js";
import { Stores } from "../../host/daemon/stores.js";
import { tryLock } from "../../host/platform/libc.js";
import type { Xenstore } from "../../host/platform/ports.js";
import type { BlockDevice } from "../../host/storage/device.js";
import { fileIdentity } from "../../host/storage/identity.js";
import type { OpenOptions } from "../../host/storage/open.js";
import { image } from "../storage/helpers.js";

const VBD = { domid: 1, devid: 51712 };
const NAME = "xbdback1i51712";

/** Descriptors of which an earlier process has left these files, locked, with the names of the vbds that they are for. */
function left(t: TestContext, files: readonly { readonly name: string; readonly path: string }[] = []) {
  const stored: string[] = [];
  const inherited = files.map(({ name, path }) => {
    const fd = openSync(path, "r+");
    assert.ok(tryLock(fd, true));
    stored.push(name);
    return { name, fd };
  });
  const manager = {
    inherited,
    storeDescriptor: (name: string) => void stored.push(name),
    removeDescriptors: (name: string) => {
      for (let at = stored.indexOf(name); at >= 0; at = stored.indexOf(name)) stored.splice(at, 1);
    },
  };
  t.after(() => {
    for (const { fd } of inherited) {
      try {
        closeSync(fd);
      } catch {
        // It was given back.
      }
    }
  });
  return { stored, inherited, descriptors: new KeptDescriptors(manager) };
}

const isLocked = (path: string): boolean => spawnSync("flock", ["--nonblock", path, "true"]).status === 1;

test("what an attempt to open one image has left is not kept when the disk has another image", async (t) => {
  const [path, other] = [image(t, 4096), image(t, 4096)];
  const { stored, descriptors } = left(t, [{ name: NAME, path }]);
  const claims = descriptors.of(VBD);
  await claims.inherit([{ path, identity: await fileIdentity(path) }]);
  // It could not be opened for another reason, and is the disk's.
  await claims.undo();
  assert.ok(isLocked(path));
  assert.deepEqual(stored, [NAME]);
  await claims.inherit([{ path: other, identity: await fileIdentity(other) }]);
  assert.equal(isLocked(path), false);
  assert.deepEqual(stored, []);
});

test("what is in use is not given back when the vbds that are gone are looked for", async (t) => {
  const path = image(t, 4096);
  const { stored, descriptors } = left(t, [{ name: NAME, path }]);
  await descriptors.of(VBD).inherit([{ path, identity: await fileIdentity(path) }]);
  descriptors.sweep(() => false);
  await new Promise(setImmediate);
  assert.ok(isLocked(path));
  assert.deepEqual(stored, [NAME]);
});

test("a disk whose closing fails has no locks afterwards", async (t) => {
  const path = image(t, 4096);
  const { stored, inherited, descriptors } = left(t, []);
  const fd = openSync(path, "r+");
  inherited.push({ name: NAME, fd });
  assert.ok(tryLock(fd, true));
  const open = async (path: string, options: OpenOptions): Promise<BlockDevice> => {
    options.claims?.add(path, fd);
    return {
      close: async () => {
        throw new Error("its file system is full");
      },
    } as unknown as BlockDevice;
  };
  const stores = new Stores({ read: async () => null } as unknown as Xenstore, open, { descriptors });
  await stores.hold(path, { readOnly: false }, VBD);
  assert.deepEqual(stored, [NAME]);
  await assert.rejects(stores.release(VBD), /full/);
  assert.deepEqual(stored, []);
  assert.equal(isLocked(path), false);
  assert.throws(() => fstatSync(fd), { code: "EBADF" });
});

/** Opens whatever it is asked for as a disk whose file is kept. */
const opensKept = async (path: string, options: OpenOptions): Promise<BlockDevice> => {
  const fd = openSync(path, "r+");
  assert.ok(tryLock(fd, true));
  options.claims?.add(path, fd);
  return { name: path, refreshSize: async () => false, close: async () => {} } as unknown as BlockDevice;
};

test("while a disk is exchanged the files of both are kept; then those of the one that is there", async (t) => {
  const [path, other, third] = [image(t, 4096), image(t, 4096), image(t, 4096)];
  const { stored, descriptors } = left(t);
  const xenstore = { read: async () => null } as unknown as Xenstore;
  const stores = new Stores(xenstore, opensKept, { maxVbds: 1, descriptors });
  const readWrite = { readOnly: false };
  const device = await stores.open(path, readWrite, VBD);
  const dropped = await stores.prepare(other, readWrite, VBD);
  assert.deepEqual([stored, isLocked(path), isLocked(other)], [[NAME, NAME], true, true]);
  await dropped.drop();
  assert.deepEqual([stored, isLocked(path), isLocked(other)], [[NAME], true, false]);
  await assert.rejects(stores.prepare(path, readWrite, VBD), /in use by xbdback1i51712/);
  assert.deepEqual([stored, isLocked(path)], [[NAME], true]);

  const taken = await stores.prepare(third, readWrite, VBD);
  const now = taken.take();
  assert.equal(now?.name, third);
  assert.equal(stores.imageOf(VBD)?.path, third);
  assert.ok(isLocked(path), "the connection has it until it gives it back");
  await device.close();
  assert.deepEqual([stored, isLocked(path), isLocked(third)], [[NAME], false, true]);
  await now?.close();
  assert.ok(isLocked(third), "it is the vbd's until that is removed");
  await stores.release(VBD);
  assert.deepEqual([stored, isLocked(third)], [[], false]);
});

test("a disk that was prepared is not taken where the vbd has lost its own", async (t) => {
  const [path, other] = [image(t, 4096), image(t, 4096)];
  const { stored, descriptors } = left(t);
  const xenstore = { read: async () => null } as unknown as Xenstore;
  const stores = new Stores(xenstore, opensKept, { maxVbds: 1, descriptors });
  await assert.rejects(stores.prepare(other, { readOnly: false }, VBD), /xbdback1i51712 has no disk by now/);
  const device = await stores.open(path, { readOnly: false }, VBD);
  const prepared = await stores.prepare(other, { readOnly: false }, VBD);
  await stores.release(VBD);
  assert.equal(prepared.take(), null);
  await prepared.drop();
  await device.close();
  assert.deepEqual([stored, isLocked(path), isLocked(other)], [[], false, false]);
});
