/** Nobody's install script runs where this repository's packages are installed. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const text = (path: string): string => readFileSync(new URL(`../../../${path}`, import.meta.url), "utf8");

test("what installs packages here runs no install scripts", () => {
  for (const path of ["scripts/setup.mjs", "scripts/lint.mjs", "CONTRIBUTING.md"]) {
    const installs = text(path).match(/"ci", .*|"install", .*|^npm (ci|install).*$/gm) ?? [];
    assert.ok(installs.length > 0, path);
    const all = text(path);
    for (const line of installs) {
      assert.ok(
        /--ignore-scripts/.test(line) || /quiet = \[[^\]]*"--ignore-scripts"/.test(all),
        `${path}: ${line}`,
      );
    }
  }
});

test("allowScripts names no bundled dependency: npm runs its script all the same", () => {
  const { allowScripts, bundleDependencies } = JSON.parse(text("package.json")) as {
    allowScripts: Record<string, boolean>;
    bundleDependencies: string[];
  };
  assert.deepEqual(
    Object.keys(allowScripts).filter((name) => bundleDependencies.includes(name)),
    [],
  );
});
