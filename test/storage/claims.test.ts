/** The open file that has the locks, where it is another one than the one that does the I/O. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync } from "node:fs";
import { constants } from "node:os";
import { test } from "node:test";
import { openStore } from "../../host/storage/open.js";
import { absent } from "../support/programs.js";
import { image } from "./helpers.js";

const { EBUSY } = constants.errno;
const USER = 2 ** 32 + 51712;

for (const readOnly of [false, true]) {
  test(`the locks and the I/O each keep others out, and only the I/O the same user; readOnly ${readOnly}`, async (t) => {
    const path = image(t, 4096);
    const claims = new Map<string, number>();
    const keeper = {
      get: (path: string) => claims.get(path) ?? null,
      add: (path: string, fd: number) => void claims.set(path, fd),
    };
    const options = { readOnly, user: USER, claims: keeper };
    const { fd } = await openStore(path, options);
    const claimed = claims.get(path) ?? -1;
    assert.notEqual(claimed, fd);
    // As after a kill: what was in flight still is, and the service manager has the locks.
    await assert.rejects(openStore(path, options), { errno: EBUSY });
    assert.equal(claims.get(path), claimed, "it is kept for the next attempt");
    closeSync(fd);
    await assert.rejects(openStore(path, { readOnly: false, user: 1 }), { errno: EBUSY });
    const next = await openStore(path, options);
    assert.equal(claims.get(path), claimed);
    // As after a stop of the unit: what was in flight still is.
    closeSync(claimed);
    claims.clear();
    await assert.rejects(openStore(path, { readOnly: false, user: 1 }), { errno: EBUSY });
    await assert.rejects(openStore(path, options), { errno: EBUSY });
    closeSync(next.fd);
    closeSync((await openStore(path, { readOnly: false, user: 1 })).fd);
  });
}

test("a shared disk has no locks, and its user waits all the same", async (t) => {
  const path = image(t, 4096);
  let claimed: number | null = null;
  const claims = { get: () => claimed, add: (_: string, fd: number) => void (claimed = fd) };
  const options = { readOnly: false, shared: true, user: USER, claims };
  const { fd } = await openStore(path, options);
  closeSync((await openStore(path, { readOnly: false, user: 1 })).fd);
  await assert.rejects(openStore(path, options), { errno: EBUSY });
  closeSync(fd);
  closeSync((await openStore(path, options)).fd);
});

test("QEMU does not write what is still being written", { skip: absent("qemu-io") }, async (t) => {
  const path = image(t, 4096);
  let claimed = -1;
  const claims = { get: () => null, add: (_: string, fd: number) => void (claimed = fd) };
  const { fd } = await openStore(path, { readOnly: false, user: USER, claims });
  const write = () => spawnSync("qemu-io", ["-f", "raw", "-c", "write 0 512", path]).status;
  closeSync(claimed);
  assert.equal(write(), 1);
  closeSync(fd);
  assert.equal(write(), 0);
});
