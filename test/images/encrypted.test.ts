/** Encrypted images: the passphrase is in a file, and nowhere else. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type BlockDevice, Result } from "../../host/storage/device.js";
import { openDisk } from "../../host/storage/disk.js";
import { World } from "../cli/world.js";
import { eventually } from "../e2e/harness.js";
import { directory, fill, flush, gather, pattern, read, scatter, write } from "../storage/helpers.js";
import { helperOf, MIB, progress, verified, withPrograms, work } from "./support.js";

const QEMU = ["qemu-storage-daemon", "qemu-img"] as const;
const PASSPHRASE = "correct horse, battery staple";
/** QEMU's options, quickly: how often a passphrase is hashed. */
const FORMATS = {
  luks: ["key-secret=key,iter-time=10"],
  qcow2: ["encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"],
};
type Format = keyof typeof FORMATS;

interface Image {
  readonly path: string;
  readonly key: string;
}

function create(place: string, format: Format): Image {
  const [path, key] = [join(place, `disk.${format}`), join(place, "disk.key")];
  writeFileSync(key, PASSPHRASE, { mode: 0o600 });
  const how = ["--object", `secret,id=key,file=${key}`, "-o", ...FORMATS[format]];
  const args = ["create", "-q", "-f", format, ...how, path, `${8 * MIB}`];
  for (let tries = 1; ; tries++) {
    const { status, stderr } = spawnSync("qemu-img", args, { encoding: "utf8" });
    if (status === 0) return { path, key };
    // It measures how fast it is.
    assert.ok(tries < 20 && /accurate CPU usage/.test(stderr), stderr);
  }
}

/** What QEMU's own tools read of it. */
function decrypted({ path, key }: Image, format: Format, place: string): Buffer {
  const out = join(place, "plain");
  const secret = format === "luks" ? "key-secret=key" : "encrypt.key-secret=key";
  const from = `driver=${format},${secret},file.filename=${path}`;
  execFileSync("qemu-img", [
    ...["convert", "--object", `secret,id=key,file=${key}`, "--image-opts", from],
    ...["-O", "raw", out],
  ]);
  return readFileSync(out);
}

const open = (target: string, readOnly = false): Promise<BlockDevice> =>
  openDisk(target, { readOnly, warn: () => {} });

for (const format of Object.keys(FORMATS) as Format[]) {
  withPrograms(
    QEMU,
    `what is written to an encrypted image is encrypted, and read again: ${format}`,
    async (t) => {
      const place = directory(t);
      const image = create(place, format);
      const target = `keyfile:${image.key}:${format}:${image.path}`;
      const data = pattern(MIB);
      const device = await open(target);
      assert.equal(device.size, 8 * MIB);
      assert.equal((await write(device, MIB, fill(scatter(MIB), data))).result, Result.Success);
      assert.equal((await flush(device)).result, Result.Success);
      await device.close();
      assert.ok(!readFileSync(image.path).includes(data.subarray(0, 512)));
      assert.deepEqual(decrypted(image, format, place).subarray(MIB, 2 * MIB), data);
      const again = await open(`readonly:${target}`, true);
      const back = scatter(MIB);
      assert.equal((await read(again, MIB, back)).result, Result.Success);
      assert.deepEqual(gather(back), data);
      await again.close();
    },
  );

  withPrograms(QEMU, `what is wrong with a passphrase is said in one line: ${format}`, async (t) => {
    const { path, key } = create(directory(t), format);
    const target = `${format}:${path}`;
    await assert.rejects(
      open(target),
      /is encrypted: name the file that holds its passphrase, keyfile:FILE:TARGET$/,
    );
    await assert.rejects(open(`keyfile:${key}x:${target}`), /disk\.keyx: no such file/);
    await assert.rejects(open(`keyfile:${key}/..:${target}`), /ENOTDIR|not a directory|is not a file/);
    writeFileSync(key, `${PASSPHRASE}\n`);
    await assert.rejects(
      open(`keyfile:${key}:${target}`),
      /its passphrase is not what \S+disk\.key holds: a newline at the end of the file is a part of it$/,
    );
    chmodSync(key, 0o644);
    await assert.rejects(
      open(`keyfile:${key}:${target}`),
      /disk\.key: holds a secret and is open to all users: `chmod o= \S+disk\.key`$/,
    );
  });
}

withPrograms(QEMU, "a passphrase is for an encrypted image alone", async (t) => {
  const place = directory(t);
  const { path, key } = create(place, "luks");
  const at = (name: string): string => join(place, name);
  for (const [format, name] of [
    ["qcow2", "plain.qcow2"],
    ["raw", "plain.img"],
  ])
    execFileSync("qemu-img", ["create", "-q", "-f", format, at(name), "1M"]);
  await assert.rejects(
    open(`keyfile:${key}:qcow2:${at("plain.qcow2")}`),
    /is not encrypted: leave out keyfile:$/,
  );
  await assert.rejects(open(`keyfile:${key}:${at("plain.img")}`), /needs no secret: leave out keyfile:/);
  await assert.rejects(
    open(`keyfile:${key}:cow:${at("overlay")}:${at("plain.img")}`),
    /is an overlay, which is not encrypted/,
  );
  await assert.rejects(open(`cow:${at("overlay")}:luks:${path}`), /is encrypted, and no base can be/);
  await assert.rejects(
    open("keyfile:key:luks:/disk"),
    /"key" is not an absolute path: write keyfile:FILE:TARGET/,
  );
});

/** What the programs of a world are called with, and have in their environment. */
function commandLines(world: World): string {
  return world.scene
    .processes()
    .map(({ pid, args }) => `${args.join(" ")} ${environmentOf(pid)}`)
    .join("\n");
}

function environmentOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8");
  } catch {
    return "";
  }
}

async function checkSecret(world: World, log: string): Promise<void> {
  const shown = (await world.run("show", "1/xvda")).expect(0);
  const report = (await world.run("show", "1/xvda", "--json")).expect(0);
  for (const text of [commandLines(world), shown.stdout, report.stdout, log])
    assert.ok(!text.includes(PASSPHRASE), text);
}

withPrograms(QEMU, "a guest works on an encrypted image, and nobody tells its passphrase", async (t) => {
  const world = await World.start(t);
  // A guest's work begins with zeros, which a new LUKS image does not have.
  const { path, key } = create(world.scene.path("."), "qcow2");
  // What a helper has discarded before it was killed is not zeros, as elsewhere, but what zeros decrypt to.
  const target = `vdev=xvda,no-discard,target=keyfile:${key}:qcow2:${path}`;
  (await world.run("check", target)).expect(0);
  (await world.run("attach", "1", target)).expect(0);
  await checkSecret(world, world.daemon.stderr);
  const guest = work(world, 10_000);
  await progress(guest, 500);
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  const next = world.start("serve");
  await eventually(() => /taken over/.test(next.stderr), "the next daemon takes over");
  // The passphrase is asked for again.
  process.kill(await helperOf(world), "SIGKILL");
  const wanted = await verified(guest);
  await checkSecret(world, next.stderr);
  (await world.run("detach", "1/xvda")).expect(0);
  const plain = decrypted({ path, key }, "qcow2", world.scene.path("."));
  assert.equal(createHash("sha256").update(plain).digest("hex"), wanted);
});
