// Runs tests. `npm test` is a first look, `npm run test:full` has everything that needs no Xen (test-levels.mjs says what
// is in which), `npm run test:xen` boots Xen. Files or folders under test/ may be named, and options of Node's runner:
//
//     npm test -- core vbd/keys
//     npm test -- --test-name-pattern "no wake-up is lost"
//
// Where CI is set, a test that was skipped is a failure: CI has what the tests need.
// A run in which no test ends for a long time is ended, and says which processes it waited for.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { FULL_ONLY } from "./test-levels.mjs";

/** More than any test's own limit: test/package's for one with systemd, and twice the longest scenario's of the lab. */
const SILENT_MINUTES = { first: 8, full: 20, lab: 90 };

/** Options of the runner whose value is the next word. */
const VALUED = /^--test-(name-pattern|skip-pattern|concurrency|timeout|shard|reporter)$/;

/**
 * Files of tests at once. Of a full run, half the time goes by in tests that wait for a program to start, or to give up. One
 * machine of the lab at a time, as each takes two cores.
 */
const CONCURRENCY = { first: 2, full: 3, lab: 1 };

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(root, "test");
const { level, names, options } = readArguments(process.argv.slice(2));
const lab = level === "lab";
const files = findFiles();
const scratch = mkdtempSync(join(tmpdir(), "xbdback-tests-"));
const record = join(scratch, "tap");
const started = Date.now();
if (lab) await fetchMachines();
const runner = spawn(
  process.execPath,
  [
    "--test",
    `--test-concurrency=${CONCURRENCY[level]}`,
    ...["--test-reporter=spec", "--test-reporter-destination=stdout"],
    ...["--test-reporter=tap", `--test-reporter-destination=${record}`],
    ...options,
    ...files,
  ],
  { cwd: root, stdio: "inherit" },
);
const watchdog = setInterval(watch, 5000);
const [status] = await once(runner, "exit");
clearInterval(watchdog);
process.exitCode = summarize();
rmSync(scratch, { recursive: true, force: true });

/** `--full` or `--lab`, options of Node's runner with their values, and what is to be run. */
function readArguments(words) {
  const read = { level: "first", names: [], options: [] };
  while (words.length > 0) {
    const word = words.shift();
    if (word === "--lab" || word === "--full") read.level = word.slice(2);
    else if (!word.startsWith("--")) read.names.push(word.replace(/^test\//, ""));
    else read.options.push(word, ...(VALUED.test(word) ? words.splice(0, 1) : []));
  }
  return read;
}

/** From the sources, so that a leftover in build/ of a test that is gone does not run. */
function findFiles() {
  const suffix = lab ? ".lab.ts" : ".test.ts";
  const wanted = (file) =>
    names.length > 0
      ? names.some((name) => file.startsWith(name))
      : level !== "first" || !FULL_ONLY.some((name) => file.startsWith(name));
  const found = readdirSync(source, { recursive: true })
    .filter((name) => name.endsWith(suffix) && wanted(name))
    .map((name) => join(root, "build/test", name.replace(/\.ts$/, ".js")))
    .map((path) => relative(root, path))
    .sort();
  if (found.length > 0) return found;
  process.stderr.write(`no tests match ${names.join(" ")}\n`);
  process.exit(2);
}

/**
 * What the machines of the laboratory are made of is fetched and unpacked for all of them at once: one waits for the network
 * while another unpacks. A test does again what failed here, and says why.
 */
async function fetchMachines() {
  const commands = {
    "xen/arm": ["test/xen/arm/lab", "base", "build/xen-arm"],
    "xen/suite": ["test/xen/lab/lab", "build"],
    "xen/systemd": ["test/xen/systemd/lab", "base", "build/xen-systemd"],
  };
  const onlySuite = Boolean(process.env.XBDBACK_SCENARIOS);
  const wanted = Object.keys(commands)
    .filter((name) => !onlySuite || name === "xen/suite")
    .filter((name) => files.includes(`build/test/${name}.lab.js`));
  const ended = wanted.map(async (name) => {
    const [program, ...words] = commands[name];
    const stdio = ["ignore", "inherit", "inherit"];
    const [code] = await once(spawn(join(root, program), words, { cwd: root, stdio }), "exit");
    const seconds = Math.round((Date.now() - started) / 1000);
    process.stdout.write(`${name}: fetched and unpacked with status ${code} after ${seconds} s\n`);
  });
  await Promise.all(ended);
}

/** Says what came of it in a line; returns the exit status. */
function summarize() {
  const tap = readFileSync(record, "utf8");
  const count = (what) => Number(tap.match(new RegExp(`^# ${what} (\\d+)$`, "m"))?.[1] ?? 0);
  const seconds = Math.round((Date.now() - started) / 1000);
  // A runner that was killed has counted nothing.
  const failed = Math.max(count("fail") + count("cancelled"), status === 0 ? 0 : 1);
  const skipped = (tap.match(/# SKIP.*/g) ?? []).filter((line) => !/does not match pattern/.test(line));
  const forbidden = process.env.CI ? skipped : [];
  if (forbidden.length > 0) process.stdout.write(`skipped, and none may be here:\n${forbidden.join("\n")}\n`);
  process.stdout.write(
    `${level} level: ${count("pass")} passed, ${failed + forbidden.length} failed, ${skipped.length} skipped in ${seconds} s\n`,
  );
  if (status !== 0) return status ?? 1;
  if (count("pass") === 0 && skipped.length === 0) {
    process.stderr.write("no test matches\n");
    return 2;
  }
  return failed + forbidden.length > 0 ? 1 : 0;
}

/** Ends the run where nothing came of it for too long. */
function watch() {
  const minutes = SILENT_MINUTES[level];
  if (Date.now() - statSync(record, { throwIfNoEntry: false })?.mtimeMs > minutes * 60_000) endAll(minutes);
}

/** The processes of this machine, of /proc: a small one has no ps. */
function processes() {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        // The name, in parentheses, may have blanks in it.
        const [state, parent] = readFileSync(`/proc/${pid}/stat`, "utf8")
          .replace(/^.*\) /s, "")
          .split(" ");
        const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
        return [{ pid: Number(pid), parent: Number(parent), state, command }];
      } catch {
        // It has ended meanwhile.
        return [];
      }
    });
}

/** The runner would wait for as long as anything that a test started keeps a pipe open: every descendant is killed. */
function endAll(minutes) {
  const all = processes();
  const family = new Set([runner.pid]);
  // A child may have a lower number than its parent.
  for (let size = 0; size !== family.size; ) {
    size = family.size;
    for (const { pid, parent } of all) if (family.has(parent)) family.add(pid);
  }
  process.stderr.write(`no test has ended for ${minutes} minutes; waited for, and ended:\n`);
  for (const { pid, parent, state, command } of all) {
    if (!family.has(pid)) continue;
    process.stderr.write(`process ${pid} of ${parent}, state ${state}: ${command}\n`);
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended meanwhile.
    }
  }
}
