/** Disk images of QEMU's formats, made by qemu-img, through the whole of xbdback: daemon, helper, ring, guest. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { copyFileSync, existsSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { World } from "../cli/world.js";
import { eventually, type Running, sha256 } from "../e2e/harness.js";
import { helperOf, MIB, progress, SIZE, verified, withPrograms, work } from "./support.js";

/** Random data with holes in it. */
function content(): Buffer {
  const bytes = randomBytes(SIZE);
  bytes.fill(0, SIZE >> 2, SIZE >> 1);
  bytes.fill(0x5a, 16 * MIB, 16 * MIB + 512);
  return bytes;
}

function lives(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** A guest whose disk other programs read and write, at a URI. */
async function exporting(world: World): Promise<{ guest: Running; uri: string }> {
  const socket = world.scene.path("guest.sock");
  const guest = world.start("guest", "--domid", "1", "--nbd", socket);
  await guest.until(/"listening"/);
  return { guest, uri: `nbd+unix:///?socket=${socket}` };
}

/** The hash of what an image holds, whatever its format. */
async function hashOf(world: World, format: string, image: string): Promise<string> {
  const raw = world.scene.path("as.raw");
  await world.scene.run("qemu-img", "convert", "-f", format, "-O", "raw", image, raw);
  return sha256(raw);
}

/** An image is in order but, after a kill, for clusters that nobody uses, which QEMU calls leaks. */
async function checkImage(world: World, format: string, image: string, killed = false): Promise<void> {
  const outcome = await world.scene.start("qemu-img", ["check", "-f", format, image]).outcome();
  const fine = outcome.status === 0 || (killed && outcome.status === 3);
  assert.ok(fine && !/ERROR/.test(outcome.stdout + outcome.stderr), outcome.story);
}

const QEMU = ["qemu-storage-daemon", "qemu-img"] as const;

/** xl's name of a format, QEMU's, options of its image, and whether qemu-img can check it. */
const FORMATS: [string, string, string[], boolean][] = [
  ["qcow2", "qcow2", [], true],
  ["vhd", "vpc", ["-o", "subformat=dynamic,force_size=on"], false],
  ["vhdx", "vhdx", [], true],
  ["vmdk", "vmdk", [], true],
  ["vdi", "vdi", [], true],
  ["qed", "qed", [], true],
];

for (const [format, driver, options, checkable] of FORMATS) {
  withPrograms(QEMU, `${format}: what is in the image is what the guest reads and writes`, async (t) => {
    const world = await World.start(t);
    const raw = world.scene.image("content.raw", content());
    const image = world.scene.path(`disk.${format}`);
    await world.scene.run("qemu-img", "convert", "-f", "raw", "-O", driver, ...options, raw, image);
    (await world.run("check", `${image},${format},xvda,rw`))
      .expect(0)
      .expectMatch(/\(qemu-storage-daemon, process /);
    (await world.run("attach", "1", `${image},${format},xvda,rw`)).expect(0);

    const second = world.scene.image("second.raw", content());
    const { guest, uri } = await exporting(world);
    await world.scene.run("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, uri);
    await world.scene.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", second, uri);
    await world.scene.run("qemu-img", "compare", "-f", "raw", "-F", "raw", second, uri);
    (await world.run("show", "1/xvda")).expect(0).expectMatch(/^through +qemu-storage-daemon, process /m);
    const pid = await helperOf(world);
    assert.ok(lives(pid));
    guest.process.kill("SIGTERM");
    (await guest.outcome()).expect(0);
    (await world.run("detach", "1/xvda")).expect(0);
    await eventually(() => !lives(pid), "the helper ends with the disk");
    assert.equal(await hashOf(world, driver, image), await sha256(second));
    if (checkable) await checkImage(world, driver, image);
  });
}

withPrograms(QEMU, "qcow2 over a base, with a snapshot: neither changes", async (t) => {
  const world = await World.start(t);
  const bytes = content();
  const base = world.scene.image("base.raw", bytes);
  const before = await sha256(base);
  const image = world.scene.path("disk.qcow2");
  await world.scene.run("qemu-img", "create", "-f", "qcow2", "-b", base, "-F", "raw", image);
  await world.scene.run("qemu-img", "snapshot", "-c", "before", image);
  (await world.run("attach", "1", `${image},qcow2,xvda,rw`)).expect(0);
  const second = world.scene.image("second.raw", content());
  const { guest, uri } = await exporting(world);
  const shown = (await world.run("show", "1/xvda")).expect(0);
  shown.expectMatch(
    /^through +qemu-storage-daemon, process [0-9]+: qcow2 \S+disk\.qcow2, over raw \S+base\.raw$/m,
  );
  (await world.run("attach", "2", `${base},raw,xvda,rw`)).expect(5).expectMatch(/in use by/, "stderr");
  await world.scene.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", second, uri);
  guest.process.kill("SIGTERM");
  (await guest.outcome()).expect(0);
  (await world.run("detach", "1/xvda")).expect(0);
  await checkImage(world, "qcow2", image);
  assert.equal(await hashOf(world, "qcow2", image), await sha256(second));
  assert.equal(await sha256(base), before);
  await world.scene.run("qemu-img", "snapshot", "-a", "before", image);
  assert.equal(await hashOf(world, "qcow2", image), before);
});

withPrograms(QEMU, "a helper that is killed is started again, and the guest sees a pause", async (t) => {
  const world = await World.start(t);
  const image = world.scene.path("disk.qcow2");
  await world.scene.run("qemu-img", "create", "-f", "qcow2", image, String(SIZE));
  (await world.run("attach", "1", `${image},qcow2,xvda,rw`)).expect(0);
  const guest = work(world, 30_000);
  const helpers = new Set<number>();
  for (let kills = 1; kills <= 5; kills++) {
    await progress(guest, kills * 5000);
    const helper = await helperOf(world);
    helpers.add(helper);
    process.kill(helper, "SIGKILL");
  }
  const hash = await verified(guest);
  assert.equal(helpers.size, 5);
  assert.match(world.daemon.stderr, /qemu-storage-daemon ended with SIGKILL/);
  (await world.run("detach", "1/xvda")).expect(0);
  assert.equal(await hashOf(world, "qcow2", image), hash);
  await checkImage(world, "qcow2", image, true);
});

withPrograms(QEMU, "a daemon that is killed is followed by one that goes on with the image", async (t) => {
  const world = await World.start(t);
  const image = world.scene.path("disk.qcow2");
  await world.scene.run("qemu-img", "create", "-f", "qcow2", image, String(SIZE));
  (await world.run("attach", "1", `${image},qcow2,xvda,rw`)).expect(0);
  const guest = work(world, 20_000);
  let daemon: Running = world.daemon;
  for (let kills = 1; kills <= 3; kills++) {
    await progress(guest, kills * 5000);
    const helper = await helperOf(world);
    daemon.process.kill("SIGKILL");
    await daemon.ended;
    daemon = world.start("serve");
    const next = daemon;
    await eventually(() => /taken over/.test(next.stderr), `the next daemon goes on: ${next.stderr}`);
    assert.equal(await helperOf(world), helper, "it finds the helper again");
  }
  const hash = await verified(guest);
  (await world.run("detach", "1/xvda")).expect(0);
  assert.equal(await hashOf(world, "qcow2", image), hash);
  await checkImage(world, "qcow2", image);
});

withPrograms(QEMU, "a helper has few rights and nothing of the daemon's", async (t) => {
  const world = await World.start(t);
  const image = world.scene.path("disk.qcow2");
  await world.scene.run("qemu-img", "create", "-f", "qcow2", image, String(SIZE));
  (await world.run("attach", "1", `${image},qcow2,xvda,rw`)).expect(0);
  await world.guest();
  const helper = await helperOf(world);
  const status = readFileSync(`/proc/${helper}/status`, "utf8");
  assert.match(status, /^NoNewPrivs:\s+1$/m);
  // Its file is its user's.
  assert.match(status, /^CapPrm:\s+0+$/m);
  const open = readdirSync(`/proc/${helper}/fd`).map((fd) => readlinkSync(`/proc/${helper}/fd/${fd}`));
  const place = join(world.directory, "helpers", "vbd-xbdback1i51712");
  const own = [image, join(place, "log")];
  const strange = open.filter(
    (path) => !/^(\/dev\/null|socket:|anon_inode:)/.test(path) && !own.includes(path),
  );
  assert.deepEqual(strange, []);
  assert.equal(statSync(place).mode & 0o777, 0o700, "nobody else can connect");
});

withPrograms([...QEMU, "qemu-nbd"], "what cannot be served says why", async (t) => {
  const world = await World.start(t);
  const raw = world.image("disk.raw", SIZE);
  const image = world.scene.path("disk.qcow2");
  await world.scene.run("qemu-img", "create", "-f", "qcow2", image, String(SIZE));
  const refuse = async (disk: string, pattern: RegExp, status = 1): Promise<void> => {
    const outcome = (await world.run("attach", "1", disk)).expect(status);
    outcome.expectMatch(pattern, "stderr");
    assert.equal(outcome.stderr.trim().split("\n").length, 1, outcome.story);
  };
  await refuse(
    `${raw},qcow2,xvda,rw`,
    /disk\.raw: qemu-img cannot read its header: .*Image is not in qcow2 format/,
  );
  await refuse(`${world.scene.path("none")},vhd,xvda,rw`, /none: no such file/);
  await refuse(
    "http://127.0.0.1:1/disk.img,raw,xvda,rw",
    /a web server's file is read-only; attach it read-only/,
  );
  const copy = world.scene.path("copy.qcow2");
  copyFileSync(image, copy);
  const other = world.scene.start("qemu-nbd", [
    "-f",
    "qcow2",
    "-t",
    "-k",
    world.scene.path("other.sock"),
    copy,
  ]);
  await eventually(() => existsSync(world.scene.path("other.sock")), "another qemu-nbd serves it");
  await refuse(`${copy},qcow2,xvda,rw`, /copy\.qcow2: in use by process [0-9]+ \(qemu-nbd\)/, 5);
  other.process.kill("SIGTERM");
  await other.ended;
  (await world.run("attach", "1", `${copy},qcow2,xvda,rw`)).expect(0);
  (await world.run("attach", "2", `${image},qcow2,xvda,ro`)).expect(0);
});
