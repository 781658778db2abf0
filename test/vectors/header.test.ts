/** build/blkif-core.h: a C compiler takes it, and it says what assembly/abi.ts says. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import * as abi from "../../assembly/abi.js";
import { cannotCompile, compile } from "./compiler.js";
import { DIRECTORY } from "./document.js";

const HEADER = fileURLToPath(new URL("../../blkif-core.h", import.meta.url));

for (const standard of ["-std=c11", "-std=gnu17"]) {
  test(`a C compiler takes the header, ${standard}`, { skip: cannotCompile("-m64") }, () => {
    compile(join(DIRECTORY, "header.c"), ["-m64", standard, "-pedantic", `-I${dirname(HEADER)}`]);
  });
}

test("the header has every constant of the contract, and no other", () => {
  const text = readFileSync(HEADER, "utf8");
  const defined = Array.from(text.matchAll(/^#define XBD_(\w+) \(?(-?\d+)\)?$/gm), ([, name, value]) => [
    name,
    Number(value),
  ]);
  assert.deepEqual(Object.fromEntries(defined), { ...abi });
});

test("a constant keeps its comment in the header", () => {
  const text = readFileSync(HEADER, "utf8");
  const source = readFileSync(join(DIRECTORY, "../../assembly/abi.ts"), "utf8");
  const documented = /(\/\*\*[^/]*\*\/)\nexport const (\w+) =/g;
  const comments = Array.from(source.matchAll(documented));
  assert.ok(comments.length > 40, `only ${comments.length} comments found`);
  for (const [, comment, name] of comments)
    assert.ok(text.includes(`${comment}\n#define XBD_${name} `), `the comment of ${name}`);
});
