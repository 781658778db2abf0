/** The commands of docs/operating.md, run line by line as they stand there, as somebody types them. */
import assert from "node:assert/strict";
import { readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { root, Scene } from "../e2e/harness.js";
import { absent, programs } from "../support/programs.js";

const text = readFileSync(join(root, "docs/operating.md"), "utf8");
const [session = [], exported = []] = [...text.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map(([, block = ""]) =>
  block.trimEnd().split("\n"),
);

/** What tells that a program in the background is ready: whoever types sees it, and then types the next line. */
const READY: readonly [RegExp, string][] = [
  [/xbdback machine /, 'test -S "$XBDBACK_DIRECTORY/xenstored/socket"'],
  [/xbdback serve /, "xbdback list > /dev/null 2>&1"],
  [/xbdback events /, "grep -q began events.json"],
  [/xbdback guest /, "grep -q connected guest.log"],
];

/** The line, its status looked at, and a wait for what it starts in the background. */
function typed(line: string): string {
  const quoted = `'${line.replaceAll("'", "'\\''")}'`;
  const check = `[ $? -eq 0 ] || { printf '%s\\n' FAILED ${quoted}; exit 1; }`;
  if (!/&\s*(#.*)?$/.test(line)) return `${line}\n${check}`;
  const [, ready] = READY.find(([pattern]) => pattern.test(line)) ?? [];
  assert.ok(ready, `how it is known that this is ready: ${line}`);
  return `${line}\nuntil ${ready}; do sleep 0.1; done`;
}

async function type(t: TestContext, lines: readonly string[]): Promise<void> {
  const scene = new Scene(t);
  symlinkSync(join(root, "bin/xbdback.mjs"), scene.path("xbdback"));
  const script = ['PATH="$PWD:$PATH"', ...lines.map(typed), "echo every line succeeded"].join("\n");
  const shell = scene.start("sh", ["-c", script]);
  const [end] = await shell.until(/^(every line succeeded|FAILED)$/m, 170);
  assert.equal(end, "every line succeeded", `${shell.stdout.slice(-4000)}\n${shell.stderr.slice(-4000)}`);
}

test("docs/operating.md: every line of its session succeeds", { timeout: 180_000 }, async (t) => {
  assert.ok(session.length > 15, "the session is there");
  await type(t, session);
});

const [prepare = "", ...exports] = exported;
for (const line of exports) {
  const needs = programs.filter((program) => new RegExp(`\\b${program}\\b`).test(line));
  test(`docs/operating.md: ${line}`, { skip: absent(...needs), timeout: 180_000 }, (t) =>
    type(t, [prepare, line]),
  );
}
