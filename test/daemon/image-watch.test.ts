/** An image that is deleted or replaced while it is open: the operator hears of it before the next daemon refuses it. */
import assert from "node:assert/strict";
import {
  closeSync,
  constants,
  linkSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { test } from "node:test";
import { ImageWatch } from "../../host/daemon/image-watch.js";
import { makeFifo } from "../../host/platform/libc.js";
import { Place } from "../../host/storage/calls/place.js";
import { usesOf } from "../../host/storage/disk.js";
import { LIMIT, pause, World } from "../cli/world.js";
import { directory } from "../storage/helpers.js";

async function shows(world: World, pattern: RegExp): Promise<void> {
  while (!pattern.test((await world.run("show", "1/xvda")).stdout)) await pause(50);
}

test("show, list and the log tell that the image was replaced, deleted, put back", LIMIT, async (t) => {
  const world = await World.start(t);
  const image = world.image("v1.img");
  const current = world.scene.path("current.img");
  const other = world.image("v2.img");
  symlinkSync(image, current);
  (await world.run("attach", "1", `${current},raw,xvda,rw`)).expect(0);
  await world.guest();
  assert.doesNotMatch((await world.run("show", "1/xvda")).stdout, /^image /m);
  // ln -sfn
  symlinkSync(other, `${current}.new`);
  renameSync(`${current}.new`, current);
  await shows(world, /^image +replaced: another file is there now; the guest continues with the former one/m);
  assert.match((await world.run("list")).stdout, / replaced /);
  const json = await world.json<{ vbd: { imageState: string } }>("show", "1/xvda");
  assert.equal(json.vbd.imageState, "replaced");
  rmSync(current);
  await shows(world, /^image +deleted; the guest continues/m);
  assert.match((await world.run("list")).stdout, / deleted /);
  linkSync(image, current);
  while (/^image /m.test((await world.run("show", "1/xvda")).stdout)) await pause(50);
  const told = () => world.daemon.stderr.split("\n").filter((line) => line.includes(`${current}: `));
  while (told().length < 3) await pause(50);
  const lines = told();
  assert.equal(lines.length, 3, lines.join("\n"));
  assert.match(lines[0], /level=warning domid=1 devid=51712 .*current\.img: replaced: /);
  assert.match(lines[1], /current\.img: deleted; /);
  assert.match(lines[2], /level=info .*current\.img: the path leads to the guest's disk again/);
});

test("a disk that is opened anew begins as ok; what cannot be told changes nothing", async (t) => {
  const path = `${directory(t)}/disk.img`;
  writeFileSync(path, "");
  const vbd = { domid: 1, devid: 51712 };
  const open = async () => ({
    vbd,
    path,
    readOnly: false,
    bases: [],
    kept: false,
    identities: (await usesOf(path, false)).map(({ identity }) => identity),
  });
  let images = [await open()];
  const lines: string[] = [];
  const watch = new ImageWatch(
    () => images,
    (line) => lines.push(line),
  );
  t.after(() => watch.close());
  rmSync(path);
  await Promise.all([watch.look(), watch.look()]);
  assert.equal(watch.stateOf(images[0]), "deleted");
  assert.equal(lines.length, 1);
  // ELOOP: not deleted, not another one.
  symlinkSync(path, path);
  await watch.look();
  assert.equal(watch.stateOf(images[0]), "deleted");
  rmSync(path);
  writeFileSync(path, "");
  images = [await open()];
  assert.equal(watch.stateOf(images[0]), "ok");
  await watch.look();
  assert.equal(lines.length, 1);
});

test("a path that hangs keeps no other disk's look waiting, and is not looked at twice", LIMIT, async (t) => {
  const base = directory(t);
  const [hung, path] = [`${base}/fifo`, `${base}/disk.img`];
  makeFifo(hung);
  writeFileSync(path, "");
  const image = async (domid: number, path: string) => ({
    vbd: { domid, devid: 51712 },
    path,
    readOnly: false,
    bases: [],
    kept: false,
    identities: (await usesOf(path, false)).map(({ identity }) => identity),
  });
  const images = [await image(1, hung), await image(2, path)];
  const lines: string[] = [];
  const watch = new ImageWatch(
    () => images,
    (line) => lines.push(line),
  );
  t.after(() => watch.close());
  const { stat } = Place.prototype;
  let asked = 0;
  Place.prototype.stat = function (this: Place) {
    if (this.path === hung) asked++;
    return stat.call(this);
  };
  t.after(() => {
    Place.prototype.stat = stat;
  });
  // As a look at a server that does not answer.
  const opening = Place.of(hung).open(constants.O_RDONLY);
  let ended = false;
  const first = watch.look().then(() => {
    ended = true;
  });
  rmSync(path);
  for (; watch.stateOf(images[1]) !== "deleted"; await pause(5)) await watch.look();
  assert.equal(ended, false);
  assert.equal(asked, 1);
  closeSync(openSync(hung, constants.O_RDWR | constants.O_NONBLOCK));
  closeSync(await opening);
  await first;
  assert.equal(lines.length, 1);
});
