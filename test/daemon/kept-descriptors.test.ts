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
  const stores = new Stores({ read: async () => null } as unknown as Xenstore, open, null, 16, descriptors);
  await stores.hold(path, { readOnly: false }, VBD);
  assert.deepEqual(stored, [NAME]);
  await assert.rejects(stores.release(VBD), /full/);
  assert.deepEqual(stored, []);
  assert.equal(isLocked(path), false);
  assert.throws(() => fstatSync(fd), { code: "EBADF" });
});
