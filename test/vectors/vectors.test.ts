/** Runs the vectors of every document here. With XBDBACK_VECTORS=update it rewrites the log blocks instead. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { DIRECTORY, documentNames, parseVectors, readDocument, type Vector } from "./document.js";
import { Player } from "./player.js";

const updating = process.env.XBDBACK_VECTORS === "update";

/** The lines of both, common ones with a space in front, expected ones with a minus, found ones with a plus. */
function diff(expected: readonly string[], found: readonly string[]): string {
  const common = Array.from({ length: expected.length + 1 }, () => new Uint16Array(found.length + 1));
  for (let e = expected.length - 1; e >= 0; e--) {
    for (let f = found.length - 1; f >= 0; f--) {
      common[e][f] =
        expected[e] === found[f] ? common[e + 1][f + 1] + 1 : Math.max(common[e + 1][f], common[e][f + 1]);
    }
  }
  const lines: string[] = [];
  for (let e = 0, f = 0; e < expected.length || f < found.length; ) {
    if (e < expected.length && expected[e] === found[f]) {
      lines.push(`  ${expected[e++]}`);
      f++;
    } else if (f >= found.length || (e < expected.length && common[e + 1][f] >= common[e][f + 1])) {
      lines.push(`- ${expected[e++]}`);
    } else lines.push(`+ ${found[f++]}`);
  }
  return lines.join("\n");
}

function run({ file, blocks }: Vector): void {
  const player = new Player();
  let logs = 0;
  for (const block of blocks) {
    if (block.kind !== "log") {
      player.play(block);
      continue;
    }
    logs++;
    const found = player.takeLog();
    const at = block.lines.findIndex((line, i) => line !== found[i]);
    if (at < 0 && found.length === block.lines.length) continue;
    const line = block.line + (at < 0 ? block.lines.length : at);
    const where = `test/vectors/${file}:${line}: expected (-), found (+)`;
    const message = `${where}\n\n${diff(block.lines, found)}\n`;
    throw Object.assign(new Error(message), { stack: message });
  }
  if (logs === 0) throw new Error("the vector has no log block, so it expects nothing");
  const rest = player.takeLog();
  if (rest.length > 0)
    throw new Error(`no log block follows the last host block; found\n\n${rest.join("\n")}\n`);
}

/** Replaces the log blocks of a document with what the core says. */
function update(file: string): void {
  const text = readDocument(file);
  const replacements: { start: number; count: number; lines: string[] }[] = [];
  for (const { blocks } of parseVectors(file, text)) {
    const player = new Player();
    for (const block of blocks) {
      if (block.kind !== "log") player.play(block);
      else replacements.push({ start: block.line - 1, count: block.lines.length, lines: player.takeLog() });
    }
  }
  for (const { start, count, lines } of replacements.reverse()) text.splice(start, count, ...lines);
  writeFileSync(join(DIRECTORY, file), text.join("\n"));
}

for (const file of documentNames()) {
  if (updating) test(`update ${file}`, () => update(file));
  else
    for (const vector of parseVectors(file, readDocument(file))) {
      test(`${file}:${vector.line} ${vector.title}`, () => run(vector));
    }
}
