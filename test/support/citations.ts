/** Documents that name tests: `test/FILE.test.ts: "title"`. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** A file of the repository; this one runs from build/test/support. */
export const source = (path: string): string =>
  readFileSync(fileURLToPath(new URL(`../../../${path}`, import.meta.url)), "utf8");

export interface Row {
  readonly id: string;
  readonly cells: readonly string[];
  readonly tests: readonly { readonly file: string; readonly title: string }[];
}

/** The rows of all tables of a document, whose last cells name tests. A row whose first cell is one of `headings` is none. */
export function readRows(path: string, headings: RegExp): Row[] {
  const lines = source(path)
    .split("\n")
    .filter((line) => line.startsWith("|"));
  return lines
    .map((line) => line.split("|").slice(1, -1))
    .map((cells) => cells.map((cell) => cell.trim()))
    .filter(([id]) => !headings.test(id) && !/^-+$/.test(id))
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

const TITLE = /\b(?:test\(|withPrograms\(\s*(?:\[[^\]]*\]|[A-Z]+),)\s*(?:"((?:[^"\\]|\\.)*)"|`([^`]*)`)/g;

/** The titles in a file as tables write them: what a template fills in is "…", and several of them in a row one. */
function titlesOf(file: string): Set<string> {
  const titles = new Set<string>();
  for (const [, double, template] of source(file).matchAll(TITLE))
    titles.add(double ?? template.replace(/\$\{[^}]*\}(?:, \$\{[^}]*\})*/g, "…"));
  return titles;
}

/** Throws where a row names a test that there is not. */
export function assertTestsExist(rows: readonly Row[]): void {
  for (const { id, tests } of rows)
    for (const { file, title } of tests)
      assert.ok(titlesOf(file).has(title), `${id}: ${file} has no "${title}"`);
}
