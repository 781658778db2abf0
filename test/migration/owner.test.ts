/**
 * One owner at every moment (docs/migration.md): the disk of a guest that is suspended is released before another host has
 * it, and a guest that goes on where it was gets it again. Guests verify every byte; `XBDBACK_TEST=full` moves them some
 * hundred times.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Blkfront } from "../../host/guest/blkfront.js";
import type { GuestDomain } from "../../host/guest/process.js";
import { random, Workload } from "../../host/guest/workload.js";
import { makeFifo } from "../../host/platform/libc.js";
import { absent } from "../support/programs.js";
import { until } from "../vbd/harness.js";
import { connectAt, type Host, onTwoHosts, openersOf, type Scene } from "./hosts.js";

const full = process.env["XBDBACK_TEST"] === "full";
const LIMIT = { timeout: full ? 1_800_000 : 240_000 };
const IMAGE_BYTES = 8 << 20;
const MIGRATING = /the guest to continue, here or on another host: migrating, its disk is released/;

const makers = {
  async raw(directory: string) {
    const image = join(directory, "shared.img");
    writeFileSync(image, "");
    truncateSync(image, IMAGE_BYTES);
    return { target: image, image };
  },
  async qcow2(directory: string) {
    const image = join(directory, "shared.qcow2");
    await promisify(execFile)("qemu-img", ["create", "-q", "-f", "qcow2", image, String(IMAGE_BYTES)]);
    return { target: `qcow2:${image}`, image };
  },
};
type Format = keyof typeof makers;

/** A guest at work, and the host that it is on. */
class Traveller {
  readonly scene: Scene;
  readonly disk: Blkfront;
  readonly #workload: Workload;
  readonly #work: Promise<void>;
  #at: 0 | 1 = 0;
  domid = 1;
  domains: GuestDomain[];

  private constructor(scene: Scene, disk: Blkfront, domain: GuestDomain, seed: number) {
    this.scene = scene;
    this.disk = disk;
    this.domains = [domain];
    this.#workload = new Workload(disk, { operations: Number.POSITIVE_INFINITY, depth: 32, seed });
    this.#work = this.#workload.run();
    this.#work.catch(() => {});
  }

  static async start(scene: Scene, seed: number): Promise<Traveller> {
    await scene.hosts[0].receive(1, scene.target, "guest");
    const { disk, domain } = await connectAt(scene.hosts[0], 1);
    return new Traveller(scene, disk, domain, seed);
  }

