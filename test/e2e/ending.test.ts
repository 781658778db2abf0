/** How a demo ends: by Ctrl-C, by SIGTERM, and when one of its processes is killed. */
import assert from "node:assert/strict";
import { e2e, eventually, MIB, type Running, type Scene } from "./harness.js";

const SERVING = /^Ctrl-C ends it$/m;
/** Long enough for a signal to find the workload under way. */
const working = ["--size", "16M", "--operations", "1000000"];

/** A demo that serves an image. */
async function serving(scene: Scene, image: string): Promise<Running> {
  const running = scene.startDemo(image);
  await running.until(SERVING);
  return running;
}

/** Throws if anybody has the image locked. */
async function checkUnlocked(scene: Scene, image: string): Promise<void> {
  (await scene.demo(image, "--run", "true")).expect(0);
}

/** Kills a part of the demo and checks that the rest ends, soon, and with one line. */
async function checkFails(scene: Scene, running: Running, name: "serve" | "guest"): Promise<void> {
  process.kill(scene.part(name), "SIGKILL");
  const outcome = scene.checkLeft((await running.outcome()).expect(1));
  assert.match(outcome.stderr, /^xbdback: [^\n]+\n$/, outcome.story);
}

const signals = { SIGINT: "the group of a demo", SIGTERM: "a demo" } as const;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  e2e(`${signal} to ${signals[signal]} that serves ends it cleanly`, [], async (scene) => {
    const image = scene.image("disk.img", 4 * MIB);
    const running = await serving(scene, image);
    const second = (await scene.startDemo(image, "--run", "true").outcome()).expect(5);
    second.expectMatch(/^xbdback: .*disk\.img: in use by .*; stop it or detach/, "stderr");
    if (signal === "SIGINT") running.signalGroup(signal);
    else running.process.kill(signal);
    scene.checkLeft((await running.outcome()).expect(0));
    await checkUnlocked(scene, image);
  });
}

e2e("SIGINT while an NBD client is busy ends the demo cleanly", ["fio"], async (scene) => {
  const image = scene.image("disk.img", 32 * MIB);
  const running = await serving(scene, image);
  const [uri] = await running.until(/nbd\+unix:\S+/);
  const options = ["--rw=randrw", "--bsrange=512-256k", "--iodepth=32", "--size=32m"];
  const endless = ["--time_based", "--runtime=300"];
  const client = scene.start("fio", ["--name=t", "--ioengine=nbd", `--uri=${uri}`, ...options, ...endless]);
  await client.until(/connected to NBD server/);
  await new Promise((resolve) => setTimeout(resolve, 300));
  running.signalGroup("SIGINT");
  const outcome = (await running.outcome()).expect(0);
  const { status } = await client.outcome();
  assert.notEqual(status, 0, "fio was told");
  scene.checkLeft(outcome);
  await checkUnlocked(scene, image);
});

for (const line of [/^machine /m, /^xbd backend: attach /m, /^guest: xvda/m]) {
  e2e(`SIGINT after the line ${line} of the workload leaves nothing behind`, [], async (scene) => {
    const running = scene.startDemo(...working);
    await running.until(line);
    running.signalGroup("SIGINT");
    const outcome = scene.checkLeft(await running.outcome());
    assert.ok(outcome.status! > 0, outcome.story);
    assert.match(outcome.stderr, /^xbdback: [^\n]+\n$/, outcome.story);
  });
}

e2e("SIGINT is the command's, and the demo ends after it with its status", [], async (scene) => {
  const running = scene.startDemo(
    "--size",
    "1M",
    "--run",
    "trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done",
  );
  await running.until(/^ready$/m);
  running.signalGroup("SIGINT");
  scene.checkLeft((await running.outcome()).expect(9));
});

e2e("SIGTERM is passed on to the command, and the demo ends after it", [], async (scene) => {
  const running = scene.startDemo(
    "--size",
    "1M",
    "--run",
    "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done",
  );
  await running.until(/^ready$/m);
  running.process.kill("SIGTERM");
  scene.checkLeft((await running.outcome()).expect(9));
});

e2e("a demo that is killed leaves no process behind, and the image unlocked", [], async (scene) => {
  const image = scene.image("disk.img", 4 * MIB);
  const running = await serving(scene, image);
  assert.equal(scene.processes().length, 3);
  running.process.kill("SIGKILL");
  await eventually(() => scene.processes().length === 0, "its processes are still there");
  const { signal, story } = await running.outcome();
  assert.equal(signal, "SIGKILL", story);
  // Its directories stay: nobody was left to remove them.
  (await scene.startDemo(image, "--run", "true").outcome()).expect(0);
});

const parts = ["serve", "guest"] as const;
for (const name of parts) {
  e2e(
    `a demo at work whose \`xbdback ${name}\` is killed fails, and leaves nothing behind`,
    [],
    async (scene) => {
      const running = scene.startDemo(...working);
      await running.until(/^guest: xvda/m);
      await checkFails(scene, running, name);
    },
  );
}
for (const name of parts) {
  e2e(
    `a demo that serves whose \`xbdback ${name}\` is killed fails, and leaves nothing behind`,
    [],
    async (scene) => {
      const image = scene.image("disk.img", 4 * MIB);
      await checkFails(scene, await serving(scene, image), name);
      await checkUnlocked(scene, image);
    },
  );
}
