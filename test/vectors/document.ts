/** Vectors in Markdown: every `##` section with fenced blocks is one test. README.md here describes the blocks. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The documents lie with the sources; this file runs from build/test/vectors. */
export const DIRECTORY = fileURLToPath(new URL("../../../test/vectors/", import.meta.url));

export type BlockKind = "config" | "ring" | "page" | "host" | "log" | "responses";

export interface Block {
  readonly kind: BlockKind;
  /** What follows the kind on the opening fence. */
  readonly argument: string;
  /** Line of the first line inside the fence, counted from 1. */
  readonly line: number;
  readonly lines: readonly string[];
}

export interface Vector {
  readonly file: string;
  /** Line of the heading. */
  readonly line: number;
  readonly title: string;
  readonly blocks: Block[];
}

/** Whether a block says what is expected, rather than what guest or host do. */
export function isExpectation({ kind }: Block): boolean {
  return kind === "log" || kind === "responses";
}

/** Fences of other kinds are illustrations, and are left alone. */
const KINDS: readonly string[] = ["config", "ring", "page", "host", "log", "responses"];

export function documentNames(): string[] {
  return readdirSync(DIRECTORY)
    .filter((name) => name.endsWith(".md") && name !== "README.md")
    .sort();
}

export function readDocument(file: string): string[] {
  return readFileSync(join(DIRECTORY, file), "utf8").split("\n");
}

/** The vectors of a document, in order. Throws an Error that names the line when a fence is not closed. */
export function parseVectors(file: string, text: readonly string[]): Vector[] {
  const vectors: Vector[] = [];
  for (let i = 0; i < text.length; i++) {
    const heading = /^## (.+)$/.exec(text[i]);
    if (heading) vectors.push({ file, line: i + 1, title: heading[1], blocks: [] });
    const fence = /^```(\w*) *(.*)$/.exec(text[i]);
    if (!fence) continue;
    const start = i + 1;
    const end = text.indexOf("```", start);
    if (end < 0) throw new Error(`${file}:${start}: this fence is never closed`);
    if (KINDS.includes(fence[1])) {
      const vector = vectors.at(-1);
      if (!vector)
        throw new Error(`${file}:${start}: a block before the first ## heading belongs to no vector`);
      const kind = fence[1] as BlockKind;
      vector.blocks.push({ kind, argument: fence[2], line: start + 1, lines: text.slice(start, end) });
    }
    i = end;
  }
  return vectors.filter((vector) => vector.blocks.length > 0);
}

/** A line of an input block with its place, without its comment; empty lines are left out. */
export interface Statement {
  readonly words: readonly string[];
  readonly line: number;
}

export function statements(block: Block): Statement[] {
  return block.lines
    .map((text, i) => ({ words: text.replace(/#.*/, "").trim().split(/\s+/), line: block.line + i }))
    .filter(({ words }) => words[0] !== "");
}

/** The bytes of a line of hex digits in groups of any even length; null if it is something else. */
export function hexBytes(words: readonly string[]): number[] | null {
  const digits = words.join("");
  if (!/^([0-9a-f]{2})+$/.test(digits) || words.some((word) => word.length % 2 !== 0)) return null;
  return Array.from(digits.matchAll(/../g), ([pair]) => Number.parseInt(pair, 16));
}
