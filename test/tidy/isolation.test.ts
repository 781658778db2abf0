/** docs/isolation.md names tests that there are. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { assertTestsExist, readRows } from "../support/citations.js";

const rows = readRows("docs/isolation.md", /^what (a guest|an image|storage) does$|^what happens$/);

test("each row of docs/isolation.md says what, why, and which test", () => {
  assert.ok(rows.length >= 30, `${rows.length} rows`);
  for (const { id, cells } of rows) {
    assert.equal(cells.length, 3, id);
    assert.ok(cells.every((cell) => cell !== ""));
  }
});

test("every test that docs/isolation.md names is there", () => assertTestsExist(rows));
