/** The man pages: they are well-formed, and say the options that there are and no others. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { program } from "../../host/cli/main.js";
import { ROOT } from "../hosts/tools.js";
import { absent } from "../support/programs.js";

const directory = join(ROOT, "build/man");
const pages = readdirSync(directory);

/** Those that we mean: what one looks for comes first. */
const MEANT = /sections out of conventional order/;

for (const page of pages) {
  test(`${page} is well-formed mdoc`, {
    skip: absent("mandoc"),
  }, () => {
    const { stdout } = spawnSync("mandoc", ["-T", "lint", "-W", "warning", join(directory, page)], {
      encoding: "utf8",
    });
    assert.deepEqual(
      stdout.split("\n").filter((line) => line !== "" && !MEANT.test(line)),
      [],
    );
  });

  test(`${page} has its examples near the top`, () => {
    const sections = readFileSync(join(directory, page), "utf8").match(/(?<=^\.Sh ).*/gm) as string[];
    assert.ok(sections.indexOf("EXAMPLES") > 0 && sections.indexOf("EXAMPLES") <= 3, sections.join(", "));
  });
}

/** The text between a heading and the next one like it. */
function section(page: string, macro: "Sh" | "Ss", heading: string): string {
  const [, text = ""] = page.split(`\n.${macro} ${heading}\n`);
  return text.split(/^\.S[hs] /m)[0] as string;
}

const manual = readFileSync(join(directory, "xbdback.8"), "utf8");
for (const command of program().commands) {
  test(`xbdback(8) has the options of ${command.name()}, and no others`, () => {
    const text = section(manual, "Ss", command.name());
    assert.notEqual(text, "", "there is no such section");
    const items = text.matchAll(/^\.It Fl -([a-z0-9-]+)(?: (Op )?Ar (\S+))?/gm);
    const documented = [...items].map(([, name, optional, value]) => {
      if (value === undefined) return `--${name}`;
      return optional ? `--${name} [${value}]` : `--${name} <${value}>`;
    });
    const actual = command.options
      .filter((option) => !option.hidden)
      .map((option) => option.flags.replace(/^-., /, ""));
    assert.deepEqual(documented.sort(), actual.sort());
  });
}

/** The code of a page's first example, as it is read. */
function firstExample(page: string): string {
  const [, text = ""] = /^\.Sh EXAMPLES[\s\S]*?^\.Bd .*\n([\s\S]*?)^\.Ed/m.exec(page) ?? [];
  return text.replaceAll("\\e", "\\");
}

test("the example of xbdback-core(7) prints what the page says", () => {
  const page = readFileSync(join(directory, "xbdback-core.7"), "utf8");
  // Within the package, so that it finds itself by its name.
  const script = join(ROOT, "build/core-example.mjs");
  writeFileSync(script, firstExample(page));
  const { stdout, stderr } = spawnSync(process.execPath, [script], { encoding: "utf8" });
  rmSync(script);
  assert.deepEqual([stdout, stderr], ["I/O flush\nresponse 7n status 0\n", ""]);
  for (const line of stdout.trim().split("\n"))
    assert.ok(page.includes(`.Dq ${line} `) || page.includes(`.Dq ${line}\n`));
});
