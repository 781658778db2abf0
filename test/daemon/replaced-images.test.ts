/** Whose disk follows a snapshot, and who is refused. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { linkSync, readdirSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type GuestDisk, ReplacedImages } from "../../host/daemon/replaced-images.js";
import { directory } from "../storage/helpers.js";

const WEB: GuestDisk = { domid: 3, devid: 51712, name: "web", vm: "/vm/1", boot: "a" };

async function scene(t: TestContext) {
  const root = directory(t);
  const [image, link] = ["image", "link"].map((name) => join(root, name));
  writeFileSync(image, "content");
  symlinkSync(image, link);
  const records = join(root, "records");
  const before = new ReplacedImages(records);
  const current = `cow:/overlay:${image}`;
  await before.add(image, current, WEB);
  // The next daemon's.
  const replaced = new ReplacedImages(records);
  const follow = (target: string, disk: Partial<GuestDisk> = {}, readOnly = false): Promise<string> =>
    replaced.follow(
      target,
      readOnly,
      async () => ({ ...WEB, ...disk }),
      () => {},
    );
  return { root, image, link, records, current, replaced, follow };
}

test("the guest's disk follows, by each thing that it is known by", async (t) => {
  const { image, link, current, follow } = await scene(t);
  const later = { domid: 9, boot: "b" };
  assert.equal(await follow(image), current);
  assert.equal(await follow(link, later), current);
  assert.equal(await follow(image, { ...later, name: "web2" }), current, "by its UUID");
  assert.equal(await follow(image, { ...later, vm: "/vm/2" }), current, "by its name");
  assert.equal(await follow(image, { boot: "a", name: null, vm: null }), current, "by its number");
  assert.equal(await follow(`limit:iops=9:log:/f:${image}`), `limit:iops=9:log:/f:${current}`);
  assert.equal(await follow(current), current);
  assert.equal(await follow("/other"), "/other");
  assert.equal(await follow("nbd://host/export"), "nbd://host/export");
});

test("another guest, and another disk of the guest, may only read it", async (t) => {
  const { root, image, link, current, follow } = await scene(t);
  const refused =
    /image: a snapshot of web has replaced it at .*, and cow:\/overlay:.* stands on it; .*--forget/;
  for (const other of [
    { devid: 51728 },
    { boot: "b", name: "other", vm: "/vm/2" },
    { boot: "b", name: null, vm: null },
  ]) {
    await assert.rejects(follow(image, other), refused);
    assert.equal(await follow(image, other, true), image);
    assert.equal(await follow(`readonly:${image}`, other), `readonly:${image}`);
    assert.equal(await follow(`cow:/another:${image}`, other), `cow:/another:${image}`);
    assert.equal(await follow(current, other), current);
  }
  const stranger = { domid: 4, name: "other", vm: "/vm/2" };
  await assert.rejects(follow(link, stranger), /has replaced it/);
  await assert.rejects(follow(`qcow2:${image}`, stranger), /has replaced it/);
  const hard = join(root, "hard");
  linkSync(image, hard);
  await assert.rejects(follow(hard, stranger), /has replaced it/);
  renameSync(image, `${image}.moved`);
  await assert.rejects(follow(`${image}.moved`, stranger), /has replaced it/);
});

test("an image that was written since is refused, and served again when it is forgotten", async (t) => {
  const { image, follow, replaced } = await scene(t);
  utimesSync(image, 1, 1);
  await assert.rejects(follow(image), /was written since its snapshot, and cow:.*does not fit it any more/);
  const one = await replaced.find(image);
  assert.ok(one);
  await replaced.forget(one, image);
  assert.equal(await replaced.find(image), null);
  assert.equal(await follow(image), image);
});

test("a snapshot of a snapshot, and one that is taken back", async (t) => {
  const { root, image, current, replaced, follow } = await scene(t);
  const overlay = join(root, "overlay");
  writeFileSync(overlay, "");
  const [first, second] = [`cow:${overlay}:${image}`, `cow:/second:cow:${overlay}:${image}`];
  await replaced.undo(image, current);
  assert.deepEqual(replaced.all(), []);
  await replaced.add(image, first, WEB);
  await replaced.add(first, second, WEB);
  assert.equal(await follow(image), second);
  assert.equal(await follow(first), second);
  await replaced.undo(first, second);
  assert.equal(await follow(image), first);
  assert.equal(await follow(first), first);
});

test("an overlay that was written back leads to its base, for its guest alone", async (t) => {
  const { root, image, records, replaced, follow } = await scene(t);
  const [one, two] = ["one", "two"].map((name) => join(root, name));
  for (const file of [one, two]) writeFileSync(file, file);
  const stranger = { domid: 4, name: "other", vm: "/vm/2" };
  const [first, second] = [`cow:${one}:${image}`, `cow:${two}:cow:${one}:${image}`];
  await replaced.undo(image, `cow:/overlay:${image}`);
  await replaced.add(image, first, WEB);
  await replaced.add(first, second, WEB);
  assert.deepEqual(await replaced.othersOn(image, second), []);
  assert.deepEqual(await replaced.othersOn(image, "/other"), [second]);

  // While it is written back, its base changes; from then on it is as it is.
  await replaced.changing(second);
  utimesSync(one, 1, 1);
  assert.equal(await follow(image), second);
  await replaced.settle(`log:/f:${second}`);
  assert.equal(await follow(image), second);
  utimesSync(one, 2, 2);
  await assert.rejects(follow(image), /one: was written since its snapshot/);
  await replaced.changing(second);

  const former = await replaced.commit(second, first, WEB);
  assert.equal(former?.current, second);
  assert.equal(await follow(image), first);
  assert.equal(await follow(`log:/f:${second}`), `log:/f:${first}`);
  await assert.rejects(follow(image, stranger), /has replaced it/);
  await assert.rejects(
    follow(second, stranger, true),
    /two: was written back into cow:.* and is out of date/,
  );
  await replaced.undoCommit(first, former);
  assert.equal(await follow(image), second);
  await replaced.commit(second, first, WEB);
  await replaced.commit(first, image, WEB);
  for (const target of [image, first, second]) assert.equal(await follow(target), image);
  assert.equal(await follow(image, stranger), image);
  assert.deepEqual(await replaced.othersOn(image, "/other"), []);
  assert.equal(readdirSync(records).length, 1);

  // A copy of it with its times, as cp -a and rename(2) make one, is the same.
  writeFileSync(`${two}.new`, two);
  execFileSync("touch", ["-r", two, `${two}.new`]);
  renameSync(`${two}.new`, two);
  assert.equal(await follow(second), image);

  // Another overlay of its name is another one; what is removed is forgotten.
  writeFileSync(two, "another");
  assert.equal(await follow(second), second);
  assert.equal(await follow(first), image);
  rmSync(one);
  await replaced.prune(image);
  assert.deepEqual(
    replaced.all().flatMap(({ committed = [] }) => committed.map(({ path }) => path)),
    [two],
  );
  await replaced.add(image, `cow:${two}:${image}`, WEB);
  assert.deepEqual(
    replaced.all().map(({ committed }) => committed),
    [[]],
  );
});

test("an overlay of the configuration's that was written back", async (t) => {
  const { root, image, replaced, records, follow } = await scene(t);
  await replaced.undo(image, `cow:/overlay:${image}`);
  const overlay = join(root, "own");
  writeFileSync(overlay, "");
  const disk = `cow:${overlay}:${image}`;
  await replaced.changing(disk);
  await replaced.undoCommit(image, await replaced.commit(disk, image, WEB));
  assert.deepEqual(replaced.all(), []);
  await replaced.commit(disk, image, WEB);
  assert.equal(await follow(disk), image);
  // One that the configuration names is noted by the lowest image that was replaced, and then by what is left.
  const third = `cow:/third:${disk}`;
  await replaced.undoCommit(image, null);
  await replaced.add(disk, third, WEB);
  await replaced.undo(disk, third);
  const one = { path: overlay, name: "own" };
  await replaced.commit(disk, image, WEB);
  assert.equal(readdirSync(records).length, 1);
  const found = await replaced.find(one.path);
  assert.ok(found);
  await replaced.forget(found, one.path);
  assert.deepEqual(replaced.all(), []);
});

test("a record that cannot be read stops every disk, with the file's name", async (t) => {
  const { records, follow } = await scene(t);
  const [file] = readdirSync(records);
  writeFileSync(join(records, file), "{");
  await assert.rejects(follow("/other"), /records\/.*\.json: cannot be read .*: put it right, or remove it/);
  writeFileSync(join(records, file), '{"format":2}');
  await assert.rejects(follow("/other"), /has the format 2, which another version has written/);
});
