// Runs the core's tests, the vectors and the fuzzer's own on a core with its assertions, which the released one is compiled
// without; then makes the released one again. The native fuzzer has a core of its own.
import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildCore, buildDevelopmentCore } from "./build-core.mjs";

/** As `npm test` has them. */
const TESTS = ["core", "vectors", "advisories", "reactor/passes", "fuzz/fuzz"];

const root = dirname(dirname(fileURLToPath(import.meta.url)));
if (!(await buildDevelopmentCore(root))) process.exit(1);
try {
  const words = [join(root, "scripts/test.mjs"), ...TESTS, ...process.argv.slice(2)];
  process.exitCode = spawnSync(process.execPath, words, { cwd: root, stdio: "inherit" }).status ?? 1;
} finally {
  buildCore(root);
}
