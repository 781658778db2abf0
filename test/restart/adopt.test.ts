/** Backends that are killed or stopped under a guest at work, and those that go on. */
import assert from "node:assert/strict";
import { closeSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { type Blkfront, connectBlkfront } from "../../host/guest/blkfront.js";
import { type GuestDomain, joinDomain, joinGuest } from "../../host/guest/process.js";
import { makeFifo } from "../../host/platform/libc.js";
import { paths } from "../../host/platform/loopback/layout.js";
import { removeVbd, type VbdSpec } from "../../host/toolstack/vbd.js";
import { FakeServiceManager } from "../support/service-manager.js";
import { pause, until } from "../vbd/harness.js";
import { DEVID, Site } from "./processes.js";
import { playSlice, WAYS } from "./slice.js";
import { playVictims } from "./victims.js";

const LIMIT = { timeout: 120_000 };
const module = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const lateWriter = module("./late-writer.js");
const flushFailer = module("./flush-failer.js");

for (const [i, way] of WAYS.slice(0, 2).entries()) {
  test(`the backend is killed five times, and the guest sees pauses: ${way.name}`, LIMIT, async () => {
    await playSlice(way, Array(5).fill("backend"), 100 + i);
  });
}

for (const [i, victim] of (["guest", "both"] as const).entries()) {
  test(`killed twelve times: ${victim}; nothing is left, and the next guest is served`, LIMIT, async () => {
    await playVictims(victim, WAYS[i], 12, 200 + i);
  });
}

interface Scene {
  readonly site: Site;
  readonly spec: VbdSpec;
  readonly guest: { readonly disk: Blkfront };
  state(): Promise<number>;
  error(): Promise<string | null>;
}

/** A guest in this process, whose backend is another one; `kept`: a service manager keeps the disks' locks. */
function scene(
  body: (scene: Scene) => Promise<void>,
  mode = "w",
  program?: string,
  kept = false,
): () => Promise<void> {
  return async () => {
    const site = await Site.start();
    if (kept) site.service = new FakeServiceManager();
    const backend = "/local/domain/0/backend/vbd";
    const { xenstore, directory } = site.host;
    let domain: GuestDomain | null = null;
    let disk: Blkfront | null = null;
    try {
      if (program) site.run(program, directory, fifoIn(site));
      else site.serve();
      const spec = await site.plug(1, 1 << 20, mode);
      domain = await joinDomain(directory, 1);
      disk = await connectBlkfront(domain, DEVID, { inFlightBytes: 1 << 20 });
      await body({
        ...{ site, spec, guest: { disk } },
        state: async () => Number(await xenstore.read(`${backend}/1/${DEVID}/state`)),
        error: () => xenstore.read(`/local/domain/0/error/backend/vbd/1/${DEVID}/error`),
      });
    } finally {
      if (disk) disk.onFailure = () => {};
      await disk?.close().catch(() => {});
      await domain?.leave().catch(() => {});
      await site.close();
      site.service?.close();
    }
  };
}

function fifoIn(site: Site): string {
  const path = join(site.images, "fifo");
  makeFifo(path);
  return path;
}

const filled = (byte: number): Uint8Array => new Uint8Array(4096).fill(byte);
const logged = ({ site }: Scene, pattern: RegExp): Promise<void> =>
  until(`a line fits ${pattern}:\n${site.log.join("\n")}`, () => site.log.some((line) => pattern.test(line)));

/** Changes the file of the first queue's journal. */
function tamper({ site }: Scene, at: number, bytes: Uint8Array): void {
  const fd = openSync(join(paths.journals(site.host.directory), site.journals[0]), "r+");
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

/** The guest goes on, and its disk is closed. */
async function goesOn({ site, guest, spec }: Scene): Promise<void> {
  await guest.disk.write(4096, filled(7));
  assert.deepEqual(await guest.disk.close(), { grantsInUse: 0 });
  assert.equal(await removeVbd(site.host.xenstore, spec), "closed");
  await site.untilClean();
}

test(
  "SIGTERM hands the guest over: it stays connected, and the pause is measured",
  LIMIT,
  scene(async (scene) => {
    const { site, guest } = scene;
    await guest.disk.write(0, filled(1));
    await site.backend?.kill("SIGTERM");
    assert.equal(site.backend?.process.exitCode, 0);
    assert.equal(await scene.state(), 4);
    assert.equal(site.journals.length, 1);
    assert.equal(site.host.hypervisor.grantsInUse(), 0);
    const waits = guest.disk.write(0, filled(2));
    await pause(100);
    site.serve();
    await waits;
    await logged(scene, /devid=51712 msg="taken over after a pause of [0-9]+ ms"$/);
    assert.equal(readFileSync(scene.spec.path)[0], 2);
    // A kill after that is no handing over.
    await site.backend?.kill();
    site.serve();
    await logged(scene, /taken over [0-9]+ ms after this process began/);
    await goesOn(scene);
  }),
);

test(
  "a journal of a format to come: the guest waits, untouched, for the release that knows it",
  LIMIT,
  scene(async (scene) => {
    const { site, guest } = scene;
    await guest.disk.flush();
    await site.backend?.kill();
    const before = await site.host.xenstore.read(`/local/domain/0/backend/vbd/1/${DEVID}/sectors`);
    tamper(scene, 8, Uint8Array.of(2, 0, 0, 0));
    site.serve();
    const waits = guest.disk.write(0, filled(3));
    await logged(
      scene,
      /devid=51712 msg=".* has format 2; this xbdback knows 1: start the one that wrote it/,
    );
    const [vbd] = (await site.list()).vbds;
    assert.equal(vbd.state, 4);
    assert.match(vbd.waitsFor ?? "", /format 2/);
    assert.equal(await scene.error(), null);
    assert.equal(await site.host.xenstore.read(`/local/domain/0/backend/vbd/1/${DEVID}/sectors`), before);
    // "The old binary comes back."
    await site.backend?.kill("SIGTERM");
    tamper(scene, 8, Uint8Array.of(1, 0, 0, 0));
    site.serve();
    await waits;
    await goesOn(scene);
  }),
);

for (const { name, at } of [
  { name: "header", at: 70 },
  { name: "entries", at: 4096 + 8 },
]) {
  test(
    `a journal with a damaged ${name}: the disk is closed, and nothing is guessed`,
    LIMIT,
    scene(async (scene) => {
      await scene.guest.disk.flush();
      await scene.site.backend?.kill();
      tamper(scene, at, filled(9).subarray(0, 8));
      let failed: Error | null = null;
      scene.guest.disk.onFailure = (error) => {
        failed = error;
      };
      scene.site.serve();
      await until("the guest hears", () => failed);
      assert.ok((await scene.state()) >= 5);
      assert.match((await scene.error()) ?? "", /^22 the journal is damaged, or not this ring's$/);
      scene.guest.disk.onFailure = null;
      // It can begin anew.
      await scene.guest.disk.reconnect();
      await goesOn(scene);
    }),
  );
}

test(
  "no journal: a ring without requests goes on, one with some is closed",
  LIMIT,
  scene(async (scene) => {
    const { site, guest } = scene;
    const directory = paths.journals(site.host.directory);
    const lose = async (): Promise<void> => {
      await site.backend?.kill();
      rmSync(join(directory, site.journals[0]));
    };
    await guest.disk.flush();
    await lose();
    site.serve();
    await logged(scene, /taken over \(1 rings without a journal\)/);
    await guest.disk.write(0, filled(1));
    await lose();
    const waits = guest.disk.write(0, filled(2)).catch((error: Error) => error.message);
    guest.disk.onFailure = () => {};
    await pause(50);
    site.serve();
    assert.match((await waits) ?? "", /went to/);
    assert.match((await scene.error()) ?? "", /1 requests wait for responses, and there is no journal/);
  }),
);

test(
  "the guest closed while nobody served it",
  LIMIT,
  scene(async ({ site, guest, spec, state }) => {
    await site.backend?.kill();
    await site.host.xenstore.write(`/local/domain/1/device/vbd/${DEVID}/state`, "6");
    site.serve();
    await until("the backend follows", async () => (await state()) === 6);
    assert.equal(site.journals.length, 0);
    guest.disk.onFailure = () => {};
    await removeVbd(site.host.xenstore, spec);
    await site.untilClean();
  }),
);

test(
  "the guest died while nobody served it, and its number is another's",
  LIMIT,
  scene(async ({ site, guest, spec, state }) => {
    await site.backend?.kill();
    guest.disk.onFailure = () => {};
    await site.host.killGuest(1);
    site.serve();
    await until("the backend lets go", async () => (await state()) === 6);
    await site.host.xenstore.remove("/local/domain/1");
    assert.equal(await removeVbd(site.host.xenstore, spec), "closed");
    await site.untilClean();
    const again = await site.plug(1, 1 << 20);
    const next = await joinGuest(site.host.directory, 1, DEVID, { inFlightBytes: 1 << 20 });
    await next.disk.write(0, filled(1));
    await next.stop();
    assert.equal(await removeVbd(site.host.xenstore, again), "closed");
  }),
);

test(
  "journals of vbds that are gone are swept away",
  LIMIT,
  scene(async (scene) => {
    const { site, spec } = scene;
    await site.backend?.kill();
    await site.host.destroyGuest(1);
    await site.host.xenstore.remove("/local/domain/0/backend/vbd/1");
    site.serve();
    await until("they are gone", () => site.journals.length === 0);
    assert.ok(spec);
  }),
);

for (const [mode, kept] of [
  ["w", false],
  ["w!", false],
  ["w", true],
] as const) {
  const locks = kept ? ", locks kept by the service manager" : "";
  test(
    `a write that is still in the kernel when its process dies never lands on a newer one; mode ${mode}${locks}`,
    LIMIT,
    scene(
      async (scene) => {
        const { site, guest, spec } = scene;
        const old = guest.disk.write(0, filled(1));
        await logged(scene, /^HELD$/);
        if (site.service) await until("its locks are kept", () => site.service?.stored.size === 1);
        await site.backend?.kill();
        const { started } = site.serve();
        await old;
        await guest.disk.write(0, filled(2));
        await guest.disk.flush();
        // Long after everything that was ever written has landed.
        await pause(1500);
        assert.ok(started > 0);
        assert.deepEqual(new Uint8Array(readFileSync(spec.path).subarray(0, 4096)), filled(2));
        await goesOn(scene);
      },
      mode,
      lateWriter,
      kept,
    ),
  );
}

test(
  "a flush that failed has failed for the process after, too, until the disk is attached again",
  LIMIT,
  scene(
    async (scene) => {
      const { site, guest, spec } = scene;
      await assert.rejects(guest.disk.flush());
      await site.backend?.kill();
      // What the process before has said of it is no answer.
      site.log.length = 0;
      site.serve();
      await logged(scene, /taken over/);
      // A FIFO has none; before it knows the image's, the guest itself refuses.
      await until("the guest knows the disk's size", () => guest.disk.size > 0);
      await assert.rejects(guest.disk.write(0, filled(1)), /failed|error/i);
      await logged(
        scene,
        /written data may be lost; nothing more is written until the disk is attached again/,
      );
      await assert.rejects(guest.disk.flush());
      assert.equal(readFileSync(spec.path)[0], 0);
      await guest.disk.reconnect();
      await goesOn(scene);
    },
    "w",
    flushFailer,
  ),
);
