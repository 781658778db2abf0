/** Another medium in a CD-ROM drive: `xbdback change`, and the toolstack's way. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { type Blkfront, connectBlkfront } from "../../host/guest/blkfront.js";
import { joinDomain } from "../../host/guest/process.js";
import { xenstoreSocket } from "../../host/platform/loopback/host.js";
import type { Xenstore } from "../../host/platform/ports.js";
import { connectXenstore } from "../../host/platform/xenstore/client.js";
import { until } from "../vbd/harness.js";
import { LIMIT, MIB, World } from "./world.js";

const HDC = 5632;
const DRIVE = "/local/domain/0/backend/vbd/1/5632";

interface Shown {
  readonly device: string | null;
  readonly size: number;
}

async function worldWithDrive(t: TestContext, medium = "") {
  const world = await World.start(t);
  /** Media of different sizes, each filled with a byte of its own. */
  const media = ["a", "b", "c"].map((name, i) => {
    const path = world.image(`${name}.iso`, 0);
    writeFileSync(path, new Uint8Array((i + 1) * MIB).fill(name.charCodeAt(0)));
    return path;
  });
  const target = medium === "" ? "" : `,target=${media[0]}`;
  (await world.run("attach", "1", `vdev=hdc,devtype=cdrom${target}`)).expect(0);
  const xenstore = await connectXenstore(xenstoreSocket(world.directory, 0));
  t.after(() => xenstore.close());
  const shown = async (): Promise<Shown> => (await world.json<{ vbd: Shown }>("show", "1/hdc")).vbd;
  return { world, media, xenstore, shown };
}

async function connected(t: TestContext, world: World): Promise<Blkfront> {
  const domain = await joinDomain(world.directory, 1);
  const disk = await connectBlkfront(domain, HDC, { inFlightBytes: MIB });
  t.after(async () => {
    disk.onFailure = () => {};
    await disk.close().catch(() => {});
    await domain.leave();
  });
  return disk;
}

/** The byte that a request of a whole page finds everywhere. */
async function read(disk: Blkfront, position = 0): Promise<string> {
  const page = new Uint8Array(4096);
  await disk.read(position, page);
  assert.ok(page.every((byte) => byte === page[0]));
  return String.fromCharCode(page[0]);
}

const keys = async (xenstore: Xenstore, ...names: string[]): Promise<(string | null)[]> =>
  Promise.all(names.map((name) => xenstore.read(`${DRIVE}/${name}`)));

test("a guest at work gets another medium, none, and one again, and no request fails", LIMIT, async (t) => {
  const { world, media, xenstore, shown } = await worldWithDrive(t, "a");
  const disk = await connected(t, world);
  assert.equal(disk.size, MIB);
  let stop = false;
  const seen = new Set<string>();
  const reader = async (): Promise<void> => {
    while (!stop) seen.add(await read(disk, 4096 * Math.floor(Math.random() * 256)));
  };
  const readers = [reader(), reader(), reader(), reader()];
  await until("it reads", () => seen.has("a"));
  (await world.run("change", "1/hdc", media[1]))
    .expect(0)
    .expectMatch(/^xbdback1i5632: .*b\.iso, 2 MiB, is in the drive$/m);
  await until("the guest hears of the size", () => disk.size === 2 * MIB);
  await until("it reads the other", () => seen.has("b"));
  assert.deepEqual(await keys(xenstore, "params", "physical-device-path", "sectors", "state"), [
    ...[media[1], media[1], String((2 * MIB) / 512), "4"],
  ]);
  assert.equal((await shown()).device, media[1]);
  stop = true;
  await Promise.all(readers);
  assert.deepEqual(seen, new Set(["a", "b"]));
  // The old one is released, and the new one in use.
  (await world.run("attach", "2", `vdev=xvdb,target=${media[0]}`)).expect(0);
  (await world.run("attach", "2", `vdev=xvdc,target=${media[1]}`))
    .expect(5)
    .expectMatch(/in use by/, "stderr");

  (await world.run("change", "1/hdc", "--eject")).expect(0).expectMatch(/: the drive is empty$/m);
  await until("the guest hears of it", () => disk.size === 0);
  await assert.rejects(read(disk));
  assert.deepEqual(await keys(xenstore, "params", "physical-device-path"), ["", null]);
  (await world.run("change", "1/hdc", media[2])).expect(0);
  await until("the guest hears of it", () => disk.size === 3 * MIB);
  assert.equal(await read(disk, 3 * MIB - 4096), "c");
});

