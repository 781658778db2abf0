/** What people see: a progress bar on a terminal, plain lines elsewhere, tables, and JSON for programs. */
import type { WriteStream } from "node:tty";
import { printable } from "../vbd/diagnostics.js";

/** Of the bar itself, where the terminal has room. */
const BAR_WIDTH = 40;

/** Progress towards `total`, on one line of a terminal or as a line for every tenth. */
export class Progress {
  readonly #what: string;
  readonly #total: number;
  readonly #stream: NodeJS.WriteStream;
  #tenth = 0;
  #open = false;

  constructor(what: string, total: number, stream: NodeJS.WriteStream) {
    this.#what = what;
    this.#total = total;
    this.#stream = stream;
  }

  show(done: number): void {
    const share = done / this.#total;
    if ((this.#stream as WriteStream).isTTY && process.env["TERM"] !== "dumb") {
      const text = `${Math.floor(share * 100)} % of ${this.#total} ${this.#what}`;
      // A line that the terminal wraps is not overwritten by the next one.
      const room =
        ((this.#stream as WriteStream).columns || 80) - 2 - `100 % of ${this.#total} ${this.#what}`.length;
      const width = Math.max(0, Math.min(BAR_WIDTH, room));
      const full = Math.round(share * width);
      const bar = "█".repeat(full) + "░".repeat(width - full);
      this.#stream.write(`\r${bar}${width > 0 ? " " : ""}${text}`);
      this.#open = true;
      return;
    }
    if (Math.floor(share * 10) <= this.#tenth) return;
    this.#tenth = Math.floor(share * 10);
    this.#stream.write(`${this.#tenth * 10} % of ${this.#total} ${this.#what}\n`);
  }

  end(): void {
    if (this.#open) this.#stream.write("\n");
    this.#open = false;
  }
}

/** For a cell of a table: with no blank in it, so that awk finds the next cell. */
export function word(text: string): string {
  return printable(text).replaceAll(/\s/g, "\\040");
}

/** Two columns, numbers flush right with thousands apart. */
export function table(rows: readonly (readonly [string, number])[]): string {
  const label = Math.max(...rows.map(([name]) => name.length));
  const values = rows.map(([, value]) => value.toLocaleString("en-US"));
  const width = Math.max(...values.map((value) => value.length));
  return rows.map(([name], i) => `  ${name.padEnd(label)}  ${values[i].padStart(width)}`).join("\n");
}

/** One object on a line of stdout. */
export function printJson(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** A table's lines, the headings first. A heading that begins with ">" has its column flush right; the last is not padded. */
export function columns(headings: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const names = headings.map((heading) => heading.replace(/^>/, ""));
  const all = [names, ...rows];
  const widths = names.map((_, i) => Math.max(...all.map((row) => row[i].length)));
  const pad = (cell: string, i: number): string => {
    if (headings[i].startsWith(">")) return cell.padStart(widths[i]);
    return i === names.length - 1 ? cell : cell.padEnd(widths[i]);
  };
  return all.map((row) => row.map(pad).join("  "));
}

/** Prints what {@link columns} made; the headings only for people. */
export function printTable(lines: readonly string[]): void {
  const shown = process.stdout.isTTY ? lines : lines.slice(1);
  for (const line of shown) process.stdout.write(`${line}\n`);
}

/** Names and values, one pair a line. */
export function pairs(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join("\n");
}
