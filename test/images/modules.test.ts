/** Disks of modules through the daemon, as their authors and an administrator meet them. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { World } from "../cli/world.js";
import { eventually, root, Scene } from "../e2e/harness.js";
import { directory, exampleModule } from "../storage/helpers.js";
import { progress, SIZE, verified, work } from "./support.js";

const LIMIT = { timeout: 180_000 };
const example = exampleModule();
const command = join(root, "bin/xbdback.mjs");

function writeModule(t: TestContext, text: string): string {
  const path = join(directory(t), "device.js");
  writeFileSync(path, text, { mode: 0o644 });
  return path;
}

test("the example serves a guest that verifies every byte, and ends with the daemon", LIMIT, async (t) => {
  const world = await World.start(t, "--device", example);
  const target = `device:${example}?size=${SIZE}`;
  (await world.run("check", "--device", example, `vdev=xvda,target=${target}`))
    .expect(0)
    .expectMatch(/^target +device:\S+memory\.js\?size=33554432 \(the module \S+memory\.js\)$/m);
  (await world.run("attach", "1", `${target},raw,xvda,rw`)).expect(0);
  (await world.run("attach", "2", `vdev=xvda,target=${target}`))
    .expect(5)
    .expectMatch(/in use by xbdback1i51712, a disk of domain 1/, "stderr");
  await verified(work(world, 2000));

  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    (await world.run("detach", "1/xvda")).expect(0);
    (await world.run("attach", "1", `${target},raw,xvda,rw`)).expect(0);
    const guest = await world.guest();
    await progress(guest, 50);
    world.daemon.process.kill(signal);
    await world.daemon.ended;
    await world.serveAgain();
    const why = /the guest's written data ended with the previous daemon; the disk is closed/;
    await eventually(() => why.test(world.daemon.stderr), "it is closed");
    assert.notEqual((await guest.outcome()).status, 0);
  }
});

const FILE_DISK = `
import { fdatasyncSync, openSync, readSync, writeSync } from "node:fs";
export default {
  api: 1,
  open({ parameters: { file, survives } }) {
    const fd = openSync(file, "r+");
    return {
      size: ${SIZE}, survives,
      read: (position, to) => void readSync(fd, to, 0, to.length, position),
      write: (position, from) => void writeSync(fd, from, 0, from.length, position),
      flush: () => fdatasyncSync(fd),
    };
  },
};`;

for (const [survives, signal, goesOn] of [
  ["stop", "SIGTERM", true],
  ["stop", "SIGKILL", false],
  ["kill", "SIGKILL", true],
] as const) {
  test(`a disk that survives a ${survives} after ${signal}`, LIMIT, async (t) => {
    const path = writeModule(t, FILE_DISK);
    const world = await World.start(t, "--device", path);
    const target = `device:${path}?file=${world.image("disk.img", SIZE)}&survives=${survives}`;
    (await world.run("attach", "1", `vdev=xvda,target=${target}`)).expect(0);
    const guest = work(world, 4000);
    await progress(guest, 100);
    world.daemon.process.kill(signal);
    await world.daemon.ended;
    await world.serveAgain();
    if (goesOn) {
      await verified(guest);
      return;
    }
    const why = /the previous daemon was killed or its drain timed out/;
    await eventually(() => why.test(world.daemon.stderr), "it is closed");
    assert.notEqual((await guest.outcome()).status, 0);
  });
}

test(
  "a module that was not allowed is refused; the file of the configuration may allow it",
  LIMIT,
  async (t) => {
    const world = await World.start(t);
    const spec = `vdev=xvda,target=device:${example}?size=1M`;
    for (const command of [
      ["attach", "1", spec],
      ["check", spec],
    ])
      (await world.run(...command))
        .expect(1)
        .expectMatch(/a module that is not allowed here; .*`xbdback serve --device \S+memory\.js`/, "stderr");
    const file = world.scene.path("xbdback.toml");
    writeFileSync(file, `device = ["${example}", "/other.js"]\n`);
    (await world.run("serve", "--config", file, "--dump-config"))
      .expect(0)
      .expectMatch(/^device = \["\S+memory\.js","\/other\.js"\] {2}# file$/m);
    writeFileSync(file, "device = [1]\n");
    (await world.run("serve", "--config", file, "--dump-config"))
      .expect(2)
      .expectMatch(/:1: device: It is a string or a list of strings\./, "stderr");
    writeFileSync(file, `device = "${example}"\n`);
    world.daemon.process.kill("SIGTERM");
    await world.daemon.ended;
    await world.serveAgain("--config", file);
    (await world.run("attach", "1", spec)).expect(0);
  },
);

test("a device that hangs, and then dies, is its own guest's affair", LIMIT, async (t) => {
  const path = writeModule(
    t,
    `export default { api: 1, open: () => ({
      size: 1 << 20, timeoutSeconds: 1, read() {}, write() { for (;;); },
    }) };`,
  );
  const world = await World.start(t, "--device", path);
  (await world.run("attach", "2", `${world.image("disk.img")},raw,xvda,rw`)).expect(0);
  const other = world.start("guest", "--domid", "2", "--workload", "5000");
  await progress(other, 50);
  (await world.run("attach", "1", `vdev=xvda,target=delay:1ms:device:${path}`)).expect(0);
  assert.notEqual((await work(world, 100).outcome()).status, 0);
  await eventually(
    () =>
      /a write has not ended within 1 s; the disk fails until it is attached again/.test(world.daemon.stderr),
    "the operator is told",
  );
  await verified(other);
  (await world.run("detach", "1/xvda")).expect(0);
});

test("a module's author: the demo serves it, and what it throws is told with its place", LIMIT, async (t) => {
  const scene = new Scene(t);
  const served = scene.start(process.execPath, [
    command,
    "demo",
    `device:${example}?size=${SIZE}`,
    "--run",
    'test -n "$uri" && echo served',
  ]);
  (await served.outcome()).expect(0).expectMatch(/^served$/m);
  const thrower = writeModule(
    t,
    `export default {
  api: 1,
  open() {
    throw new Error("no such disk here");
  },
};`,
  );
  const refused = await scene.start(process.execPath, [command, "demo", `device:${thrower}`]).outcome();
  refused.expect(1);
  refused.expectMatch(/the module cannot open it: no such disk here \(\S+device\.js:4:11\)$/m, "stderr");
  refused.expectMatch(/^ +at Object\.open \(file:\S+device\.js:4:11\)$/m, "stderr");
  const wrong = writeModule(t, "export default {\n  api 1,\n};");
  const syntax = await scene
    .start(process.execPath, [command, "check", "--device", wrong, `vdev=xvda,target=device:${wrong}`])
    .outcome();
  syntax.expect(1);
  syntax.expectMatch(/Unexpected \w+ \(`node --check \S+device\.js` shows where\)$/m, "stderr");
});

test("a read that throws is in the daemon's log with its place, and its stack once", LIMIT, async (t) => {
  const module = writeModule(
    t,
    `const fail = () => {
  throw new Error("bad sector");
};
export default { api: 1, open: () => ({ size: ${SIZE}, read: fail, write() {} }) };`,
  );
  const world = await World.start(t, "--device", module);
  (await world.run("attach", "1", `vdev=xvda,target=device:${module}`)).expect(0);
  assert.notEqual((await world.start("guest", "--workload", "50").outcome()).status, 0);
  const line = /level=error .*bad sector \(\S+device\.js:2:9\)/;
  await eventually(() => line.test(world.daemon.stderr), "the operator is told where");
  assert.equal(world.daemon.stderr.match(/bad sector\\+n +at Object\.fail/g)?.length, 1, world.daemon.stderr);
});
