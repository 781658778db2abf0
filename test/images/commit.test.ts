/** Overlays that are written back under a guest that works, and everything that goes wrong meanwhile. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { xenstoreSocket } from "../../host/platform/loopback/host.js";
import { connectXenstore } from "../../host/platform/xenstore/client.js";
import { findProgram } from "../../host/storage/helper/command.js";
import { MIB, pause, type World } from "../cli/world.js";
import { until } from "../vbd/harness.js";
import { assertSame, connected, Guest, SIZE, withQemu, worldWithDisk } from "./live.js";
import { helperOf } from "./support.js";

const ROUNDS = process.env["XBDBACK_TEST"] === "full" ? 12 : 4;

interface Shown {
  readonly device: string;
  readonly through: string | null;
}

async function shown(world: World, name = "1/xvda"): Promise<Shown> {
  return (await world.json<{ vbd: Shown }>("show", name)).vbd;
}

/** A guest that has written to an overlay over its image. */
async function onOverlay(t: TestContext, format: "raw" | "qcow2" = "raw") {
  const scene = await worldWithDisk(t, format);
  const first = scene.overlay("first");
  const guest = new Guest(await connected(t, scene.world));
  await guest.work();
  (await scene.world.run("snapshot", "1/xvda", first)).expect(0);
  await guest.work();
  return { ...scene, first, guest };
}

/**
 * Makes daemons that are started from now on give their helpers another `qemu-storage-daemon`, which puts a layer of QEMU's
 * above the file of a base that is to be written.
 */
class BaseLayer {
  readonly #real = findProgram("qemu-storage-daemon");
  readonly #script: string;

  constructor(t: TestContext) {
    const path = process.env["PATH"] as string;
    const directory = mkdtempSync(join(tmpdir(), "xbdback-layer-"));
    this.#script = join(directory, "qemu-storage-daemon");
    process.env["PATH"] = `${directory}:${path}`;
    t.after(() => {
      process.env["PATH"] = path;
      rmSync(directory, { recursive: true });
    });
  }

