/** Runs the vectors of every document here. With XBDBACK_VECTORS=update it rewrites the log blocks instead. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { checkVector } from "./check.js";
import { DIRECTORY, documentNames, isExpectation, parseVectors, readDocument } from "./document.js";
import { Player } from "./player.js";

const updating = process.env.XBDBACK_VECTORS === "update";

/** Replaces the log blocks of a document with what the core says. */
function update(file: string): void {
  const text = readDocument(file);
  const replacements: { start: number; count: number; lines: string[] }[] = [];
  for (const { blocks } of parseVectors(file, text)) {
    const player = new Player();
    for (const block of blocks) {
      if (!isExpectation(block)) player.play(block);
      else if (block.kind === "log")
        replacements.push({ start: block.line - 1, count: block.lines.length, lines: player.takeLog() });
    }
  }
  for (const { start, count, lines } of replacements.reverse()) text.splice(start, count, ...lines);
  writeFileSync(join(DIRECTORY, file), text.join("\n"));
}

for (const file of documentNames()) {
  if (updating) test(`update ${file}`, () => update(file));
  else
    for (const vector of parseVectors(file, readDocument(file))) {
      test(`${file}:${vector.line} ${vector.title}`, () => checkVector(vector));
    }
}
