/** What a user sees where something is in the way, or ends: one line, a status, nothing left behind. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, openSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSocket } from "node:net";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { machineStarted } from "../../host/cli/machine-start.js";
import { program } from "../../host/cli/main.js";
import { summary } from "../../host/daemon/service-manager.js";
import { xenstoreSocket } from "../../host/platform/loopback/host.js";
import { root, Scene } from "../e2e/harness.js";
import { until } from "../vbd/harness.js";
import { LIMIT, World } from "./world.js";

const PROGRAM = join(root, "bin/xbdback.mjs");

test("a daemon tells what it is, also of a port that another program has", LIMIT, async (t) => {
  const other = createServer().listen(0, "127.0.0.1");
  t.after(() => other.close());
  await once(other, "listening");
  const { port } = other.address() as { port: number };
  const address = `127.0.0.1:${port}`;
  const world = await World.start(t, "--http", address, "--metrics", address, "--reactors", "1");
  const { stdout, status } = await world.run("status", "--json");
  assert.equal(status, 0);
  const told = JSON.parse(stdout);
  const { version } = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8"));
  assert.deepEqual(
    [told.version, told.machine, told.kind, told.options.http],
    [version, world.directory, "vbd", address],
  );
  assert.deepEqual(told.problems, [
    `can't serve the page at http://${address}/: another program listens there`,
    `can't serve metrics at http://${address}/metrics: another program listens there`,
  ]);
  assert.match((await world.run("status")).stdout, /^problem +can't serve the page/m);
  assert.match(summary("vbd", [], told.problems), /0 connected; can't serve the page at/);
});

test("a machine whose directory cannot be made says so", LIMIT, async (t) => {
  const scene = new Scene(t);
  for (const directory of ["/proc/machine", "/proc/machine/below"]) {
    const { status, stderr } = await scene.start(process.execPath, [PROGRAM, "machine", directory]).outcome();
    assert.equal(status, 1);
    assert.equal(stderr, "xbdback: /proc/machine cannot be made (ENOENT): choose another directory\n");
  }
});

test("a daemon and a guest wait for a machine that is being started", LIMIT, async (t) => {
  const scene = new Scene(t);
  const directory = scene.path("machine");
  const start = (...args: string[]) => scene.start(process.execPath, [PROGRAM, ...args]);
  await assert.rejects(machineStarted(directory, 0, 100), {
    message: `no loopback machine runs in ${directory}: start it with \`xbdback machine ${directory}\``,
  });
  const daemon = start("serve", "--directory", directory, "--reactors", "1");
  const guest = start("guest", "--directory", directory);
  const waits = /waiting for the machine/;
  await until("both wait", () => waits.test(daemon.stderr) && waits.test(guest.stderr));
  await start("machine", directory, "--guests", "1", "--memory", "64M").until(/^machine /m);
  await until("it serves", () => daemon.stderr.includes("serving backend/vbd"));
  const joined = await guest.outcome();
  assert.match(joined.stderr, /^xbdback: domain 1 has no disk 51712 .*: attach it first$/m);
});

test("a guest that waits longest waits for its domain, too, once the machine runs", LIMIT, async (t) => {
  const scene = new Scene(t);
  const directory = scene.path("machine");
  const joined = machineStarted(directory, 1).then(() => domains.slice());
  const domains: number[] = [];
  const listen = async (domid: number): Promise<void> => {
    const socket = xenstoreSocket(directory, domid);
    mkdirSync(dirname(socket), { recursive: true });
    const server = createSocket().listen(socket);
    t.after(() => server.close());
    await once(server, "listening");
    domains.push(domid);
  };
  await sleep(1500);
  await listen(0);
  await sleep(200);
  await listen(1);
  assert.deepEqual(await joined, [0, 1]);
});

test(
  "a second daemon is status 5; a refused disk is logged once; a guest ends with its disk",
  LIMIT,
  async (t) => {
    const world = await World.start(t, "--reactors", "1");
    const second = await world.run("serve");
    assert.equal(second.status, 5, second.stderr);
    assert.match(second.stderr, /^xbdback: another daemon answers at [^\n]*\n$/);
    const refused = await world.run("attach", "1", `${world.scene.path("none.img")},,xvda`);
    assert.equal(refused.status, 1);
    await world.run("list");
    const image = world.scene.path("disk.img");
    writeFileSync(image, "");
    truncateSync(image, 8 << 20);
    assert.equal((await world.run("attach", "1", `${image},,xvdb`)).status, 0);
    const used = createSocket().listen(world.scene.path("used.sock"));
    t.after(() => used.close());
    await once(used, "listening");
    const place = ["--directory", world.directory, "--devid", "51728"];
    const taken = await world.run("guest", ...place, "--nbd", world.scene.path("used.sock"));
    assert.equal(taken.status, 1);
    assert.match(taken.stderr, /^xbdback: [^\n]*another program listens on this socket[^\n]*\n$/);
    const guest = world.start("guest", ...place, "--nbd", world.scene.path("disk.sock"));
    await guest.until(/listening/);
    await world.run("detach", "1/xvdb");
    await guest.ended;
    const lines = world.daemon.stderr.split("\n").filter((line) => line.includes("none.img"));
    assert.equal(lines.length, 1, lines.join("\n"));
  },
);

function demo(...args: string[]): string[] {
  return [new URL("../../../bin/xbdback.mjs", import.meta.url).pathname, "demo", "--reactors", "1", ...args];
}

test("a demo whose output is not taken ends in one line and cleans up", LIMIT, async () => {
  const full = openSync("/dev/full", "w");
  const { status, stderr } = spawnSync(process.execPath, demo("--operations", "100"), {
    stdio: ["ignore", full, "pipe"],
    encoding: "utf8",
  });
  assert.deepEqual([status, stderr], [1, "xbdback: can't write to standard output: ENOSPC\n"]);
  const child = spawn(process.execPath, demo("--operations", "100000000"), {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const [first] = (await once(child.stdout, "data")) as [Buffer];
  child.stdout.destroy();
  const [directory] = /\/\S+(?=:)/.exec(first.toString()) ?? [];
  assert.ok(directory);
  assert.equal((await once(child, "exit"))[0], 0);
  assert.equal(existsSync(directory), false, directory);
});

test("a command that a signal cut short ends with 128 and the signal's number", LIMIT, async () => {
  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const) {
    const child = spawn(process.execPath, demo("--operations", "100000000"), {
      stdio: ["ignore", "pipe", "ignore"],
    });
    await once(child.stdout, "data");
    child.kill(signal);
    assert.equal((await once(child, "exit"))[0], code);
  }
  const { status } = spawnSync(process.execPath, demo("--run", "kill -9 $$"), { encoding: "utf8" });
  assert.equal(status, 137);
});

test("an empty XBDBACK_DIRECTORY is none; no help text is wrapped twice", () => {
  const [command] = demo();
  const env = { ...process.env, XBDBACK_DIRECTORY: "" };
  const { stderr } = spawnSync(process.execPath, [command, "list"], { env, encoding: "utf8" });
  assert.doesNotMatch(stderr, /--directory $|at control\.sock/);
  for (const one of program().commands) assert.doesNotMatch(one.description(), /[^\n]\n[^\n]/, one.name());
});
