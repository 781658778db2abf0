/**
 * Changes of a source text, one at a time, as a mistake would be made: of a comparison, a constant, a status, a barrier, an
 * order. By patterns on the text, in which operators stand between blanks, as the formatter has them.
 */
import { createHash } from "node:crypto";

export interface Mutant {
  /** The same for the same change of the same line, wherever that line is. */
  readonly id: string;
  readonly kind: string;
  readonly file: string;
  readonly line: number;
  /** The lines before and after, without indentation. */
  readonly from: string;
  readonly to: string;
  /** The whole text of the file with it. */
  readonly text: string;
}

interface Change {
  readonly kind: string;
  readonly at: number;
  readonly length: number;
  readonly to: string;
}

/** What is put for an operator between blanks. */
const OPERATORS: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  comparison: {
    "<": ["<=", ">="],
    "<=": ["<", ">"],
    ">": [">=", "<="],
    ">=": [">", "<"],
    "==": ["!="],
    "!=": ["=="],
    "===": ["!=="],
    "!==": ["==="],
  },
  logic: { "&&": ["||"], "||": ["&&"] },
  arithmetic: {
    "+": ["-"],
    "-": ["+"],
    "&": ["|"],
    "|": ["&"],
    "<<": [">>"],
    ">>": ["<<"],
    "+=": ["-="],
    "-=": ["+="],
    "|=": ["="],
    "&=": ["="],
  },
};

/** Names that stand for another thing of their kind. */
const NAMES: readonly (readonly [kind: string, name: RegExp, to: string])[] = [
  ["status", /\bBLKIF_RSP_OKAY\b/g, "-1"],
  ["status", /\bBLKIF_RSP_ERROR\b/g, "-2"],
  ["status", /\bBLKIF_RSP_ERROR\b/g, "0"],
  ["status", /\bBLKIF_RSP_EOPNOTSUPP\b/g, "-1"],
  ["barrier", /\batomic\.load</g, "load<"],
  ["barrier", /\batomic\.store</g, "store<"],
  ["constant", /\btrue\b/g, "false"],
  ["constant", /\bfalse\b/g, "true"],
];

/** A statement on a line of its own whose loss or whose place may matter. */
const STATEMENT =
  /^([ \t]+)(?!(?:return|const|let|if|else|for|while|case|break|continue|import|export)\b)[\w.#]+(?:<\w+>)?(?:\(.*\)|(?:\[.*\])? [-+|&]?= .*|\+\+|--);$/;

/** The text with blanks for its comments, strings, imports and assertions, which a release has not; as long as it was. */
export function blanked(text: string): string {
  const blank = (part: string): string => part.replace(/[^\n]/g, " ");
  return text.replace(
    /\/\*[\s\S]*?\*\/|\/\/.*|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`|^import\b[\s\S]*?;$|^@\w+$|^ *assert\(.*\);$/gm,
    blank,
  );
}

function* changesIn(code: string): Generator<Change> {
  for (const [kind, operators] of Object.entries(OPERATORS)) {
    for (const { 1: operator, index } of code.matchAll(/(?<= )([<>=!&|+-]{1,3})(?= |\n)/g)) {
      for (const to of operators[operator as string] ?? [])
        yield { kind, at: index, length: (operator as string).length, to };
    }
  }
  for (const [kind, name, to] of NAMES)
    for (const { 0: found, index } of code.matchAll(name))
      yield { kind, at: index, length: found.length, to };
  // Neither a part of a name nor of a type.
  for (const { 0: found, index } of code.matchAll(/(?<![\w.$])(?:0x[0-9a-f]+|[0-9]+)(?![\w.])/g))
    yield { kind: "constant", at: index, length: found.length, to: String(Number(found) + 1) };
  for (const { 0: found, index } of code.matchAll(/(?<=\bif )\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)/g))
    for (const to of ["(true)", "(false)"]) yield { kind: "condition", at: index, length: found.length, to };
  yield* changesOfStatements(code);
}

function* changesOfStatements(code: string): Generator<Change> {
  let at = 0;
  let before: RegExpExecArray | null = null;
  for (const line of code.split("\n")) {
    const statement = STATEMENT.exec(line);
    if (statement) yield { kind: "loss", at, length: line.length, to: "" };
    if (statement && before && before[1] === statement[1]) {
      const first = before[0];
      yield {
        kind: "order",
        at: at - first.length - 1,
        length: first.length + 1 + line.length,
        to: `${line}\n${first}`,
      };
    }
    before = statement;
    at += line.length + 1;
  }
}

/** The lines that a part of a text touches, joined and without indentation. */
function linesOf(text: string, start: number, end: number): string {
  const from = text.lastIndexOf("\n", start - 1) + 1;
  const to = text.indexOf("\n", end);
  return text
    .slice(from, to < 0 ? text.length : to)
    .split("\n")
    .map((line) => line.trim())
    .join(" ")
    .trim();
}

function make(file: string, source: string, { kind, at, length, to }: Change): Mutant {
  // From the text, not from the code: a statement may have a string in it.
  const put = kind === "order" ? swapped(source.slice(at, at + length)) : to;
  const text = source.slice(0, at) + put + source.slice(at + length);
  const from = linesOf(source, at, at + length);
  const after = linesOf(text, at, at + put.length);
  const id = createHash("sha256").update(`${file}\n${kind}\n${from}\n${after}`).digest("hex").slice(0, 10);
  return { id, kind, file, line: source.slice(0, at).split("\n").length, from, to: after, text };
}

function swapped(lines: string): string {
  const [first, second] = lines.split("\n");
  return `${second}\n${first}`;
}

/** All changes of a file, in the order of its lines; those that make the same of the same line are one. */
export function mutantsOf(file: string, source: string): Mutant[] {
  const found = [...changesIn(blanked(source))].map((change) => make(file, source, change));
  const seen = new Set<string>();
  return found
    .filter(({ id, line }) => !seen.has(`${id} ${line}`) && seen.add(`${id} ${line}`))
    .sort((a, b) => a.line - b.line);
}
