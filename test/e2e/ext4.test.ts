/** A file system of several thousand files, copied out of the guest's disk and into it. */
import assert from "node:assert/strict";
import { cp, lstat } from "node:fs/promises";
import { join } from "node:path";
import { e2e, MIB, root, type Scene, sha256 } from "./harness.js";

const COPIES = 3;
const programs = ["mke2fs", "e2fsck", "nbdcopy"] as const;

/** An ext4 image of this project's packages, a few times over, without the largest files. */
async function makeFileSystem(scene: Scene): Promise<string> {
  const tree = scene.path("tree");
  const small = async (path: string): Promise<boolean> => (await lstat(path)).size < MIB;
  for (let i = 0; i < COPIES; i++) {
    await cp(join(root, "node_modules"), join(tree, `${i}`), { recursive: true, filter: small });
  }
  const image = scene.image("ext4.img", 128 * MIB);
  await scene.run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, image);
  return image;
}

/** Checks the file system; returns the number of its files. */
async function check(scene: Scene, image: string): Promise<number> {
  const outcome = await scene.run("e2fsck", "-fn", image);
  return Number(outcome.expectMatch(/: ([0-9]+)\/[0-9]+ files/)[1]);
}

e2e("an ext4 of thousands of files is copied out whole, and in again", programs, async (scene) => {
  const image = await makeFileSystem(scene);
  const files = await check(scene, image);
  assert.ok(files > 3000, `${files} files`);
  const hash = await sha256(image);

  const copied = scene.path("out.img");
  (await scene.demo(image, "--run", `nbdcopy "$uri" ${copied}`)).expect(0);
  assert.equal(await check(scene, copied), files);
  assert.equal(await sha256(copied), hash, "copied out");
  assert.equal(await sha256(image), hash, "the image after it was read");

  const disk = scene.image("in.img", 128 * MIB);
  const grants = ["--no-persistent", "--queues", "2"];
  (await scene.demo(disk, ...grants, "--run", `nbdcopy --flush ${copied} "$uri"`)).expect(0);
  assert.equal(await check(scene, disk), files);
  assert.equal(await sha256(disk), hash, "copied in");
});
