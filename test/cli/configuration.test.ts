/** The configuration file: what it may say, who wins, and what is said of mistakes. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import type { Command } from "commander";
import { parse } from "smol-toml";
import { configurable, configure, dump } from "../../host/cli/configuration.js";
import { program } from "../../host/cli/main.js";
import { reload } from "../../host/cli/reload.js";
import { LoopbackHost } from "../../host/platform/loopback/host.js";
import { ROOT } from "../hosts/tools.js";

const directory = mkdtempSync(join(tmpdir(), "xbdback-toml-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
const file = join(directory, "xbdback.toml");

/** `serve` with its command line parsed, and nothing done. */
function served(...args: string[]): Command {
  const command = program().commands.find((one) => one.name() === "serve") as Command;
  command.parseOptions(args);
  return command;
}

function withFile(text: string, ...args: string[]): Command {
  writeFileSync(file, text);
  const command = served(...args);
  assert.equal(configure(command, file), file);
  return command;
}

test("a key is an option, and the command line wins", () => {
  const text = 'max-queues = 2\ncache = "none"\npersistent = false\n# a comment\n"poll-us" = 0x10\n';
  const { maxQueues, cache, persistent, pollUs, maxRingPageOrder } = withFile(
    text,
    "--max-queues",
    "8",
  ).opts();
  assert.deepEqual([maxQueues, cache, persistent, pollUs, maxRingPageOrder], [8, "none", false, 16, 4]);
});

