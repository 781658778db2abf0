/** The lab from Node: builds it, installs the product as its package would be, and runs scenarios in its dom0. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const lab = join(root, "test/xen/lab/lab");
export const scenarios = join(root, "test/xen/scenarios");

let scratch: string | null = null;
process.on("exit", () => scratch && rmSync(scratch, { recursive: true, force: true }));

/** A folder that is removed when this process ends. */
function scratchDirectory(): string {
  scratch ??= mkdtempSync(join(tmpdir(), "xbdback-lab-"));
  return scratch;
}

function run(program: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd: root, encoding: "utf8" });
  if (error) throw error;
  assert.equal(status, 0, `${program} ${args.join(" ")}\n${stdout}${stderr}`);
  return stdout;
}

/** Xen's two xenstores: its C one, and the OCaml one, which Debian's dom0 starts. */
export type Xenstored = "xenstored" | "oxenstored";

/** The environment in which the lab's script makes and starts the machine with that xenstored. */
function machineOf(xenstored: Xenstored): NodeJS.ProcessEnv {
  return { ...process.env, XENLAB_XENSTORED: xenstored };
}

/** Builds what is not there yet; that takes minutes and needs root and the network. */
export function buildLab(xenstored: Xenstored = "xenstored"): void {
  const { status } = spawnSync(lab, ["build"], {
    stdio: ["ignore", 2, "inherit"],
    env: machineOf(xenstored),
  });
  assert.equal(status, 0, "the lab could not be built");
}

let product: string | null = null;

/** A node_modules with xbdback in it, out of the package that npm makes of this repository; `xbdback.tgz` beside it. */
export function packProduct(): string {
  if (product) return product;
  const directory = scratchDirectory();
  run("npm", ["pack", "--pack-destination", directory]);
  const [tarball] = readdirSync(directory).filter((name) => name.endsWith(".tgz"));
  mkdirSync(join(directory, "node_modules/xbdback"), { recursive: true });
  run("tar", [
    "-xzf",
    join(directory, tarball),
    "-C",
    join(directory, "node_modules/xbdback"),
    "--strip-components=1",
  ]);
  product = directory;
  return directory;
}

/** What a script in dom0 printed, and its status; 124 when it took too long. */
export interface LabOutcome {
  readonly status: number | null;
  readonly output: string;
  /** The machine's serial console: Xen and dom0's kernel. */
  readonly console: string;
}

/** Runs a script of the scenarios in dom0. */
export async function runInLab(
  script: string,
  seconds: number,
  env: Record<string, string> = {},
  xenstored: Xenstored = "xenstored",
): Promise<LabOutcome> {
  const directory = packProduct();
  const log = join(directory, `${script}.${xenstored}.console`);
  const args = [
    ...["run", "--script", join(scenarios, script), "--timeout", String(seconds), "--log", log],
    ...["--share", `${scenarios}:/share`, "--share", `${directory}:/package`],
    ...["--share", `${join(directory, "node_modules")}:/usr/lib/node_modules`],
    ...Object.entries(env).flatMap(([key, value]) => ["--env", `${key}=${value}`]),
  ];
  const child = spawn(lab, args, { stdio: ["ignore", "pipe", "pipe"], env: machineOf(xenstored) });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("latin1").on("data", (text) => {
      output += text;
      if (process.env["XENLAB_VERBOSE"]) process.stderr.write(text);
    });
  }
  const status = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  return { status, output: output.replaceAll("\r", ""), console: readFileSync(log, "latin1") };
}