  /** By QEMU's description, in which FILE stands for the file's; with these options besides. */
  set(layer: string, ...options: string[]): void {
    const file = String.raw`(\{"driver":"file","filename":"[^"]*"[^}]*\})`;
    const backing = String.raw`"backing":\{"driver":"raw","file":${file}(,"node-name":"base",[^}]*\})`;
    const base = String.raw`{"driver":"raw","file":${layer.replace("FILE", String.raw`\1`)}\2`;
    const script = `#!/bin/sh
case "$*" in *chardev=jobs*) ;; *) exec ${this.#real} "$@" ;; esac
n=$#
base=
while [ $n -gt 0 ]; do
  case "$1" in
    *'"backing"'*)
      base=$(printf %s "$1" | sed -E 's|^.*${backing}.*$|${base}|')
      set -- "$@" "$(printf %s "$1" | sed -E 's|${backing}|"backing":"base"|')"
      ;;
    *) set -- "$@" "$1" ;;
  esac
  shift
  n=$((n - 1))
done
exec ${this.#real} ${options.join(" ")} --blockdev "$base" "$@"
`;
    writeFileSync(this.#script, script, { mode: 0o755 });
  }

  throttle(bytes: number): void {
    const group = `throttle-group,id=slow,x-bps-write=${bytes}`;
    this.set('{"driver":"throttle","throttle-group":"slow","file":FILE}', "--object", group);
  }
}

for (const format of ["raw", "qcow2"] as const)
  withQemu(`${format}: two overlays go back, under a guest, and its next start`, async (t) => {
    const { world, image, target, attach, overlay, first, guest } = await onOverlay(t, format);
    const second = overlay("second");
    (await world.run("snapshot", "1/xvda", second)).expect(0);
    guest.start();
    (await world.run("commit", "1/xvda"))
      .expect(0)
      .expectMatch(
        new RegExp(
          `^xbdback1i51712: the disk is cow:${first}:${target} from now on, and ${second} is not used`,
          "m",
        ),
      );
    await guest.rest();
    guest.start();
    assert.deepEqual(await world.json("commit", "1/xvda"), {
      ...{ name: "xbdback1i51712", domid: 1, devid: 51712, target, size: SIZE, overlay: first },
    });
    const { device, through } = await shown(world);
    assert.equal(device, target);
    assert.equal(through === null, format === "raw");
    const last = await guest.rest();
    await until("it is said", () => /commit: .* is written back, and the disk is/.test(world.daemon.stderr));
    const { replaced } = await world.json<{ replaced: { images: object[] }[] }>("replaced");
    assert.deepEqual(
      replaced.map(({ images }) => images),
      [[]],
    );

    // The guest starts again, on what xl names: the image, or an overlay that is out of date.
    await guest.disk.close();
    for (const what of [target, `cow:${first}:${target}`, `cow:${second}:cow:${first}:${target}`]) {
      (await world.run("detach", "1/xvda")).expect(0);
      assertSame(world, image, format, last);
      await attach(1, what);
      assert.equal((await shown(world)).device, target);
    }
    (await world.run("detach", "1/xvda")).expect(0);
    (await world.run("attach", "2", `vdev=xvda,access=ro,target=cow:${first}:${target}`))
      .expect(5)
      .expectMatch(/first\.qcow2: was written back into .* and is out of date/, "stderr");
    (await world.run("replaced")).expect(0).expectMatch(/first\.qcow2: written back into .* for domain 1's/);

    // Its name is free again.
    rmSync(first);
    await attach();
    (await world.run("snapshot", "1/xvda", first)).expect(0);
    assert.equal((await shown(world)).device, `cow:${first}:${target}`);
    (await world.run("commit", "1/xvda")).expect(0);
    rmSync(first);
    rmSync(second);
    for (const one of [first, second]) (await world.run("replaced", "--forget", one)).expect(0);
    (await world.run("replaced", "--forget", second)).expect(4);
    assert.deepEqual(await world.json("replaced"), { replaced: [] });
  });

withQemu("an overlay of the configuration's goes back, also without a guest", async (t) => {
  const { world, image, attach, overlay } = await worldWithDisk(t);
  (await world.run("detach", "1/xvda")).expect(0);
  const named = `cow:${overlay("own")}:${image}`;
  await attach(1, named);
  const guest = new Guest(await connected(t, world));
  await guest.work();
  const last = await guest.rest();
  await guest.disk.close();
  (await world.run("commit", "1/xvda")).expect(0);
  assert.equal((await shown(world)).device, image);
  (await world.run("detach", "1/xvda")).expect(0);
  assertSame(world, image, "raw", last);
  await attach(1, named);
  assert.equal((await shown(world)).device, image);
});

withQemu("what cannot be written back is refused, and the disk as it is", async (t) => {
  const { world, image, attach, first, guest } = await onOverlay(t);
  const refused = async (status: number, line: RegExp, name = "1/xvda"): Promise<void> => {
    (await world.run("commit", name)).expect(status).expectMatch(line, "stderr");
  };
  guest.start();
  await refused(4, /no such vbd/, "1/xvdb");
  await attach(2, world.image("other.img", SIZE));
  await refused(1, /other\.img: is not an overlay/, "2/xvda");
  (await world.run("detach", "2/xvda")).expect(0);

  // Another overlay stands on the base: one that is in use, one that is known of, and one whose base is never to be written.
  const second = world.scene.path("second.qcow2");
  await attach(2, `cow:${second}:${image}`);
  await refused(5, /disk\.img: in use by xbdback2i51712, too; detach that first/);
  (await world.run("snapshot", "2/xvda", world.scene.path("third.qcow2"))).expect(0);
  (await world.run("detach", "2/xvda")).expect(0);
  await refused(5, /disk\.img: cow:.*third\.qcow2:.* stands on it, too.*`xbdback replaced` shows/);
  (await world.run("replaced", "--forget", second)).expect(0);
  await attach(2, `cow:${world.scene.path("fourth.qcow2")}:readonly:${world.image("base.img", SIZE)}`);
  await refused(1, /is only to be read, as the target says/, "2/xvda");
  (await world.run("detach", "2/xvda")).expect(0);
  await attach(2, `error:flush:${world.scene.path("other.img")}`);
  (await world.run("snapshot", "2/xvda", world.scene.path("fifth.qcow2"))).expect(0);
  await refused(1, /fifth\.qcow2: cannot be written back into .*other\.img: .*flush/, "2/xvda");
  (await world.run("detach", "2/xvda")).expect(0);
  await attach(2, `error:flush:${world.scene.path("other.img")}`);
  assert.match((await shown(world, "2/xvda")).device, /^error:flush:cow:.*fifth/);
  (await world.run("detach", "2/xvda")).expect(0);
  (await world.run("attach", "2", `vdev=xvda,access=ro,target=cow:${second}:${image}`)).expect(0);
  await refused(1, /is only read, and changes nothing/, "2/xvda");
  (await world.run("detach", "2/xvda")).expect(0);

  renameSync(image, `${image}.away`);
  await refused(1, /disk\.img: no such file/);
  renameSync(`${image}.away`, image);
  const xenstore = await connectXenstore(xenstoreSocket(world.directory, 0));
  t.after(() => xenstore.close());
  await xenstore.write("/libxl/1/type", "hvm");
  await refused(1, /domain 1 is an HVM guest/);
  assert.equal((await shown(world)).device, `cow:${first}:${image}`);
  await guest.rest();
});

withQemu("what cannot be noted, at the beginning and when all is copied", async (t) => {
  new BaseLayer(t).throttle(4 * MIB);
  const { world, image, first, guest } = await onOverlay(t);
  const [record] = readdirSync(join(world.directory, "replaced-images"));
  const obstacle = join(world.directory, "replaced-images", `${record}.new`);
  guest.start();
  mkdirSync(obstacle);
  (await world.run("commit", "1/xvda")).expect(1).expectMatch(/EISDIR/, "stderr");
  rmSync(obstacle, { recursive: true });
  await guest.rest();
  guest.start();
  const committing = world.start("commit", "1/xvda");
  await until("it begins", () => /commit: the overlay of .* is being written back/.test(world.daemon.stderr));
  mkdirSync(obstacle);
  (await committing.outcome()).expect(1).expectMatch(/EISDIR/, "stderr");
  rmSync(obstacle, { recursive: true });
  await guest.rest();
  assert.equal((await shown(world)).device, `cow:${first}:${image}`);
  guest.start();

  // Killed when all is copied and the helper has ended, and nothing is noted yet: who opens a FIFO waits for its reader.
  const { daemon } = world;
  const last = world.start("commit", "1/xvda");
  const begun = daemon.stderr.length;
  await until("it begins", () => /commit: the overlay of/.test(daemon.stderr.slice(begun)));
  execFileSync("mkfifo", [obstacle]);
  const helper = await helperOf(world);
  await until("the helper ends", () => !existsSync(`/proc/${helper}`));
  daemon.process.kill("SIGKILL");
  await Promise.all([daemon.ended, last.outcome()]);
  rmSync(obstacle);
  await world.serveAgain();
  await guest.rest();
  assert.equal((await shown(world)).device, `cow:${first}:${image}`);
  guest.start();
  (await world.run("commit", "1/xvda")).expect(0);
  await guest.rest();
  assert.equal((await shown(world)).device, image);
});

/** It takes some seconds to write so much to a slow base, and not all of it while the guest waits. */
const LARGE = 96 * MIB;

/** A guest at work on an overlay that has so many bytes. */
async function onFullOverlay(t: TestContext, size: number) {
  const scene = await worldWithDisk(t, "raw", size);
  const first = scene.overlay("first");
  (await scene.world.run("snapshot", "1/xvda", first)).expect(0);
  const guest = new Guest(await connected(t, scene.world));
  // Written all the same.
  for (let at = 0; at < size; at += MIB) await guest.disk.write(at, new Uint8Array(MIB));
  guest.start();
  /** Resolves when a part is copied. */
  const begin = async (): Promise<ReturnType<World["start"]>> => {
    const committing = scene.world.start("commit", "1/xvda");
    const { daemon } = scene.world;
    const length = daemon.stderr.length;
    await until("it begins", () => /commit: the overlay of/.test(daemon.stderr.slice(length)));
    return committing;
  };
  /** All is as it was, and goes on. */
  const asItWas = async (): Promise<void> => {
    await guest.rest();
    const { device } = await shown(scene.world);
    assert.equal(device, `cow:${first}:${scene.image}`);
    guest.start();
  };
  return { ...scene, first, guest, begin, asItWas };
}

withQemu("what ends in the midst of it leaves the guest its overlay", async (t) => {
  const layer = new BaseLayer(t);
  layer.throttle(8 * MIB);
  const { world, image, first, guest, begin, asItWas } = await onFullOverlay(t, LARGE);

  const interrupted = await begin();
  (await world.run("snapshot", "1/xvda", `${first}.other`))
    .expect(1)
    .expectMatch(/its overlay is being written back already/, "stderr");
  (await world.run("commit", "1/xvda")).expect(1).expectMatch(/is being written back already/, "stderr");
  interrupted.process.kill("SIGINT");
  await until("it is said", () => /no commit: .*: it was given up; the disk is as/.test(world.daemon.stderr));
  await asItWas();

  const orphaned = await begin();
  process.kill(await helperOf(world), "SIGKILL");
  (await orphaned.outcome())
    .expect(1)
    .expectMatch(/first\.qcow2: cannot be written back into .*disk\.img: the helper has ended/, "stderr");
  await asItWas();

  const lost = await begin();
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  (await lost.outcome()).expect(1).expectMatch(/`xbdback show` of the next one says/, "stderr");
  await world.serveAgain();
  await asItWas();
  const [{ images }] = (
    await world.json<{ replaced: { images: { changing?: boolean; changed: string }[] }[] }>("replaced")
  ).replaced;
  assert.deepEqual(
    images.map(({ changing }) => changing),
    [undefined],
  );

  const stopped = await begin();
  world.daemon.process.kill("SIGTERM");
  assert.equal((await world.daemon.outcome()).status, 0);
  (await stopped.outcome()).expect(1).expectMatch(/first\.qcow2: cannot be|meanwhile/, "stderr");
  await world.serveAgain();
  await asItWas();

  // The guest leaves: the rest is written back without it.
  layer.throttle(64 * MIB);
  const left = await begin();
  const last = await guest.rest();
  await guest.disk.close();
  (await left.outcome(60)).expect(0);
  assert.equal((await shown(world)).device, image);
  (await world.run("detach", "1/xvda")).expect(0);
  assertSame(world, image, "raw", last);
});

withQemu("a disk that is detached in the midst of it", async (t) => {
  new BaseLayer(t).throttle(8 * MIB);
  const { world, attach, first, guest, begin } = await onFullOverlay(t, LARGE);
  const committing = await begin();
  const last = await guest.rest();
  await guest.disk.close();
  (await world.run("detach", "1/xvda")).expect(0);
  (await committing.outcome())
    .expect(1)
    .expectMatch(/the helper has ended|closed meanwhile|is not listened/, "stderr");
  assertSame(world, first, "qcow2", last);
  await attach();
  assert.match((await shown(world)).device, /^cow:/);
});

withQemu("a base that is full, or too slow for the last writes", async (t) => {
  const layer = new BaseLayer(t);
  const error = '"inject-error":[{"event":"none","iotype":"write","errno":28}]';
  layer.set(`{"driver":"blkdebug",${error},"image":FILE}`);
  const { world, guest, asItWas } = await onFullOverlay(t, SIZE);
  for (const reason of [
    /first\.qcow2: cannot be written back into .*disk\.img: No space left on device/,
    /the base takes too long for the last writes; check the storage below it/,
  ]) {
    (await world.run("commit", "1/xvda")).expect(1).expectMatch(reason, "stderr");
    await asItWas();
    layer.throttle(2 * MIB);
  }
  await guest.rest();
});

withQemu("the daemon is killed at any moment of it", async (t) => {
  const { world, image, first, guest } = await onOverlay(t);
  guest.start();
  for (let round = 0; round < ROUNDS; round++) {
    const committing = world.run("commit", "1/xvda");
    await pause(60 + 60 * round);
    world.daemon.process.kill("SIGKILL");
    await Promise.all([committing, world.daemon.ended]);
    await world.serveAgain();
    await guest.rest();
    guest.start();
    const { device } = await shown(world);
    assert.ok(device === image || device === `cow:${first}:${image}`, device);
    if (device !== image) continue;
    rmSync(first);
    (await world.run("snapshot", "1/xvda", first)).expect(0);
  }
  (await world.run("commit", "1/xvda")).expect(0);
  const last = await guest.rest();
  await guest.disk.close();
  (await world.run("detach", "1/xvda")).expect(0);
  assertSame(world, image, "raw", last);
});
