/**
 * The core in C: all vectors byte by byte, under the sanitizers of both compilers, what its text says about the words that
 * the guest sees, and the example host.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { pathToFileURL } from "node:url";
import { absent } from "../support/programs.js";
import { functionsOf, plainAccesses } from "./c-text.js";
import { recordVectors, type Script } from "./script.js";
import { PLAIN_CORE, ROOT, run, WASM2C_RUNTIME } from "./tools.js";

const CORE = join(ROOT, "build/c/blkif-core.c");
const STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];
const HOSTS = join(ROOT, "test/hosts");
const SANITIZED = ["-O1", "-g", "-DXBD_CHECKED", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

let directory: string;
let script: Script;

before(() => {
  directory = mkdtempSync(join(tmpdir(), "xbdback-c-"));
  script = recordVectors();
  assert.ok(
    script.vectors >= 160 && script.calls > 600,
    `only ${script.vectors} vectors, ${script.calls} calls`,
  );
});
after(() => rmSync(directory, { recursive: true }));

function replay(program: string): void {
  assert.equal(run(program, [], script.text), `${script.vectors} vectors, ${script.calls} calls\n`);
}

for (const compiler of ["gcc", "clang"] as const) {
  const skip = absent(compiler, "/usr/include/stdlib.h");
  for (const [what, flags] of [
    ["optimised", ["-O2"]] as const,
    ["with the address and undefined-behaviour sanitizers", SANITIZED] as const,
  ]) {
    test(`${compiler}, ${what}: no warning, and every vector`, { skip, timeout: 120_000 }, () => {
      const program = join(directory, `${compiler}-${flags.length}`);
      const host = [join(HOSTS, "replay.c"), join(HOSTS, "instance-c.c")];
      run(compiler, [...STRICT, ...flags, "-I", join(ROOT, "build/c"), CORE, ...host, "-o", program]);
      replay(program);
    });
  }
}

suite("the text of the core in C", () => {
  const text = readFileSync(CORE, "utf8");
  const functions = functionsOf(text);
  const names = functions.map(({ name }) => name);

  test("what the guest can write is read and written by the functions of shared.ts only", () => {
    assert.ok(functions.length > 120, `only ${functions.length} functions found`);
    const own = functions.filter(({ name }) => !name.startsWith("shared_"));
    assert.deepEqual(
      own.flatMap((it) => plainAccesses(it, names)),
      [],
    );
    const users = own.filter(({ body }) => /XBD_SRING/.test(body)).map(({ name }) => name);
    assert.ok(users.includes("ring_copyRequest") && users.includes("ring_respond"), users.join());
  });

  test("those are atomic, each access of them", () => {
    const shared = functions.filter(({ name }) => name.startsWith("shared"));
    assert.equal(shared.length, 8);
    for (const { name, body } of shared) {
      const accesses = body.match(/core->memory|core->ring|shared32\(|load\d+\(|memcpy/g) ?? [];
      assert.ok(accesses.length > 0 || /shared_copyEntry\d/.test(body), name);
      for (const line of body.split("\n").filter((line) => /shared32\(/.test(line)))
        assert.match(line, /atomic_(load|store)_explicit\(shared32\(core, \w+( \+ 4)?\)/, name);
      assert.doesNotMatch(body, /\bload\d+\(|memcpy|memmove/, name);
    }
  });

  test("memory is reached by the functions of memory.c only", () => {
    const reaching = functions.filter(({ body }) => /->(memory|ring)\b/.test(body)).map(({ name }) => name);
    assert.deepEqual(reaching.sort(), [
      ...["fill", "move", "shared32", "shared_storeOrdered", "shared_storeResponse", "xbd_init"],
    ]);
  });

  test("an access that is not atomic is found", () => {
    const planted = text.replace(
      "shared_copyEntry16(core, to + 16u, from + 16u)",
      "segments_copy16(core, to + 16u, from + 16u)",
    );
    const found = functionsOf(planted).flatMap((it) => plainAccesses(it, names));
    assert.deepEqual(found, ["ring_copyRequest: segments_copy16(from + 16u)"]);
  });

  test("it is the same whatever the sizes of the tables are, and each time", async () => {
    const { coreInC } = await import(pathToFileURL(join(ROOT, "scripts/build-c.mjs")).href);
    const { SIZES } = await import(pathToFileURL(join(ROOT, "scripts/c-header.mjs")).href);
    let abi = readFileSync(join(ROOT, "assembly/abi.ts"), "utf8");
    for (const name of SIZES) {
      const other = abi.replace(new RegExp(`^(export const ${name} =) \\d+;`, "m"), "$1 32;");
      assert.notEqual(other, abi, name);
      abi = other;
    }
    const { source, header } = await coreInC(ROOT, { "assembly/abi.ts": abi });
    assert.ok(source === text, "the C file has a size in it");
    assert.equal(header, readFileSync(join(ROOT, "build/c/blkif-core.h"), "utf8"));
  });
});

test("the example: answers, and what was written is read", {
  skip: absent("gcc", "make"),
  timeout: 60_000,
}, () => {
  const program = join(directory, "host");
  run("make", ["-s", "-C", "examples/c", `BUILD=${directory}`, "CFLAGS=-O2 -Wall -Wextra -Werror", program]);
  const said = run(program, []).split("\n");
  const responses = said.filter((line) => line.startsWith("response"));
  assert.deepEqual(responses, [
    "response 0: id 102, status -1",
    "response 1: id 100, status 0",
    "response 2: id 101, status 0",
  ]);
  assert.ok(said.includes("the guest read what it wrote"), said.join("\n"));
});

const wasm2c = absent("gcc", "/usr/include/stdlib.h", "wasm2c", "/usr/share/wabt/wasm2c/wasm-rt-impl.c");

test("blkif-plain.wasm through wabt's wasm2c: every vector", { skip: wasm2c, timeout: 60_000 }, () => {
  const source = join(directory, "blkif.c");
  const program = join(directory, "wasm2c");
  run("wasm2c", [PLAIN_CORE, "-n", "blkif", "-o", source]);
  const files = [join(HOSTS, "instance-wasm2c.c"), source, join(WASM2C_RUNTIME, "wasm-rt-impl.c")];
  const include = ["-I", WASM2C_RUNTIME, "-I", directory, "-I", join(ROOT, "build")];
  run("gcc", ["-O1", "-w", ...include, join(HOSTS, "replay.c"), ...files, "-lm", "-o", program]);
  replay(program);
});