const MISTAKES: [text: string, complaint: RegExp][] = [
  ["\nmax-qeues = 2", /:2: max-qeues: unknown key; known are .*max-queues/],
  ["max-queues = 17", /:1: max-queues: It is a whole number from 1 to 16\.$/],
  ["max-queues = -1", /:1: max-queues: It is a whole number/],
  ["max-queues = 1.5", /:1: max-queues: It is a whole number/],
  ["max-queues = true", /:1: max-queues: It is a string or a number\.$/],
  ['# x\n\ncache = "fast"', /:3: cache: Allowed choices are auto, none, writeback\.$/],
  ['persistent = "no"', /:1: persistent: It is true or false\.$/],
  ["kind = [1]", /:1: kind: It is a string or a number\.$/],
  ["kind = 1979-05-27", /:1: kind: It is a string or a number\.$/],
  ["[frontend]\nmax-queues = 2", /:1: frontend: unknown key/],
  ['kind = "a/b"', /:1: kind: It is a name like vbd or vbd3\.$/],
  ["config = 'x'", /:1: config: unknown key/],
  ["__proto__ = 1", /:1: __proto__: unknown key/],
  ['limit = "iops=5,bps=1M"', /:1: limit: "iops=5,bps=1M" is not a limit: write iops=N/],
  ["limit = 5", /:1: limit: "5" is not a limit/],
  ['guest-limit = ["web:iops=5", "db"]', /:1: guest-limit: It is a guest's name, a colon and limits, like /],
  ["kind = \n", /:1:8: /],
  ["kind = 'a'\nkind = 'b'", /:2:/],
];
for (const [text, complaint] of MISTAKES) {
  test(`a mistake is named with its place: ${JSON.stringify(text)}`, () => {
    writeFileSync(file, text);
    const command = served();
    const before = { ...command.opts() };
    assert.throws(
      () => configure(command, file),
      (error: Error) =>
        error.message.startsWith(file) && complaint.test(error.message) && !error.message.includes("\n"),
    );
    assert.deepEqual(command.opts(), before);
  });
}

test("a file that is named must be there; the usual one need not", () => {
  assert.throws(
    () => configure(served(), join(directory, "none")),
    /can't read the configuration .*none: ENOENT/,
  );
});

test("what is dumped is a configuration that says the same", () => {
  const text = dump(withFile('cache = "none"\npersistent = false\nhttp = "[::1]:80"\n', "--kind", "vbd3"));
  assert.match(text, /^cache = "none" {2}# file$/m);
  assert.match(text, /^kind = "vbd3" {2}# command line$/m);
  assert.match(text, /^max-queues = 4 {2}# default$/m);
  assert.match(text, /^persistent = false {2}# file$/m);
  assert.doesNotMatch(text, /exit-with-parent|dump-config/);
  const again = withFile(text);
  for (const [key, value] of Object.entries(parse(text))) {
    const option = configurable(again).get(key);
    const effective = again.getOptionValue(option?.attributeName() ?? "");
    assert.deepEqual(effective, key === "http" ? { host: "::1", port: 80 } : value, key);
  }
});

test("limits for all guests and for one are dumped as they were written, and reloaded", () => {
  const command = withFile('limit = "iops=500+bps=50M"\nguest-limit = ["web:none", "db:iops=9"]\n');
  const text = dump(command);
  assert.match(text, /^limit = "iops=500\+bps=50M" {2}# file$/m);
  assert.match(text, /^guest-limit = \["web:none","db:iops=9"\] {2}# file$/m);
  const live = { limit: "iops=500+bps=50M", guestLimit: ["web:none", "db:iops=9"] };
  writeFileSync(file, 'guest-limit = "db:iops=10"\n');
  assert.deepEqual(reload(command, live, file).lines.slice(1), [
    "xbdback: limit is not set: for disks that connect from now on",
    'xbdback: guest-limit = ["db:iops=10"]: for disks that connect from now on',
  ]);
  assert.deepEqual(live, { limit: undefined, guestLimit: ["db:iops=10"] });
});

test("--dump-config and a wrong file, as a user sees them", () => {
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [join(ROOT, "bin/xbdback.mjs"), "serve", "--config", file, ...args], {
      encoding: "utf8",
    });
  writeFileSync(file, "max-queues = 3");
  const { status, stdout, stderr } = run("--dump-config");
  assert.deepEqual([status, stderr], [0, ""]);
  assert.match(stdout, /^max-queues = 3 {2}# file$/m);
  writeFileSync(file, "max-queues = 99");
  const wrong = run();
  assert.equal(wrong.status, 2);
  assert.equal(wrong.stderr, `xbdback: ${file}:1: max-queues: It is a whole number from 1 to 16.\n`);
});

test("a reload changes what can be changed, and says what cannot", () => {
  const command = withFile("max-queues = 2\npoll-us = 5\ncache = 'none'\n", "--max-indirect-segments", "7");
  const live = { maxQueues: 2, cache: "none", maxIndirectSegments: 7 };
  writeFileSync(file, "max-queues = 3\npoll-us = 6\nmax-indirect-segments = 9\n");
  assert.deepEqual(reload(command, live, file).lines, [
    `xbdback: read ${file} again; connected disks stay as they are`,
    "xbdback: max-queues = 3: for disks that connect from now on",
    'xbdback: cache = "auto": for disks that connect from now on',
    "xbdback: poll-us = 6: takes effect when the daemon is restarted",
  ]);
  assert.deepEqual(live, { maxQueues: 3, cache: "auto", maxIndirectSegments: 7 });
  writeFileSync(file, "max-queues = ");
  const refused = reload(command, live, file);
  assert.match(refused.refused ?? "", /:1:/);
  assert.match(refused.lines.join(), /^xbdback: the configuration stays as it is: .*:1:/);
  assert.deepEqual([live.maxQueues, command.opts()["maxQueues"]], [3, 3]);
});

/** Starts a daemon, stops it when it serves, and resolves with its exit code and what it has logged. */
async function serveOnce(machine: string, environment: NodeJS.ProcessEnv): Promise<[number | null, string]> {
  const args = [join(ROOT, "bin/xbdback.mjs"), "serve", "--directory", machine, "--config", file];
  const options = ["--reactors", "1", "--log-format", "logfmt"];
  const env = { ...process.env, ...environment };
  const child = spawn(process.execPath, [...args, ...options], { stdio: ["ignore", "ignore", "pipe"], env });
  const ended = new Promise<number | null>((resolve) => child.on("exit", resolve));
  let log = "";
  for await (const line of createInterface({ input: child.stderr })) {
    log += `${line}\n`;
    if (line.includes("serving backend/vbd of machine")) child.kill("SIGTERM");
  }
  return [await ended, log];
}

test("a service with a broken file starts with the last good configuration, a daemon by hand refuses", async (t) => {
  const host = await LoopbackHost.start();
  t.after(() => host.close());
  // Nobody listens there, which the daemon survives.
  const service = { NOTIFY_SOCKET: join(host.directory, "nobody") };
  writeFileSync(file, "max-queues = 99\n");
  assert.equal((await serveOnce(host.directory, service))[0], 2, "there is no good copy yet");
  writeFileSync(file, "max-queues = 2\n");
  assert.equal((await serveOnce(host.directory, service))[0], 0);
  writeFileSync(file, "max-queues = 99\n");
  const [status, log] = await serveOnce(host.directory, service);
  assert.equal(status, 0, log);
  assert.match(log, /level=error .*:1: max-queues: .* started with the last good configuration/);
  const [byHand, said] = await serveOnce(host.directory, {});
  assert.deepEqual(
    [byHand, said],
    [2, `xbdback: ${file}:1: max-queues: It is a whole number from 1 to 16.\n`],
  );
});
