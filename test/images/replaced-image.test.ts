/** A helper that dies, or its daemon, is started again on the files that its guest has, and on no others. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { linkSync, readFileSync, renameSync } from "node:fs";
import { World } from "../cli/world.js";
import { eventually } from "../e2e/harness.js";
import { helperOf, withPrograms } from "./support.js";

const QEMU = ["qemu-storage-daemon", "qemu-img"] as const;

function create(path: string, ...args: string[]): string {
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", ...args, path, "16M"]);
  return path;
}

for (const which of ["image", "base"] as const) {
  withPrograms(QEMU, `a helper that dies does not get another file as the ${which}`, async (t) => {
    const world = await World.start(t, "--nbd-reconnect", "100");
    const base = create(world.scene.path("base.qcow2"));
    const image = create(world.scene.path("image.qcow2"), "-b", base, "-F", "qcow2");
    (await world.run("attach", "1", `${image},qcow2,xvda,rw`)).expect(0);
    const guest = await world.guest();
    const path = which === "image" ? image : base;
    const kept = `${path}.kept`;
    linkSync(path, kept);
    const other = create(world.scene.path("other.qcow2"));
    const content = readFileSync(other);
    renameSync(other, path);
    const helper = await helperOf(world);
    process.kill(helper, "SIGKILL");
    const refused =
      /(image|base)\.qcow2: not the file that the guest has: it was file \d+:\d+, and now there is file/;
    await eventually(() => refused.test(world.daemon.stderr), "the other file is refused");
    assert.ok(readFileSync(path).equals(content), "the other file is left alone");
    renameSync(kept, path);
    await eventually(async () => (await helperOf(world)) !== helper, "another helper has the guest's file");
    const done = guest.stdout.length;
    await guest.until(new RegExp(`^[^]{${done}}[^]*"done":[0-9]+`));
  });
}

withPrograms(
  QEMU,
  "after a restart, another base is not the guest's, nor another base by the header",
  async (t) => {
    const world = await World.start(t);
    const base = create(world.scene.path("base.qcow2"));
    const image = create(world.scene.path("image.qcow2"), "-b", base, "-F", "qcow2");
    const other = create(world.scene.path("other.qcow2"));
    const kept = `${base}.kept`;
    linkSync(base, kept);
    (await world.run("attach", "1", `${image},qcow2,xvda,rw`)).expect(0);
    await world.guest();
    const restart = async (meanwhile = (): void => {}): Promise<void> => {
      world.daemon.process.kill("SIGTERM");
      await world.daemon.ended;
      meanwhile();
      await world.serveAgain();
    };
    const rebase = (to: string) => (): void => {
      execFileSync("qemu-img", ["rebase", "-u", "-b", to, "-F", "qcow2", image]);
    };
    const refused =
      /not the disk that the guest has: it was file \d+:\d+, file \d+:\d+, and now there is file/;
    const shows = (pattern: RegExp, what: string): Promise<void> =>
      eventually(async () => pattern.test((await world.run("show", "1/xvda")).stdout), what);
    renameSync(other, base);
    await eventually(() => /base\.qcow2|replaced/.test(world.daemon.stderr), "the running daemon says so");
    (await world.run("upgrade")).expect(1);
    await restart();
    await shows(refused, "the base's file is another one");
    renameSync(kept, base);
    await shows(/^ring 0 /m, "the guest has its own base again");
    create(other);
    await restart(rebase(other));
    await shows(refused, "the header names another base");
    await restart(rebase(base));
    await shows(/^ring 0 /m, "the header names the guest's base again");
  },
);
