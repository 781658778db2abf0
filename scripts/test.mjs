// Runs every test: `npm test`, or `npm test -- core vbd` for some of the folders under test/.
// Where CI is set, a test that was skipped is a failure: CI has what the tests need.
// A run that hangs is ended after LIMIT_MINUTES, and says which processes it waited for.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

/** Some three times what a whole run takes on two cores. */
const LIMIT_MINUTES = 30;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(root, "test");
// `--lab`: the tests that boot Xen (`npm run test:xen`), which need root; one machine at a time, as each takes two cores.
const lab = process.argv.includes("--lab");
const folders = process.argv.slice(2).filter((argument) => argument !== "--lab");
const suffix = lab ? ".lab.ts" : ".test.ts";

// From the sources, so that a leftover in build/ of a test that is gone does not run.
const files = readdirSync(source, { recursive: true })
  .filter((name) => name.endsWith(suffix))
  .filter((name) => folders.length === 0 || folders.some((folder) => name.startsWith(folder)))
  .map((name) => join(root, "build/test", name.replace(/\.ts$/, ".js")))
  .map((path) => relative(root, path))
  .sort();
if (files.length === 0) {
  process.stderr.write(`no tests match ${folders.join(" ")}\n`);
  process.exit(2);
}

const scratch = mkdtempSync(join(tmpdir(), "xbdback-tests-"));
const record = join(scratch, "tap");
const runner = spawn(
  process.execPath,
  [
    "--test",
    `--test-concurrency=${lab ? 1 : 2}`,
    ...["--test-reporter=spec", "--test-reporter-destination=stdout"],
    ...["--test-reporter=tap", `--test-reporter-destination=${record}`],
    ...files,
  ],
  { cwd: root, stdio: "inherit" },
);
const watchdog = setTimeout(endAll, LIMIT_MINUTES * 60_000);
const [status] = await once(runner, "exit");
clearTimeout(watchdog);
const skipped = readFileSync(record, "utf8").match(/# SKIP.*/g) ?? [];
rmSync(scratch, { recursive: true, force: true });
if (status !== 0) process.exit(status ?? 1);
if (process.env.CI && skipped.length > 0) {
  process.stderr.write(
    `${skipped.length} tests were skipped, and none may be here:\n${skipped.join("\n")}\n`,
  );
  process.exit(1);
}

/** The runner would wait for as long as anything that a test started keeps a pipe open: every descendant is killed. */
function endAll() {
  const table = execFileSync("ps", ["-ww", "-eo", "pid=,ppid=,etimes=,stat=,args="], { encoding: "utf8" });
  const rows = table.split("\n").map((line) => ({ line, ids: line.trim().split(/\s+/, 2).map(Number) }));
  const family = new Set([runner.pid]);
  // A child may have a lower number than its parent.
  for (let size = 0; size !== family.size; ) {
    size = family.size;
    for (const { ids } of rows) if (family.has(ids[1])) family.add(ids[0]);
  }
  process.stderr.write(
    `not finished after ${LIMIT_MINUTES} minutes, and ended (pid, ppid, seconds, state):\n`,
  );
  for (const { line, ids } of rows) {
    if (!family.has(ids[0])) continue;
    process.stderr.write(`${line}\n`);
    try {
      process.kill(ids[0], "SIGKILL");
    } catch {
      // It has ended meanwhile.
    }
  }
}