  get here(): Host {
    return this.scene.hosts[this.#at];
  }

  get there(): Host {
    return this.scene.hosts[1 - this.#at];
  }

  /** Resolves when the guest has had more answers; rejects with what went wrong with its work. */
  async works(answers = 200): Promise<void> {
    const { responses } = this.disk.counters;
    const more = until("the guest is at work", () => this.disk.counters.responses > responses + answers);
    await Promise.race([more, this.#work.then(() => assert.fail("its work has ended"))]);
  }

  suspend(): void {
    this.here.site.host.suspendGuest(this.domid);
  }

  resume(): void {
    this.here.site.host.resumeGuest(this.domid);
  }

  /** The guest goes on in a domain of the other host, which has the disk; the one here is destroyed. */
  async arrive(domid: number): Promise<void> {
    const { host } = this.there.site;
    await host.xenstore.write(`/local/domain/${domid}/name`, "guest");
    const domain = await this.there.join(domid);
    this.domains.push(domain);
    await this.disk.resume(domain);
    await this.here.destroy(this.domid);
    this.#at = this.#at === 0 ? 1 : 0;
    this.domid = domid;
  }

  async end(): Promise<void> {
    this.#workload.stop();
    await this.#work;
    await this.disk.flush();
    await this.#workload.verifyAll(() => {});
    await this.disk.close();
    await this.leave();
  }

  async leave(): Promise<void> {
    this.disk.onFailure = () => {};
    this.#workload.stop();
    // Where something went wrong: a suspended guest's disk is never closed.
    try {
      this.resume();
    } catch {
      // Its domain is gone.
    }
    await this.disk.close().catch(() => {});
    for (const domain of this.domains) await domain.leave().catch(() => {});
  }
}

async function withTraveller(
  format: Format,
  seed: number,
  body: (traveller: Traveller) => Promise<void>,
): Promise<void> {
  await onTwoHosts(makers[format], async (scene) => {
    const traveller = await Traveller.start(scene, seed);
    try {
      await traveller.works();
      await body(traveller);
      await traveller.end();
    } finally {
      await traveller.leave();
    }
  });
}

/** Whoever has the image open is not the daemon, nor a helper, of a host that has released it. */
function checkReleased({ scene: { image } }: Traveller, host: Host): void {
  assert.deepEqual(openersOf(image), [], `${host.name} has released the image`);
}

/** One migration that succeeds. `early`: the other host asks for the disk while the guest is still at work. */
async function migrate(traveller: Traveller, early: boolean): Promise<void> {
  const { here, there, scene, disk, domid } = traveller;
  const next = domid + 1;
  let arriving: Promise<void> | null = null;
  if (early) {
    arriving = there.receive(next, scene.target);
    arriving.catch(() => {});
    await there.untilShown(
      next,
      /in use by .*; its guest migrates to this host, which waits up to 25 s for the disk/,
    );
    await traveller.works(50);
  }
  // One that waits opens the file for a moment to ask for its lock.
  const waiting = there.site.backend?.process.pid;
  const before = openersOf(scene.image).filter((pid) => pid !== waiting);
  assert.ok(before.length > 0, "the image is open");
  disk.suspend();
  traveller.suspend();
  await here.untilShown(domid, MIGRATING);
  if (!early) checkReleased(traveller, here);
  await (arriving ?? there.receive(next, scene.target));
  assert.ok(!openersOf(scene.image).some((pid) => before.includes(pid)), "the former owner has it no more");
  await traveller.arrive(next);
}

const moves = full ? { raw: 200, qcow2: 50 } : { raw: 10, qcow2: 2 };

for (const format of ["raw", "qcow2"] as const) {
  const skip = format === "raw" ? false : absent("qemu-storage-daemon", "qemu-img");
  const options = { ...LIMIT, skip };

  test(
    `a guest at work migrates ${moves[format]} times, and the disk has one owner: ${format}`,
    options,
    () =>
      withTraveller(format, 11, async (traveller) => {
        for (let move = 0; move < moves[format]; move++) {
          await migrate(traveller, move % 2 === 0);
          await traveller.works();
        }
      }),
  );

  test(`migrations that fail at every step leave the guest at work: ${format}`, options, () =>
    withTraveller(format, 12, async (traveller) => {
      const rounds = full ? 10 : 1;
      for (let round = 0; round < rounds; round++)
        for (const [i, fail] of FAILURES.entries()) {
          await fail(traveller, 100 + round * FAILURES.length + i);
          await traveller.works();
        }
    }),
  );
}

/** Each fails at another step; the guest's rings stay as they are, and it works on them all the time. */
const FAILURES: ((traveller: Traveller, other: number) => Promise<void>)[] = [
  async function goesOnAtOnce(traveller) {
    traveller.suspend();
    traveller.resume();
  },
  async function goesOnReleased(traveller) {
    traveller.suspend();
    await traveller.here.untilShown(traveller.domid, MIGRATING);
    checkReleased(traveller, traveller.here);
    traveller.resume();
  },
  async function neverSuspended(traveller, other) {
    const { there, scene } = traveller;
    const refused = assert.rejects(there.receive(other, scene.target));
    await there.untilShown(other, /its guest migrates to this host/);
    await there.destroy(other);
    await refused;
  },
  async function otherHadIt(traveller, other) {
    const { here, there, scene, domid } = traveller;
    traveller.suspend();
    await there.receive(other, scene.target);
    await here.untilShown(domid, MIGRATING);
    await there.destroy(other);
    traveller.resume();
  },
  async function otherHasIt(traveller, other) {
    const { here, there, scene, disk } = traveller;
    traveller.suspend();
    await there.receive(other, scene.target);
    const owners = openersOf(scene.image);
    const { responses } = disk.counters;
    traveller.resume();
    await until("a line says why the guest waits", () =>
      here.site.log.some((line) => /in use by .*the guest waits until it is released there/.test(line)),
    );
    assert.equal(disk.counters.responses, responses, "its rings stay frozen");
    // It tries again and again: each helper has it open for a moment, and is refused the lock.
    await until("this host has released the image", () =>
      openersOf(scene.image).every((pid) => owners.includes(pid)),
    );
    await there.destroy(other);
    here.site.log.length = 0;
  },
  async function killedReleased(traveller) {
    const { here, domid } = traveller;
    traveller.suspend();
    await here.untilShown(domid, MIGRATING);
    await here.kill();
    here.serve();
    await here.untilShown(domid, MIGRATING);
    checkReleased(traveller, here);
    traveller.resume();
  },
  async function killedReleasing(traveller, other) {
    const { here, domid } = traveller;
    traveller.suspend();
    await sleep(random(other)() % 8);
    await here.kill();
    here.serve();
    await here.untilShown(domid, MIGRATING);
    traveller.resume();
  },
];

test("what cannot be flushed is not left to another host", LIMIT, () =>
  onTwoHosts(makers.raw, async ({ hosts: [here, there], target, image }) => {
    const fifo = join(here.site.images, "fifo");
    makeFifo(fifo);
    await here.serveBy(fileURLToPath(new URL("../restart/flush-failer.js", import.meta.url)), fifo);
    await here.receive(1, target, "guest");
    const { disk, domain } = await connectAt(here, 1);
    here.site.host.suspendGuest(1);
    await until("a line says so", () =>
      here.site.log.some((line) =>
        /cannot be flushed: the disk is not released; resume the guest/.test(line),
      ),
    );
    await here.untilShown(1, /^null/);
    assert.deepEqual(openersOf(image), [here.site.backend?.process.pid]);
    await assert.rejects(there.receive(2, target, "another guest"), /in use by/);
    here.site.host.resumeGuest(1);
    await assert.rejects(disk.flush());
    disk.onFailure = () => {};
    await disk.close().catch(() => {});
    await domain.leave();
  }),
);

test("daemons that are killed in the midst of a migration cost the guest time", LIMIT, () =>
  withTraveller("raw", 13, async (traveller) => {
    const dice = random(13);
    for (let move = 0; move < (full ? 40 : 2); move++) {
      const { here, there, scene, disk, domid } = traveller;
      const next = domid + 1;
      const arriving = there.receive(next, scene.target);
      await there.untilShown(next, /its guest migrates to this host/);
      disk.suspend();
      traveller.suspend();
      for (const host of move % 2 === 0 ? [here] : [there, here]) {
        await sleep(dice() % 10);
        await host.kill();
        host.serve();
      }
      await arriving;
      await here.untilShown(domid, MIGRATING);
      await traveller.arrive(next);
      await traveller.works();
    }
  }),
);
