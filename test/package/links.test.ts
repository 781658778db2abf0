/** Nothing that a document of the repository, a command's help or a man page names is missing. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { program } from "../../host/cli/main.js";
import { ROOT } from "../hosts/tools.js";
import { deadLinks } from "./links.js";

/** The repository's files, without what is installed or built, which may change meanwhile. */
const files = readdirSync(ROOT, { withFileTypes: true })
  .filter(({ name }) => !["node_modules", "build", ".git"].includes(name))
  .flatMap((entry) => {
    if (!entry.isDirectory()) return [entry.name];
    const below = readdirSync(join(ROOT, entry.name), { recursive: true }) as string[];
    return below.map((name) => join(entry.name, name));
  });

test("every link in a Markdown document leads somewhere", () => {
  const documents = files.filter((name) => name.endsWith(".md"));
  assert.ok(documents.length > 10);
  assert.deepEqual(deadLinks(ROOT, documents), []);
});

test("a link to a missing file or heading is found, and code is not taken for one", () => {
  const directory = mkdtempSync(join(tmpdir(), "xbdback-links-"));
  const text = [
    "# One thing: `a` & b",
    "[a](#one-thing-a--b) [b](other.md) [c](#two) [d](https://example.org/x) `[e](code.md)`",
    "```",
    "[f](block.md)",
    "```",
    "[g]: reference.md",
    '<img src="picture.svg"> [h](../outside.md)',
  ];
  writeFileSync(join(directory, "a.md"), text.join("\n"));
  const found = deadLinks(directory, ["a.md"]).map((line) => line.replace("a.md: ", ""));
  rmSync(directory, { recursive: true });
  assert.deepEqual(found, ["other.md", "#two", "reference.md", "picture.svg", "../outside.md"]);
});

const FOLDERS = readdirSync(ROOT, { withFileTypes: true }).flatMap((entry) =>
  entry.isDirectory() && !["node_modules", "build", ".git"].includes(entry.name) ? [entry.name] : [],
);

/** The paths of the repository that a document names as code. */
function namedPaths(document: string): string[] {
  const paths = [...document.matchAll(/`([\w.-]+\/[\w./-]*)`/g)].map(([, path]) => path as string);
  return paths.filter((path) => FOLDERS.includes(path.split("/")[0] as string));
}

test("every file of the repository that a document names is there", () => {
  // A disk of the guest "web".
  const known = new Set(["web/xvda"]);
  const lost = files
    .filter((name) => name.endsWith(".md"))
    .flatMap((name) => namedPaths(readFileSync(join(ROOT, name), "utf8")).map((path) => `${name}: ${path}`))
    .filter((line) => !known.has(line.split(": ")[1] as string))
    .filter((line) => !existsSync(join(ROOT, line.split(": ")[1] as string)));
  assert.deepEqual(lost, []);
  assert.deepEqual(namedPaths("`host/vbd/vbd.ts` `disks/web.img` `test/`"), ["host/vbd/vbd.ts", "test/"]);
});

/** What a text names below docs/, examples/ or packaging/. */
function named(text: string): string[] {
  return text.match(/\b(?:docs|examples|packaging|build)\/[\w./-]*\w/g) ?? [];
}

test("every document that a command's help or a man page names is in the package", () => {
  const packed = spawnSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
    cwd: ROOT,
    encoding: "utf8",
  });
  assert.equal(packed.status, 0, packed.stderr);
  const names = new Set<string>(JSON.parse(packed.stdout)[0].files.map(({ path }: { path: string }) => path));
  const isPacked = (name: string): boolean =>
    names.has(name) || [...names].some((path) => path.startsWith(`${name}/`));
  const texts = program().commands.map((command) => [command.name(), command.helpInformation()]);
  for (const page of readdirSync(join(ROOT, "build/man")))
    texts.push([page, readFileSync(join(ROOT, "build/man", page), "utf8")]);
  for (const name of [
    "packaging/xbdback.service",
    "packaging/xbdback.toml",
    "packaging/logrotate",
    "build/blkif-core.h",
  ])
    texts.push([name, readFileSync(join(ROOT, name), "utf8")]);
  const seen = texts.flatMap(([where, text]) =>
    named(text).map((name) => ({ where, name: name.replace(/\/$/, "") })),
  );
  assert.ok(seen.length > 5);
  assert.deepEqual(
    seen.filter(({ name }) => !isPacked(name)),
    [],
  );
  for (const document of [...names].filter((name) => name.startsWith("docs/")))
    assert.ok(existsSync(join(ROOT, document)));
});
