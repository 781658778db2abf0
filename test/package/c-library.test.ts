/** libblkif-core-dev: what a program of others is compiled with, as pkg-config says. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { ROOT, run } from "../hosts/tools.js";
import { absent } from "../support/programs.js";

const scratch = mkdtempSync(join(tmpdir(), "xbdback-dev-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

test("a program is compiled with the package's source and header, and its guest reads what it wrote", {
  skip: absent("dpkg-deb", "gcc", "pkg-config", "/usr/include/stdlib.h"),
  timeout: 120_000,
}, () => {
  const made = run(process.execPath, [join(ROOT, "scripts/package-deb-core.mjs")]);
  const deb = join(ROOT, made.trim());
  run("dpkg-deb", ["-x", deb, scratch]);
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  const env = {
    ...process.env,
    PKG_CONFIG_SYSROOT_DIR: scratch,
    PKG_CONFIG_LIBDIR: join(scratch, "usr/share/pkgconfig"),
  };
  const ask = (...args: string[]): string => {
    const { status, stdout, stderr } = spawnSync("pkg-config", [...args, "blkif-core"], {
      env,
      encoding: "utf8",
    });
    assert.equal(status, 0, stderr);
    return stdout.trim();
  };
  assert.equal(ask("--modversion"), version);
  const source = ask("--variable=source");
  assert.ok(source.startsWith(scratch) && existsSync(source), source);
  const example = join(scratch, "usr/share/doc/libblkif-core-dev/examples/c/host.c");
  const program = join(scratch, "host");
  const flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", ...ask("--cflags").split(" ")];
  run("gcc", [...flags, "-DXBD_MAX_RING_PAGES=2", "-DXBD_MAX_LARGE=1", example, source, "-o", program]);
  assert.match(run(program, []), /the guest read what it wrote/);
});

test("what it installs is what it says, and its checksums are right", { skip: absent("dpkg-deb") }, () => {
  const deb = join(ROOT, run(process.execPath, [join(ROOT, "scripts/package-deb-core.mjs")]).trim());
  const root = join(scratch, "whole");
  run("dpkg-deb", ["-R", deb, root]);
  const { status, stdout, stderr } = spawnSync("md5sum", ["--quiet", "-c", "DEBIAN/md5sums"], {
    cwd: root,
    encoding: "utf8",
  });
  assert.equal(status, 0, `${stdout}${stderr}`);
  assert.match(readFileSync(join(root, "DEBIAN/control"), "utf8"), /^Architecture: all$/m);
});
