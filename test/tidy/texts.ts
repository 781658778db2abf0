/** The texts that people read: documents, man pages, help, and the messages in the sources. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";

export interface Text {
  /** `docs/disks.md:12`, or a command whose help it is. */
  readonly place: string;
  readonly text: string;
}

/** Each paragraph, list item and table row of a document or man page: a phrase may go over the end of a line. */
export function paragraphs(path: string, content: string): Text[] {
  const found: Text[] = [];
  let lines: string[] = [];
  let first = 1;
  const end = (): void => {
    if (lines.length > 0)
      found.push({ place: `${path}:${first}`, text: lines.join(" ").replace(/\s+/g, " ") });
    lines = [];
  };
  for (const [i, line] of content.split("\n").entries()) {
    const starts = line.trim() === "" || /^(\s*[-*|#]|\.(Pp|Sh|Ss|It|Bl|Bd|El|Ed)\b)/.test(line);
    if (starts) end();
    if (lines.length === 0) first = i + 1;
    if (line.trim() !== "") lines.push(line);
  }
  end();
  return found;
}

/** The string literals and templates of a source with a blank in them. What a template fills in is `…`. */
export function literals(path: string, source: string): Text[] {
  const found: Text[] = [];
  let at = 0;
  let line = 1;
  const move = (length: number): void => {
    line += source.slice(at, at + length).split("\n").length - 1;
    at += length;
  };
  const keep = (start: number, text: string): void => {
    if (/\S\s+\S/.test(text)) found.push({ place: `${path}:${start}`, text: text.replace(/\\n|\s+/g, " ") });
  };
  /** Code up to its end, or up to the brace that closes what a template fills in. */
  const code = (inTemplate: boolean): void => {
    for (let depth = 0, before = ""; at < source.length; ) {
      const rest = source.slice(at, at + 20_000);
      const skipped = /^(\/\/.*|\/\*[\s\S]*?\*\/|\s+)/.exec(rest) ?? regex(rest, before);
      const quoted = /^("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')/.exec(rest);
      if (skipped) move(skipped[0].length);
      else if (quoted) {
        keep(line, quoted[0].slice(1, -1));
        move(quoted[0].length);
        before = '"';
      } else if (rest[0] === "`") {
        template();
        before = '"';
      } else {
        const [word] = /^([\w$]+|[\s\S])/.exec(rest) as RegExpExecArray;
        if (word === "{") depth++;
        if (word === "}" && depth-- === 0 && inTemplate) return;
        before = word;
        move(word.length);
      }
    }
  };
  const template = (): void => {
    const start = line;
    let text = "";
    for (move(1); at < source.length && source[at] !== "`"; ) {
      if (source.startsWith("${", at)) {
        move(2);
        code(true);
        text += "…";
        move(1);
      } else {
        const length = source[at] === "\\" ? 2 : 1;
        text += source.slice(at, at + length);
        move(length);
      }
    }
    move(1);
    keep(start, text);
  };
  code(false);
  return found;
}

/** A regular expression stands where a value may begin. */
function regex(rest: string, before: string): RegExpExecArray | null {
  if (before !== "return" && /[\w$)\]"]$/.test(before)) return null;
  return /^\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/[a-z]*/.exec(rest);
}

/** The sources of a folder and those below it. */
export function sources(root: string, folder: string, suffix: string): Text[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(suffix))
    .sort()
    .flatMap((name) => literals(`${folder}/${name}`, readFileSync(join(root, folder, name), "utf8")));
}

/** What `--help` prints of a command and of those below it. */
export function help(command: Command, name = command.name()): Text[] {
  let text = "";
  command.configureOutput({ writeOut: (part) => (text += part) });
  command.outputHelp();
  const own = { place: `${name} --help`, text: text.replace(/\s+/g, " ") };
  return [own, ...command.commands.flatMap((below) => help(below, `${name} ${below.name()}`))];
}
