/** Guests whose every page is a mapping, in a process that has few left. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { mappablePages } from "../../host/reactor/mappings.js";

const program = fileURLToPath(new URL("./map-count.js", import.meta.url));

test("what may be mapped is bounded, so that a process never comes to its last mapping", {
  timeout: 120_000,
}, () => {
  const [spare, mappable] = [700, 200];
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, String(spare), String(mappable)], {
    encoding: "utf8",
    timeout: 100_000,
  });
  assert.equal(status, 0, stderr);
  const { statuses, mappedPages, copies } = JSON.parse(stdout);
  assert.deepEqual(statuses, [[0, 2000]]);
  assert.ok(mappedPages <= mappable && mappedPages > mappable / 2, `${mappedPages} pages are mapped`);
  assert.ok(copies > 1000, `${copies} copies`);
});

test("two mappings for each page, and thousands for everything else", () => {
  assert.ok(mappablePages() >= 1000 && mappablePages() % 1 === 0);
});
