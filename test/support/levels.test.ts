/** The list of what a first look leaves out has no name of a test that is gone. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT } from "../hosts/tools.js";

test("each name in scripts/test-levels.mjs is that of a test", async () => {
  const list = join(ROOT, "scripts/test-levels.mjs");
  const { FULL_ONLY } = (await import(list)) as { FULL_ONLY: readonly string[] };
  const files = readdirSync(join(ROOT, "test"), { recursive: true, encoding: "utf8" });
  const tests = files.filter((name) => name.endsWith(".test.ts"));
  for (const name of FULL_ONLY)
    assert.ok(
      tests.some((file) => file.startsWith(name)),
      name,
    );
  assert.ok(FULL_ONLY.length > 0);
});
