/** `direct-io-safe` in a disk specification: the image is opened past the page cache, as QEMU does. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { constants, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { cacheFor } from "../../host/storage/direct.js";
import { eventually, root, Scene } from "../e2e/harness.js";
import { LIMIT, World } from "./world.js";

/** Whether any of a process's open files of this name is open for direct I/O. */
function isDirect(pid: number, path: string): boolean {
  return readdirSync(`/proc/${pid}/fd`).some((fd) => {
    try {
      if (readlinkSync(`/proc/${pid}/fd/${fd}`) !== path) return false;
      const flags = /^flags:\s+([0-7]+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, "latin1"));
      return flags !== null && (Number.parseInt(flags[1], 8) & constants.O_DIRECT) !== 0;
    } catch {
      // Closed meanwhile.
      return false;
    }
  });
}

test("a disk's direct-io-safe counts where --cache is auto", () => {
  assert.equal(cacheFor("auto", true), "none");
  assert.equal(cacheFor("auto", false), "auto");
  assert.equal(cacheFor("writeback", true), "writeback");
  assert.equal(cacheFor("none", false), "none");
});

test("an image with direct-io-safe is opened with O_DIRECT, another one is not", LIMIT, async (t) => {
  const world = await World.start(t);
  const [plain, safe] = [world.image("plain.img"), world.image("safe.img")];
  (await world.run("attach", "1", `${plain},raw,xvda,rw`)).expect(0);
  (await world.run("attach", "1", `${safe},raw,xvdb,rw,direct-io-safe`)).expect(0);
  const openedSo = (): boolean => {
    assert.equal(isDirect(world.daemon.pid, plain), false);
    return (
      isDirect(world.daemon.pid, safe) || /safe\.img: no direct I\/O in sectors/.test(world.daemon.stderr)
    );
  };
  assert.ok(openedSo(), "neither direct, nor said why not");
  // The next daemon opens it without the script's question.
  world.daemon.process.kill("SIGKILL");
  await world.daemon.ended;
  await world.serveAgain();
  await eventually(openedSo, "the next daemon opens it so, too");
  for (const vbd of ["1/xvda", "1/xvdb"]) (await world.run("detach", vbd)).expect(0);
});

const NO_RAMFS =
  spawnSync("unshare", ["--mount", "mount", "-t", "ramfs", "none", "/mnt"]).status !== 0 &&
  "needs root, to mount a ramfs, whose files cannot be opened with O_DIRECT";

test("check says, too, where direct I/O cannot be", { ...LIMIT, skip: NO_RAMFS }, async (t) => {
  const scene = new Scene(t);
  const check = async (options: string): Promise<string> => {
    const command = `mount -t ramfs none /mnt && truncate -s 1M /mnt/disk.img && exec "$@"`;
    const xbdback = [process.execPath, join(root, "bin/xbdback.mjs")];
    const disk = `/mnt/disk.img,raw,xvda,rw${options}`;
    const args = ["--mount", "sh", "-c", command, "sh", ...xbdback, "check", disk];
    return (await scene.start("unshare", args).outcome()).expect(0).stdout;
  };
  assert.doesNotMatch(await check(""), /no direct I/);
  assert.match(
    await check(",direct-io-safe"),
    /^warning +\/mnt\/disk.img: no direct I\/O in sectors of 512 bytes/m,
  );
});