test("what cannot be had leaves the drive as it is, and a disk is no drive", LIMIT, async (t) => {
  const { world, media, xenstore, shown } = await worldWithDrive(t, "a");
  const before = await keys(xenstore, "params", "physical-device-path");
  const refused = async (): Promise<void> => {
    (await world.run("change", "1/hdc", `${media[1]}.no`)).expect(1).expectMatch(/no such file/i, "stderr");
    (await world.run("change", "1/hdc", "b.iso")).expect(1).expectMatch(/absolute path/, "stderr");
    assert.deepEqual(await keys(xenstore, "params", "physical-device-path"), before);
    await until("it is there", async () => (await shown()).device === media[0]);
  };
  await refused();
  const disk = await connected(t, world);
  await refused();
  assert.equal(await read(disk), "a");
  (await world.run("attach", "2", `vdev=xvdb,target=${media[1]}`)).expect(0);
  (await world.run("change", "1/hdc", media[1])).expect(5).expectMatch(/in use by xbdback2i51728/, "stderr");
  (await world.run("change", "2/xvdb", media[2])).expect(1).expectMatch(/is no CD-ROM drive/, "stderr");
  (await world.run("change", "1/hdc")).expect(2);
  (await world.run("change", "1/hdc", media[2], "--eject")).expect(2);
  assert.equal(await read(disk), "a");
  (await world.run("change", "1/hdc", media[2])).expect(0);
  assert.equal(await read(disk), "c");
});

test("a drive without a guest gets its medium, which the guest finds", LIMIT, async (t) => {
  const { world, media, shown } = await worldWithDrive(t);
  (await world.run("change", "1/hdc", media[1])).expect(0);
  assert.equal((await shown()).device, media[1]);
  const disk = await connected(t, world);
  assert.equal(disk.size, 2 * MIB);
  assert.equal(await read(disk), "b");
});

test(
  "the toolstack changes params alone, as xl does; what it names and cannot be had is said once",
  LIMIT,
  async (t) => {
    const { world, media, xenstore, shown } = await worldWithDrive(t, "a");
    const disk = await connected(t, world);
    await xenstore.write(`${DRIVE}/params`, media[2]);
    await until("the guest hears of it", () => disk.size === 3 * MIB);
    assert.equal(await read(disk), "c");
    await xenstore.write(`${DRIVE}/params`, `${media[2]}.no`);
    await until("it is said", () => /c\.iso\.no.*; the drive keeps .*c\.iso/.test(world.daemon.stderr));
    assert.equal(await read(disk), "c");
    await xenstore.write(`${DRIVE}/params`, "");
    await until("the guest hears of it", () => disk.size === 0);
    assert.equal((await shown()).size, 0);
  },
);

test(
  "daemons are killed while media are changed: the drive has what xenstore says, and no request fails",
  LIMIT,
  async (t) => {
    const { world, media, xenstore } = await worldWithDrive(t, "a");
    const disk = await connected(t, world);
    for (let round = 0; round < 6; round++) {
      const reads = [0, 1, 2, 3].map((page) => read(disk, page * 4096));
      const change = world.run("change", "1/hdc", media[(round + 1) % 2]);
      await new Promise((resolve) => setTimeout(resolve, 40 + 60 * round));
      world.daemon.process.kill("SIGKILL");
      await Promise.all([change, world.daemon.ended]);
      await world.serveAgain();
      await Promise.all(reads);
      const [params] = await keys(xenstore, "params");
      const there = String(params).endsWith("a.iso") ? "a" : "b";
      assert.equal(await read(disk), there);
      await until("the guest hears of the size", () => disk.size === (there === "a" ? 1 : 2) * MIB);
    }
  },
);
