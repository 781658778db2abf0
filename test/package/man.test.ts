/** The man pages: they are well-formed, and say the options that there are and no others. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import type { Command } from "commander";
import { program } from "../../host/cli/main.js";
import { reload } from "../../host/cli/reload.js";
import { IMAGE_FORMATS } from "../../host/storage/source.js";
import { WRAPPERS } from "../../host/storage/wrapper/index.js";
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
    const items = text.matchAll(/^\.It (?:Fl . , )?Fl -([a-z0-9-]+)(?: (Op )?Ar (\S+))?/gm);
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

test("xbdback.toml(5) lists what a reload takes for disks that connect later, and nothing else", () => {
  const serve = program().commands.find((command) => command.name() === "serve") as Command;
  const file = join(mkdtempSync(join(tmpdir(), "xbdback-man-")), "xbdback.toml");
  const changed = {
    "max-queues": 2,
    "max-ring-page-order": 1,
    "max-indirect-segments": 7,
    persistent: false,
    "nbd-reconnect": 9,
    limit: "iops=5",
    "guest-limit": ["web:none"],
    cache: "none",
    kind: "other",
    "poll-us": 3,
    reactors: 61,
    engine: "libuv",
    "max-vbds": 5,
    "max-rings": 6,
    "max-grants": 17,
    "max-memory": "1G",
    "drain-timeout": 8,
    "log-format": "json",
    "log-level": "error",
  };
  const lines = Object.entries(changed).map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`);
  writeFileSync(file, lines.join(""));
  const told = reload(serve, {}, file).lines.flatMap(
    (line) => /^xbdback: (\S+) = .*: (.*)$/.exec(line) ?? [],
  );
  rmSync(dirname(file), { recursive: true });
  const taken = told.flatMap((text, i) => (text === "for disks that connect from now on" ? told[i - 1] : []));
  assert.equal(told.length, 3 * lines.length, told.join("\n"));
  const page = readFileSync(join(directory, "xbdback.toml.5"), "utf8");
  const listed = [...section(page, "Sh", "RELOADING").matchAll(/^\.Cm (\S+)/gm)].map(([, key]) => key);
  assert.deepEqual(listed.sort(), taken.sort());
});

test("xbdback(8) has every image format and wrapper", () => {
  const [, disks = ""] = /\n\.Sh DISKS\n([\s\S]*?)\n\.Sh /.exec(manual) ?? [];
  const named = new Set(
    [...disks.matchAll(/^\.It .*/gm)].flatMap(([line]) => line.match(/[a-z0-9]+(?=\\?&?:)/g) ?? []),
  );
  const words = [
    ...Object.keys(IMAGE_FORMATS),
    ...Object.keys(WRAPPERS),
    "rbd",
    "unix",
    "http",
    "https",
    "device",
  ];
  assert.deepEqual(
    words.filter((word) => !named.has(word)),
    [],
  );
});

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
