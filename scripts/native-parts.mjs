// Puts koffi's native part for each of our architectures into node_modules: npm installs this machine's only, and what is
// packed here is for all (prepack). From the registry that npm uses; package-lock.json says what it has to be.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { packages } = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));

/** Node's name of each architecture that we support, and Debian's. */
export const ARCHITECTURES = { x64: "amd64", arm64: "arm64" };

/** A part's place, relative to the folder that has node_modules in it. */
export const partOf = (architecture) => `node_modules/@koromix/koffi-linux-${architecture}`;

function run(program, args, cwd) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd, encoding: "utf8" });
  if (status === 0) return;
  throw new Error(
    `${program} ${args.join(" ")}: ${error?.message ?? "failed"}\n${stdout ?? ""}${stderr ?? ""}`,
  );
}

/** In a folder beside it, which takes its place when it is whole: two packages may be made at once. */
function fetch(part) {
  const { version, integrity } = packages[part];
  const name = part.replace("node_modules/", "");
  const scratch = mkdtempSync(join(root, "node_modules/.native-part-"));
  try {
    // What packs us may have set these for itself.
    const settings = ["--dry-run=false", "--json=false", "--ignore-scripts", "--loglevel=error"];
    run("npm", ["pack", ...settings, "--pack-destination", scratch, `${name}@${version}`], scratch);
    const [tarball] = readdirSync(scratch).filter((file) => file.endsWith(".tgz"));
    const hash = createHash("sha512")
      .update(readFileSync(join(scratch, tarball)))
      .digest("base64");
    if (integrity !== `sha512-${hash}`)
      throw new Error(`${name} ${version} is not what package-lock.json says`);
    run("tar", ["-xzf", tarball, "--no-same-owner"], scratch);
    mkdirSync(dirname(join(root, part)), { recursive: true });
    if (!existsSync(join(root, part))) renameSync(join(scratch, "package"), join(root, part));
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Fetches the parts that are not there. */
export function fetchNativeParts() {
  for (const architecture of Object.keys(ARCHITECTURES)) {
    const part = partOf(architecture);
    if (!existsSync(join(root, part))) fetch(part);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    fetchNativeParts();
  } catch (error) {
    process.stderr.write(`koffi's native parts are not all there: ${error.message}\n`);
    process.exit(1);
  }
}
