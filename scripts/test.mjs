// Runs every test: `npm test`, or `npm test -- core vbd` for some of the folders under test/.
// Where CI is set, a test that was skipped is a failure: CI has what the tests need.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

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
const { status } = spawnSync(
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
const skipped = readFileSync(record, "utf8").match(/# SKIP.*/g) ?? [];
rmSync(scratch, { recursive: true, force: true });
if (status !== 0) process.exit(status ?? 1);
if (process.env.CI && skipped.length > 0) {
  process.stderr.write(
    `${skipped.length} tests were skipped, and none may be here:\n${skipped.join("\n")}\n`,
  );
  process.exit(1);
}
