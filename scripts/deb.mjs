// How a Debian package is made here: laid out as files, described, and packed by dpkg-deb. It needs nothing of Debian's
// build tools.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const SOURCE = dirname(dirname(fileURLToPath(import.meta.url)));

/** Runs a program of the checkout's to its end; returns what it printed. Ends this process, with its words, if it fails. */
export function run(program, ...args) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd: SOURCE, encoding: "utf8" });
  if (status === 0) return stdout;
  const remedy =
    error?.code === "ENOENT" ? ` (apt-get install ${program.startsWith("dpkg") ? "dpkg" : program})` : "";
  process.stderr.write(
    `${program} ${args.join(" ")}: ${error?.message ?? "failed"}${remedy}\n${stdout ?? ""}${stderr ?? ""}`,
  );
  process.exit(1);
}

/** Copies a file to where it belongs, with a mode that does not depend on the checkout's. */
export function install(from, to, mode = 0o644) {
  mkdirSync(dirname(to), { recursive: true, mode: 0o755 });
  copyFileSync(from, to);
  chmodSync(to, mode);
}

export function write(to, contents) {
  mkdirSync(dirname(to), { recursive: true, mode: 0o755 });
  writeFileSync(to, contents, { mode: 0o644 });
}

/** Files below a directory, as paths relative to it, sorted. */
export function filesIn(directory) {
  return readdirSync(directory, { recursive: true })
    .filter((file) => lstatSync(join(directory, file)).isFile())
    .sort();
}

/** KiB of all files below a directory. */
export function installedSize(root) {
  return Math.ceil(filesIn(root).reduce((sum, file) => sum + lstatSync(join(root, file)).size, 0) / 1024);
}

/** Debian's copyright file. */
export function copyright() {
  const licence = readFileSync(join(SOURCE, "LICENSE"), "utf8")
    .trimEnd()
    .replaceAll(/^$/gm, ".")
    .replaceAll(/^/gm, " ");
  return `${readFileSync(join(SOURCE, "packaging/debian/copyright"), "utf8")}${licence}\n`;
}

/** Writes DEBIAN/control and DEBIAN/md5sums, for the files that are there. */
export function describe(root, control) {
  const sums = filesIn(root).map((file) => {
    const sum = createHash("md5").update(readFileSync(join(root, file)));
    return `${sum.digest("hex")}  ${file}\n`;
  });
  write(join(root, "DEBIAN/control"), control);
  write(join(root, "DEBIAN/md5sums"), sums.join(""));
}

/** Packs what is below `root` to build/NAME, and says so. */
export function pack(root, name) {
  chmodSync(root, 0o755);
  run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, join(SOURCE, "build", name));
  process.stdout.write(`build/${name}\n`);
}
