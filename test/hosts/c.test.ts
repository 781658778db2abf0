/** The core in a C program, through wabt's wasm2c: all vectors byte by byte, and the example host. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { absent } from "../support/programs.js";
import { recordVectors } from "./script.js";
import { PLAIN_CORE, ROOT, run, WASM2C_RUNTIME } from "./tools.js";

const skip = absent("gcc", "/usr/include/stdlib.h", "wasm2c", "/usr/share/wabt/wasm2c/wasm-rt-impl.c");

suite("the core in C through wasm2c", { skip }, () => {
  let directory: string;

  before(() => {
    directory = mkdtempSync(join(tmpdir(), "xbdback-wasm2c-"));
    run("wasm2c", [PLAIN_CORE, "-n", "blkif", "-o", join(directory, "blkif.c")]);
  });
  after(() => rmSync(directory, { recursive: true }));

  /** Compiles a host without a warning, links it with the core, and returns the program. */
  function compile(source: string): string {
    const object = join(directory, "host.o");
    const program = join(directory, "host");
    const strict = ["-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror", "-isystem", WASM2C_RUNTIME];
    run("gcc", [...strict, "-I", directory, "-I", "build", "-c", join(ROOT, source), "-o", object]);
    const core = [join(directory, "blkif.c"), join(WASM2C_RUNTIME, "wasm-rt-impl.c")];
    run("gcc", ["-O1", "-w", "-I", WASM2C_RUNTIME, object, ...core, "-lm", "-o", program]);
    return program;
  }

  test("every vector: the same results and the same bytes in memory", { timeout: 60_000 }, () => {
    const { text, vectors, calls } = recordVectors();
    assert.ok(vectors >= 160 && calls > 600, `only ${vectors} vectors, ${calls} calls`);
    assert.equal(run(compile("test/hosts/replay.c"), [], text), `${vectors} vectors, ${calls} calls\n`);
  });

  test("the example: answers, and what was written is read", { timeout: 60_000 }, () => {
    const said = run(compile("examples/c/host.c"), []).split("\n");
    const responses = said.filter((line) => line.startsWith("response"));
    assert.deepEqual(responses, [
      "response 0: id 102, status -1",
      "response 1: id 100, status 0",
      "response 2: id 101, status 0",
    ]);
    assert.ok(said.includes("the guest read what it wrote"), said.join("\n"));
  });
});
