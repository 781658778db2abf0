/** A package that is upgraded under a daemon: another release lies where the running one loads its threads from. */
import assert from "node:assert/strict";
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { type GuestProcess, joinGuest } from "../../host/guest/process.js";
import { addVbd } from "../../host/toolstack/vbd.js";
import { until } from "../vbd/harness.js";
import { command, DEVID, Site } from "./processes.js";

const LIMIT = { timeout: 120_000 };
const sector = (byte: number): Uint8Array => new Uint8Array(4096).fill(byte);

/** What the command runs, in a directory of its own. */
function install(directory: string): { command: string; bundle: string; core: string } {
  const root = dirname(dirname(command));
  mkdirSync(directory);
  for (const path of ["bin", "package.json", "build/host/bundle", "build/blkif.wasm"]) {
    cpSync(join(root, path), join(directory, path), { recursive: true });
  }
  symlinkSync(join(root, "node_modules"), join(directory, "node_modules"));
  const build = join(directory, "build");
  return {
    command: join(directory, "bin/xbdback.mjs"),
    bundle: join(build, "host/bundle"),
    core: join(build, "blkif.wasm"),
  };
}

/** The same, built of something else. */
function replace(bundle: string): void {
  let named = 0;
  for (const name of readdirSync(bundle)) {
    const path = join(bundle, name);
    const text = readFileSync(path, "utf8");
    const other = text.replace(/\bBUILD = "[0-9a-f]{16}"/, 'BUILD = "another"');
    if (other !== text) named++;
    writeFileSync(path, other);
  }
  assert.equal(named, 1, "the build has its name in one place");
}

test(
  "a release that replaces the running one's files is not mixed with it: guests connect and are served",
  LIMIT,
  async () => {
    const site = await Site.start();
    const guests: GuestProcess[] = [];
    try {
      const { command, bundle, core } = install(join(site.images, "xbdback"));
      const backend = site.run(command, "serve", "--directory", site.host.directory, "--reactors", "4");
      await until("it serves", async () => (await site.list().catch(() => null)) !== null);
      replace(bundle);
      await site.plug(1, 1 << 20);
      const guest = await joinGuest(site.host.directory, 1, DEVID, { queues: 4 });
      guests.push(guest);
      await guest.disk.write(0, sector(1));
      const said = site.log.filter((line) => line.includes("cannot start a reactor thread"));
      assert.equal(said.length, 1, site.log.join("\n"));
      assert.match(
        said[0],
        /\(xbdback was replaced by another release since .*\): rings go to the existing ones/,
      );

      // A disk that the main thread serves: with the core that it began with.
      writeFileSync(core, "no core");
      const image = join(site.images, "slow.img");
      writeFileSync(image, "");
      truncateSync(image, 1 << 20);
      await site.host.createGuest(2, 64 << 20);
      const path = `delay:1us:${image}`;
      await addVbd(site.host.xenstore, {
        ...{ backendDomid: 0, domid: 2, devid: DEVID, dev: "xvda" },
        ...{ path, mode: "w" },
      });
      const other = await joinGuest(site.host.directory, 2, DEVID, {});
      guests.push(other);
      await other.disk.write(0, sector(2));
      for (const [{ disk }, byte] of [
        [guest, 1],
        [other, 2],
      ] as const) {
        const seen = new Uint8Array(4096);
        await disk.read(0, seen);
        assert.deepEqual(seen, sector(byte));
      }
      for (const { stop } of guests.splice(0)) await stop();
      await backend.kill("SIGTERM");
    } finally {
      // A guest that goes on would keep this process.
      for (const { stop } of guests) await stop().catch(() => {});
      await site.close();
    }
  },
);
