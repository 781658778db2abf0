/**
 * examples/c-backend: compiled against Xen's libraries as its reader would, and run against a mock of them with a guest in
 * the same process, under the sanitizers.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { absent } from "../support/programs.js";
import { ROOT, run } from "./tools.js";

const SOURCE = join(ROOT, "examples/c-backend/backend.c");
const CORE = join(ROOT, "build/c");

const directory = mkdtempSync(join(tmpdir(), "xbdback-c-backend-"));
after(() => rmSync(directory, { recursive: true }));

const OPTIONS = {
  skip: absent("gcc", "make", "/usr/include/stdlib.h", "/usr/include/xengnttab.h"),
  timeout: 120_000,
};

test(
  "it compiles without a warning against Xen's libraries, and is no longer than it should be",
  OPTIONS,
  () => {
    const program = join(directory, "backend");
    const flags = "CFLAGS=-O2 -Wall -Wextra -Werror";
    run("make", ["-s", "-C", "examples/c-backend", `BUILD=${directory}`, flags, program]);
    assert.ok(readFileSync(SOURCE, "utf8").split("\n").length < 400);
  },
);

test("a guest's data come back, what must be refused is, and nothing stays mapped", OPTIONS, () => {
  const program = join(directory, "mocked");
  const disk = join(directory, "disk.img");
  writeFileSync(disk, "");
  truncateSync(disk, 1 << 20);
  const sizes =
    /^SIZES := (.*)$/m.exec(readFileSync(join(ROOT, "examples/c-backend/Makefile"), "utf8"))?.[1] ?? "";
  const strict = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", ...sizes.split(" "), "-I", CORE];
  const sanitizers = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
  const files = [join(ROOT, "test/hosts/backend-mock.c"), SOURCE, join(CORE, "blkif-core.c")];
  run("gcc", [...strict, ...sanitizers, ...files, "-lpthread", "-o", program]);
  assert.equal(run(program, ["5", "51712", disk]), "578 requests, 1546 copies, every byte right\n");
  const last = readFileSync(disk).subarray(0, 512);
  assert.ok(
    last.every((byte, i) => byte === ((i * 7 + 32) & 255)),
    "the image has what was written last",
  );
});
