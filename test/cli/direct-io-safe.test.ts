/** `direct-io-safe` in a disk specification: the image is opened past the page cache, as QEMU does. */
import assert from "node:assert/strict";
import { constants, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { test } from "node:test";
import { cacheFor } from "../../host/storage/direct.js";
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
  const pid = world.daemon.process.pid as number;
  const [plain, safe] = [world.image("plain.img"), world.image("safe.img")];
  (await world.run("attach", "1", `${plain},raw,xvda,rw`)).expect(0);
  (await world.run("attach", "1", `${safe},raw,xvdb,rw,direct-io-safe`)).expect(0);
  assert.equal(isDirect(pid, plain), false);
  const said = /safe\.img: no direct I\/O in sectors/.test(world.daemon.stderr);
  assert.ok(isDirect(pid, safe) || said, "neither direct, nor said why not");
  for (const vbd of ["1/xvda", "1/xvdb"]) (await world.run("detach", vbd)).expect(0);
});
