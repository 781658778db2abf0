/** A machine whose tmpfs has no room for one more journal, or for writes that are to be kept. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { JOURNAL_BYTES } from "../../host/core/journal.js";
import { joinGuest } from "../../host/guest/process.js";
import { paths } from "../../host/platform/loopback/layout.js";
import { removeVbd } from "../../host/toolstack/vbd.js";
import { vhostServer } from "../storage/vhost-server.js";
import { VolatileServer } from "../storage/vhost-volatile.js";
import { until } from "../vbd/harness.js";
import { type Backend, command, DEVID, Site } from "./processes.js";

const LIMIT = { timeout: 120_000 };
/** A namespace in which to mount. */
const NAMESPACE = ["--mount", ...(process.geteuid?.() === 0 ? [] : ["--map-root-user"])];
const sector = (byte: number): Uint8Array => new Uint8Array(4096).fill(byte);
/** Two journals, and a page for the directory. */
const ROOM = 2 * JOURNAL_BYTES + 4096;

/** A daemon that has a directory on a tmpfs of its own, which needs no root where users may have namespaces. */
function serveInLittleRoom(site: Site, directory: string, bytes: number): Backend {
  mkdirSync(directory, { recursive: true });
  const script = `mount -t tmpfs -o size=${bytes} little "$1" && shift && exec "$@"`;
  const serve = [process.execPath, command, "serve", "--directory", site.host.directory];
  return site.start("unshare", ...NAMESPACE, "sh", "-c", script, "sh", directory, ...serve);
}

/** Why nobody here may mount, or false. */
const noMounts =
  spawnSync("unshare", [...NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", tmpdir()]).status !== 0 &&
  "this user may not mount a tmpfs of its own (unshare --map-root-user)";

test("no room for one more journal: its disk is refused, and the others go on", {
  ...LIMIT,
  skip: noMounts,
}, async () => {
  const site = await Site.start();
  try {
    serveInLittleRoom(site, paths.journals(site.host.directory), ROOM);
    const guests = [];
    for (const domid of [1, 2]) {
      await site.plug(domid, 1 << 20);
      guests.push(await joinGuest(site.host.directory, domid, DEVID, { inFlightBytes: 1 << 20 }));
    }
    const spec = await site.plug(3, 1 << 20);
    const refused = joinGuest(site.host.directory, 3, DEVID, { inFlightBytes: 1 << 20 });
    await assert.rejects(refused);
    const error = await site.host.xenstore.read(`/local/domain/0/error/backend/vbd/3/${DEVID}/error`);
    assert.match(
      error ?? "",
      /no room for \S+ \(68 KiB\), where the journal of a ring is kept: free some space there$/,
    );
    assert.ok(
      site.log.some((line) => /domid=3 .*no room for/.test(line)),
      site.log.join("\n"),
    );
    for (const { disk } of guests) {
      await disk.write(0, sector(1));
      const seen = new Uint8Array(4096);
      await disk.read(0, seen);
      assert.deepEqual(seen, sector(1));
    }
    const vbds = async () => (await site.list()).vbds;
    assert.deepEqual(
      (await vbds()).map(({ queues }) => queues),
      [1, 1, 0],
    );
    // Room that one leaves is the next one's.
    await guests[0].stop();
    await until("it has let go", async () => (await vbds())[0].queues === 0);
    assert.equal(await removeVbd(site.host.xenstore, spec), "closed");
    await site.host.destroyGuest(3);
    await site.plug(4, 1 << 20);
    const next = await joinGuest(site.host.directory, 4, DEVID, { inFlightBytes: 1 << 20 });
    await next.disk.flush();
    await next.stop();
    await guests[1].stop();
  } finally {
    await site.close();
  }
});

for (const [what, bytes] of [
  ["for any write", 256 << 10],
  ["for as many writes as elsewhere", 6 << 20],
] as const) {
  test(`no room to keep writes, ${what}: they are flushed, and the guest sees no error`, {
    ...LIMIT,
    skip: noMounts,
  }, async (t) => {
    const server = new VolatileServer(8 << 20);
    const site = await Site.start();
    t.after(() => site.close());
    const { target } = await vhostServer(t, server.script);
    serveInLittleRoom(site, paths.keptWrites(site.host.directory), bytes);
    const spec = await site.plugTarget(1, target);
    const guest = await joinGuest(site.host.directory, 1, DEVID, {});
    const disk = Buffer.alloc(8 << 20);
    for (let at = 0; at < disk.length; at += 64 << 10) {
      disk.fill(1 + (at >> 16), at, at + (64 << 10));
      await guest.disk.write(at, disk.subarray(at, at + (64 << 10)));
    }
    if (bytes < 1 << 20) assert.deepEqual(server.stable, disk);
    await until("it is said", () =>
      site.log.some((line) => /little room is left for \S+: writes/.test(line)),
    );
    await guest.disk.flush();
    assert.deepEqual(server.stable, disk);
    await guest.stop();
    assert.equal(await removeVbd(site.host.xenstore, spec), "closed");
    await site.untilClean();
  });
}

test("no room to keep any writes of one more disk: it is refused", {
  ...LIMIT,
  skip: noMounts,
}, async (t) => {
  const site = await Site.start();
  t.after(() => site.close());
  const targets = [];
  for (let i = 0; i < 2; i++) targets.push((await vhostServer(t, new VolatileServer(1 << 20).script)).target);
  serveInLittleRoom(site, paths.keptWrites(site.host.directory), 4096);
  await site.plugTarget(1, targets[0]);
  const first = await joinGuest(site.host.directory, 1, DEVID, { inFlightBytes: 1 << 20 });
  await site.plugTarget(2, targets[1]);
  await assert.rejects(joinGuest(site.host.directory, 2, DEVID, { inFlightBytes: 1 << 20 }));
  const error = await site.host.xenstore.read(`/local/domain/0/error/backend/vbd/2/${DEVID}/error`);
  assert.match(error ?? "", /no room for \S+, where writes are kept that are not flushed: free some space/);
  await first.disk.write(0, sector(1));
  await first.stop();
});
