/** docs/advisories.md has a row for every advisory, and every test that it names is there. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { assertTestsExist, readRows } from "../support/citations.js";

/** What has been published about block backends. */
const PUBLISHED = [
  ["XSA-155", "CVE-2015-8550"],
  ["XSA-216", "CVE-2017-10911"],
  ["XSA-365", "CVE-2021-26930"],
  ["XSA-361", "CVE-2021-26932"],
  ["XSA-362", "CVE-2021-26931"],
  ["XSA-371", "CVE-2021-28688"],
  ["XSA-350", "CVE-2020-29569"],
  ["XSA-349", "CVE-2020-29568"],
  ["XSA-332", "CVE-2020-27673"],
  ["XSA-331", "CVE-2020-27675"],
  ["XSA-229", "CVE-2017-12134"],
  ["CVE-2013-2140"],
  ["CVE-2010-4247"],
  ["CVE-2010-3699"],
  ["nr_segments"],
  ["XSA-197", "CVE-2016-9381"],
  ["XSA-142", "CVE-2015-7311"],
  ["XSA-266", "CVE-2018-12892"],
  ["XSA-175", "CVE-2016-4962"],
  ["XSA-178", "CVE-2016-4963"],
];
/** Other backends in whose code something is weak. */
const BACKENDS = ["NetBSD", "QEMU", "tapdisk", "FreeBSD", "illumos", "Mirage", "Linux"];

const rows = readRows("docs/advisories.md", /^(id|backend)$/);

test("the table of advisories has a row for each, with all of its ids", () => {
  for (const ids of PUBLISHED) assert.equal(rows.filter(({ id }) => id === ids.join(", ")).length, 1, ids[0]);
  for (const backend of BACKENDS) assert.ok(rows.some(({ id }) => id.split(", ").includes(backend)));
});

test("a row of the table has four cells, none of them empty", () => {
  for (const { id, cells } of rows) {
    assert.equal(cells.length, 4, id);
    assert.ok(cells.every((cell) => cell !== ""));
  }
});

test("every test that the table names is there", () => assertTestsExist(rows));

test("a published advisory has a test whose title begins with its id", () => {
  for (const [id] of PUBLISHED) {
    const { tests } = rows.find((row) => row.id.startsWith(id))!;
    assert.ok(
      tests.some(({ title }) => title.startsWith(`${id}:`)),
      id,
    );
  }
});
