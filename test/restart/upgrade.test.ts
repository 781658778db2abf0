/** `xbdback upgrade`: another daemon in the place of the one that runs, under a guest at work. */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { daemonAt } from "../../host/daemon/replace.js";
import { controlSocket } from "../../host/daemon/serve.js";
import { joinGuest } from "../../host/guest/process.js";
import { paths } from "../../host/platform/loopback/layout.js";
import { removeVbd } from "../../host/toolstack/vbd.js";
import { NOBODY, otherUserMissing } from "../support/other-user.js";
import { until } from "../vbd/harness.js";
import { command, DEVID, Site } from "./processes.js";

const LIMIT = { timeout: 120_000 };
const sector = (byte: number): Uint8Array => new Uint8Array(4096).fill(byte);

interface Told {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

function upgrade(directory: string, ...args: string[]): Promise<Told> {
  const all = [command, "upgrade", "--directory", directory, ...args];
  return new Promise((resolve) =>
    execFile(process.execPath, all, (error, stdout, stderr) =>
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr }),
    ),
  );
}

/** A daemon whose log is a file, as an administrator would start it. */
class Place {
  readonly site: Site;
  readonly log: string;
  readonly #socket: string;

  private constructor(site: Site) {
    this.site = site;
    this.log = join(site.images, "log");
    this.#socket = controlSocket({ kind: "loopback", directory: site.host.directory, domid: 0 }, "vbd");
  }

  static async use(body: (place: Place) => Promise<void>): Promise<void> {
    const place = new Place(await Site.start());
    try {
      await body(place);
    } finally {
      const pid = await place.pid();
      if (pid !== null) process.kill(pid, "SIGKILL");
      await place.site.close();
    }
  }

