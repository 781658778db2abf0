/** docs/advisories.md has a row for every advisory, and every test that it names is there. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

/** This file runs from build/test/advisories. */
const source = (path: string): string =>
  readFileSync(fileURLToPath(new URL(`../../../${path}`, import.meta.url)), "utf8");

const TABLE = "docs/advisories.md";
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

interface Row {
  readonly id: string;
  readonly cells: readonly string[];
  readonly tests: readonly { readonly file: string; readonly title: string }[];
}

/** The rows of all tables; a heading and its rule are none. */
function readRows(): Row[] {
  const lines = source(TABLE)
    .split("\n")
    .filter((line) => line.startsWith("|"));
  return lines
    .map((line) => line.split("|").slice(1, -1))
    .map((cells) => cells.map((cell) => cell.trim()))
    .filter(([id]) => !/^(id|backend|-+)$/.test(id))
    .map((cells) => {
      const tests = cells.at(-1)!.split(/; (?=test\/)/);
      return { id: cells[0], cells, tests: tests.map((cited) => parseCitation(cited)) };
    });
}

function parseCitation(cited: string): Row["tests"][number] {
  const [, file, title] = /^(test\/\S+\.test\.ts): "(.+)"$/.exec(cited) ?? [];
  assert.ok(title, `${cited} is no file and title`);
  return { file, title };
}

/** The titles in a file as the table writes them: what a template fills in is "…", and several of them in a row one. */
function titlesOf(file: string): Set<string> {
  const titles = new Set<string>();
  for (const [, double, template] of source(file).matchAll(/\btest\(\s*(?:"((?:[^"\\]|\\.)*)"|`([^`]*)`)/g))
    titles.add(double ?? template.replace(/\$\{[^}]*\}(?:, \$\{[^}]*\})*/g, "…"));
  return titles;
}

const rows = readRows();

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

test("every test that the table names is there", () => {
  for (const { id, tests } of rows)
    for (const { file, title } of tests)
      assert.ok(titlesOf(file).has(title), `${id}: ${file} has no "${title}"`);
});

test("a published advisory has a test whose title begins with its id", () => {
  for (const [id] of PUBLISHED) {
    const { tests } = rows.find((row) => row.id.startsWith(id))!;
    assert.ok(
      tests.some(({ title }) => title.startsWith(`${id}:`)),
      id,
    );
  }
});
