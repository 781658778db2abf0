/** Documents, man pages, help and messages say what engineers expect: see banned-words.ts. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { program } from "../../host/cli/main.js";
import { ROOT } from "../hosts/tools.js";
import { BANNED } from "./banned-words.js";
import { help, literals, paragraphs, sources, type Text } from "./texts.js";

/** xbdback(4)'s diagnostics, which stay word for word. */
const EXEMPT = /xbd backend( 0x\S*)?[: ]/;

function findings(texts: readonly Text[]): string[] {
  return texts
    .filter(({ text }) => !EXEMPT.test(text))
    .flatMap(({ place, text }) =>
      BANNED.flatMap(({ pattern, say }) => {
        const match = pattern.exec(text);
        if (!match) return [];
        const around = text.slice(Math.max(0, match.index - 40), match.index + match[0].length + 40);
        return [`${place}: "${match[0]}": say ${say}\n    … ${around} …`];
      }),
    );
}

function check(texts: readonly Text[]): void {
  const found = findings(texts);
  assert.equal(found.length, 0, `\n${found.join("\n")}`);
}

const documents = readdirSync(join(ROOT, "docs"), { recursive: true, encoding: "utf8" }).filter((name) =>
  name.endsWith(".md"),
);
const pages = readdirSync(join(ROOT, "packaging/man"));
for (const path of [
  ...documents.map((name) => `docs/${name}`),
  ...pages.map((name) => `packaging/man/${name}`),
  ...readdirSync(ROOT).filter((name) => name.endsWith(".md")),
  ...["examples/README.md", "test/vectors/README.md"],
]) {
  test(`the words of ${path}`, () => {
    // The glossary says what not to say.
    const [text = ""] = readFileSync(join(ROOT, path), "utf8").split(/^## Glossary$/m);
    check(paragraphs(path, text));
  });
}

test("the words of all --help", () => check(help(program())));

for (const folder of readdirSync(join(ROOT, "host"))) {
  test(`the words of host/${folder}`, () => check(sources(ROOT, `host/${folder}`, ".ts")));
}

test("the words of the page", () =>
  check([
    ...sources(ROOT, "web", ".js"),
    ...paragraphs("web/index.html", readFileSync(join(ROOT, "web/index.html"), "utf8")),
  ]));

test("literals are found in templates within templates, and not in comments and regular expressions", () => {
  const source = [
    "// one two",
    `const a = /["\`]/.test(b) ? \`c \${d ? \`e f \${"g h"}\` : {}} i\` : "j k";`,
    "/* l m */ const n = 1 / 2, o = 'p q';",
  ].join("\n");
  assert.deepEqual(
    literals("x", source).map(({ text }) => text),
    ["g h", "e f …", "c … i", "j k", "p q"],
  );
});

test("phrases are found over the ends of lines, and xbdback(4)'s diagnostics are exempt", () => {
  const found = findings([
    ...paragraphs("x.md", "It is\nto be\nhad.\n\nFine."),
    { place: "y", text: "xbd backend: to be had" },
  ]);
  assert.equal(found.length, 1);
  assert.match(found[0] as string, /^x\.md:1: "to be had": say available/);
});