  /** Whoever serves. */
  pid(): Promise<number | null> {
    return daemonAt(this.#socket);
  }

  async serve(args: readonly string[] = [], env: Record<string, string> = {}): Promise<number> {
    const log = openSync(this.log, "a");
    const all = [command, "serve", "--directory", this.site.host.directory, ...args];
    spawn(process.execPath, all, { stdio: ["ignore", log, log], env: { ...process.env, ...env } });
    closeSync(log);
    await until("it serves", async () => (await this.pid()) !== null);
    return (await this.pid()) as number;
  }

  upgrade(...args: string[]): Promise<Told> {
    return upgrade(this.site.host.directory, ...args);
  }

  /** Gives the journals another format, which the process that has them does not look at. */
  setFormat(format: number): void {
    for (const name of this.site.journals) {
      const fd = openSync(join(paths.journals(this.site.host.directory), name), "r+");
      writeSync(fd, Uint8Array.of(format, 0, 0, 0), 0, 4, 8);
      closeSync(fd);
    }
  }
}

test("the guest sees a pause, which is printed, and the new daemon has the old one's options", LIMIT, () =>
  Place.use(async (place) => {
    const { site } = place;
    const before = await place.serve(["--max-queues", "2"]);
    const spec = await site.plug(1, 1 << 20);
    const guest = await joinGuest(site.host.directory, 1, DEVID, { queues: 2 });
    await guest.disk.write(0, sector(1));
    const told = await place.upgrade();
    assert.equal(told.status, 0, told.stderr);
    const now = await place.pid();
    assert.notEqual(now, before);
    const [first, second] = told.stdout.split("\n");
    assert.match(first, new RegExp(`^xbdback \\S+ \\(process ${before}\\) -> \\S+ \\(process ${now}\\)$`));
    assert.match(second, /^xbdback1i51712: paused for [0-9]+ ms$/);
    assert.ok(readFileSync(`/proc/${now}/cmdline`, "utf8").includes("\0--max-queues\x002\0"));
    assert.match(readFileSync(place.log, "utf8"), /taken over after a pause of [0-9]+ ms/);
    await guest.disk.write(4096, sector(2));
    const seen = new Uint8Array(4096);
    await guest.disk.read(0, seen);
    assert.deepEqual(seen, sector(1));
    // It can be done again, and programs can read what it says.
    const again = JSON.parse((await place.upgrade("--json")).stdout);
    assert.equal(again.from.pid, now);
    assert.equal(again.to.pid, await place.pid());
    assert.equal(again.unit, null);
    assert.equal(again.vbds.length, 1);
    assert.ok(again.vbds[0].pauseMs > 0);
    await guest.stop();
    assert.equal(await removeVbd(site.host.xenstore, spec), "closed");
    await site.untilClean();
  }),
);

test("options that the new version does not take: the old daemon serves on", LIMIT, () =>
  Place.use(async (place) => {
    const config = join(place.site.images, "xbdback.toml");
    writeFileSync(config, "max-queues = 2\n");
    const before = await place.serve(["--config", config]);
    writeFileSync(config, "max-quoits = 2\n");
    const { status, stderr } = await place.upgrade();
    assert.equal(status, 2, stderr);
    assert.match(stderr, /does not take the running daemon's options: .*:1: max-quoits: unknown key/);
    assert.match(stderr, new RegExp(`; process ${before} serves on$`, "m"));
    assert.equal(await place.pid(), before);
  }),
);

test("a new daemon that ends before it is ready: the old one serves on", LIMIT, () =>
  Place.use(async (place) => {
    const required = join(place.site.images, "required.cjs");
    writeFileSync(required, 'if (process.argv.includes("--replace")) process.exit(3);\n');
    const before = await place.serve([], { NODE_OPTIONS: `--require=${required}` });
    const { status, stderr } = await place.upgrade();
    assert.equal(status, 1, stderr);
    assert.match(
      stderr,
      new RegExp(`the new daemon ended \\(3\\), its log says why; process ${before} serves on`),
    );
    assert.equal(await place.pid(), before);
  }),
);

test(
  "a journal that the new version does not know: it says so, and the old version can come back",
  LIMIT,
  () =>
    Place.use(async (place) => {
      const { site } = place;
      await place.serve();
      await site.plug(1, 1 << 20);
      const guest = await joinGuest(site.host.directory, 1, DEVID, {});
      await guest.disk.write(0, sector(1));
      place.setFormat(2);
      const refused = await place.upgrade("--timeout", "5");
      assert.equal(refused.status, 1);
      assert.match(refused.stdout, /^xbdback1i51712: waits for .* has format 2; this xbdback knows 1/m);
      assert.match(refused.stderr, /1 of 1 disks are not active again; their guests wait/);
      const seen = new Uint8Array(4096);
      const waits = guest.disk.read(0, seen);
      place.setFormat(1);
      const back = await place.upgrade();
      assert.equal(back.status, 0, back.stderr);
      assert.match(back.stdout, /^xbdback1i51712: paused for [0-9]+ ms$/m);
      await waits;
      assert.deepEqual(seen, sector(1));
      await guest.stop();
    }),
);

/** Answers as a daemon without disks does, at the path that comes third. */
const STRANGER = `
require("node:net").createServer((socket) => socket.on("data", () =>
  socket.end('{"ok": true, "version": "0", "vbds": []}\\n'))).listen(process.argv[3]);
`;

test("a daemon of another user's: nothing of it runs as root", {
  ...LIMIT,
  skip: otherUserMissing(),
}, async () => {
  const directory = mkdtempSync(join(tmpdir(), "xbdback-stranger-"));
  chmodSync(directory, 0o777);
  const witness = join(directory, "witness");
  const required = join(directory, "required.cjs");
  const write = `require("node:fs").writeFileSync(${JSON.stringify(witness)}, "")`;
  writeFileSync(required, `if (process.geteuid() === 0) ${write};\n`);
  const socket = controlSocket({ kind: "loopback", directory, domid: 0 }, "vbd");
  const child = spawn(process.execPath, ["-e", STRANGER, "--", "serve", "--directory", socket], {
    ...{ uid: NOBODY, cwd: "/", stdio: "inherit" },
    env: { ...process.env, NODE_OPTIONS: `--require=${required}` },
  });
  try {
    await until("it listens", () => existsSync(socket));
    const { status, stderr } = await upgrade(directory);
    assert.equal(status, 1, stderr);
    assert.equal(
      stderr,
      `xbdback: process ${child.pid} is of user 65534: run this as that user; it serves on\n`,
    );
    assert.ok(!existsSync(witness));
    assert.equal(child.exitCode, null);
  } finally {
    child.kill("SIGKILL");
    rmSync(directory, { recursive: true });
  }
});

test("nothing to upgrade, or nothing that can be: one line with the remedy", LIMIT, () =>
  Place.use(async (place) => {
    const none = await place.upgrade();
    assert.equal(none.status, 1);
    assert.match(none.stderr, /^xbdback: no daemon answers at \S+: start it with `xbdback serve/);
    const all = [command, "serve", "--directory", place.site.host.directory, "--exit-with-parent"];
    const child = spawn(process.execPath, all, { stdio: ["pipe", "ignore", "ignore"] });
    await until("it serves", async () => (await place.pid()) !== null);
    const theirs = await place.upgrade();
    assert.equal(theirs.status, 1);
    assert.match(theirs.stderr, /is managed by its parent process: restart that instead$/m);
    child.stdin?.end();
  }),
);
