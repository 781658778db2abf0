/** What the tests of operations on disks under a guest that works share. */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import type { TestContext } from "node:test";
import { type Blkfront, connectBlkfront } from "../../host/guest/blkfront.js";
import { joinDomain } from "../../host/guest/process.js";
import { Workload } from "../../host/guest/workload.js";
import { MIB, World } from "../cli/world.js";
import { withPrograms } from "./support.js";

const QEMU = ["qemu-storage-daemon", "qemu-img"] as const;

/** A test that needs QEMU's programs. */
export function withQemu(title: string, body: (t: TestContext) => Promise<void>): void {
  withPrograms(QEMU, title, body);
}

const XVDA = 51712;
export const SIZE = 16 * MIB;
/** A domain's frontend; a domain connects as often as it likes. */
export async function connected(t: TestContext, world: World, domid = 1): Promise<Blkfront> {
  const name = `${world.directory} ${domid}`;
  const joined = domains.get(name);
  const domain = await (joined ?? joinDomain(world.directory, domid));
  domains.set(name, Promise.resolve(domain));
  const disk = await connectBlkfront(domain, XVDA, { inFlightBytes: MIB });
  t.after(async () => {
    disk.onFailure = () => {};
    await disk.close().catch(() => {});
    if (!joined) await domain.leave();
  });
  return disk;
}

const domains = new Map<string, ReturnType<typeof joinDomain>>();

/** A guest that works on its disk from now on and checks all that it reads. */
export class Guest {
  readonly disk: Blkfront;
  readonly #workload: Workload;
  #stop = false;
  #running: Promise<void> | null = null;

  constructor(disk: Blkfront) {
    this.disk = disk;
    this.#workload = new Workload(disk, { operations: 50, depth: 8, seed: 7 });
  }

  /** Works once. */
  work(): Promise<void> {
    return this.#workload.run();
  }

  /** Works until it is told to rest. */
  start(): void {
    this.#stop = false;
    this.#running = (async () => {
      while (!this.#stop) await this.#workload.run();
    })();
    this.#running.catch(() => {});
  }

  /** Resolves with the whole disk, of which every byte is right. */
  async rest(): Promise<Buffer> {
    this.#stop = true;
    await this.#running;
    const parts: Buffer[] = [];
    await this.#workload.verifyAll((part) => parts.push(Buffer.from(part)));
    return Buffer.concat(parts);
  }
}

/** A reference that is frozen, and a raw or other image, by qemu-img. */
export function assertSame(world: World, image: string, format: string, content: Buffer): void {
  const frozen = world.scene.path("frozen");
  writeFileSync(frozen, content);
  // Without a word that locks are not to be heeded: the overlay's helper only reads it.
  qemuImg("compare", "-f", format, "-F", "raw", image, frozen);
}

export async function worldWithDisk(t: TestContext, format: "raw" | "qcow2" = "raw", size = SIZE) {
  const world = await World.start(t);
  const image = world.image("disk.img", format === "raw" ? size : 0);
  if (format === "qcow2") qemuImg("create", "-q", "-f", format, image, String(size));
  const target = format === "raw" ? image : `qcow2:${image}`;
  const attach = async (domid = 1, what = target): Promise<void> => {
    (await world.run("attach", String(domid), `vdev=xvda,target=${what}`)).expect(0);
  };
  await attach();
  const overlay = (name: string): string => world.scene.path(`${name}.qcow2`);
  return { world, image, target, attach, overlay };
}

export function qemuImg(...args: string[]): void {
  execFileSync("qemu-img", args);
}
