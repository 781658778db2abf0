/** What the guest's disk is and can do, as NBD clients see it: size and flags, read-only, discard. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync, statSync, utimesSync } from "node:fs";
import { e2e, MIB, type Scene, sha256 } from "./harness.js";

const SIZE = 24 * MIB + 512;

/** nbdinfo's view of the export. */
async function nbdinfo(scene: Scene, ...options: string[]): Promise<Record<string, unknown>> {
  const path = scene.path("info.json");
  (await scene.demo(...options, "--run", `nbdinfo --json "$uri" >${path}`)).expect(0);
  return JSON.parse(readFileSync(path, "utf8")).exports[0];
}

e2e("nbdinfo shows the size of the image, and what may be done to it", ["nbdinfo"], async (scene) => {
  const image = scene.image("disk.img", SIZE);
  const shown = await nbdinfo(scene, image);
  assert.equal(shown["export-size"], SIZE);
  assert.equal(shown["is_read_only"], false);
  for (const can of ["can_flush", "can_fua", "can_trim", "can_multi_conn"])
    assert.equal(shown[can], true, can);

  const readOnly = await nbdinfo(scene, image, "--read-only");
  assert.equal(readOnly["export-size"], SIZE);
  assert.equal(readOnly["is_read_only"], true);
  for (const not of ["can_trim", "can_zero"]) assert.equal(readOnly[not], false, not);
  (await scene.demo("--size", "3M", "--run", 'test $(nbdinfo --size "$uri") = 3145728')).expect(0);
});

e2e("a read-only disk is read, and no write changes the image", ["qemu-io", "nbdcopy"], async (scene) => {
  const bytes = randomBytes(SIZE);
  const image = scene.image("disk.img", bytes);
  const source = scene.image("source.img", SIZE);
  const past = new Date("2001-02-03T04:05:06.789Z");
  utimesSync(image, past, past);
  const before = statSync(image);
  const hash = await sha256(image);

  const attempts = [
    `qemu-io -f raw -c 'write 0 4k' "$uri" 2>&1`,
    `qemu-io -f raw -r -c 'write 0 4k' "$uri" 2>&1`,
    `qemu-io -f raw -r -c 'discard 0 1M' "$uri" 2>&1`,
    `nbdcopy ${source} "$uri" 2>&1`,
  ];
  const all = attempts.map((attempt) => `if ${attempt}; then echo THIS WAS TAKEN; fi`);
  const refused = (await scene.demo(image, "--read-only", "--run", all.join("; "))).expect(0);
  assert.doesNotMatch(refused.stdout, /THIS WAS TAKEN|wrote|discard \d/, refused.story);
  refused.expectMatch(/read-only|not permitted/i);
  const copy = scene.path("copy.img");
  (await scene.demo(image, "--read-only", "--run", `nbdcopy "$uri" ${copy}`)).expect(0);

  assert.equal(await sha256(copy), hash, "what was read");
  assert.equal(await sha256(image), hash, "the image");
  assert.equal(statSync(image).mtimeMs, before.mtimeMs, "the image's mtime");
  assert.equal(statSync(image).ctimeMs, before.ctimeMs, "the image's ctime");
});

e2e("a discard gives the image's blocks back", ["qemu-io"], async (scene) => {
  const size = 32 * MIB;
  const bytes = randomBytes(size);
  const image = scene.image("disk.img", bytes);
  const before = statSync(image).blocks;
  const commands = ["discard 0 4M", "discard 8M 12M", "flush"].map((text) => `-c '${text}'`);
  (await scene.demo(image, "--run", `qemu-io -f raw -d unmap ${commands.join(" ")} "$uri"`)).expect(0);

  const freed = (before - statSync(image).blocks) * 512;
  assert.ok(freed >= 15 * MIB && freed <= 17 * MIB, `${freed} bytes of 16 MiB were given back`);
  bytes.fill(0, 0, 4 * MIB).fill(0, 8 * MIB, 20 * MIB);
  assert.ok(readFileSync(image).equals(bytes), "zeros where it was discarded, and nowhere else");
});

e2e("a sparse image is copied over a full one", ["nbdcopy"], async (scene) => {
  const size = 32 * MIB;
  const bytes = Buffer.alloc(size);
  bytes.set(randomBytes(3 * MIB + 512), 5 * MIB - 512);
  bytes.set(randomBytes(512), size - 512);
  const source = scene.image("source.img", bytes);
  const image = scene.image("disk.img", Buffer.alloc(size, 0xee));
  (await scene.demo(image, "--run", `nbdcopy --flush ${source} "$uri"`)).expect(0);
  assert.ok(readFileSync(image).equals(bytes));
});
