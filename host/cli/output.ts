/** What people see: a progress bar on a terminal, plain lines elsewhere, and tables. */
import type { WriteStream } from "node:tty";

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
    if ((this.#stream as WriteStream).isTTY) {
      const full = Math.round(share * BAR_WIDTH);
      const bar = "█".repeat(full) + "░".repeat(BAR_WIDTH - full);
      this.#stream.write(`\r${bar} ${Math.floor(share * 100)} % of ${this.#total} ${this.#what}`);
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

/** Two columns, numbers flush right with thousands apart. */
export function table(rows: readonly (readonly [string, number])[]): string {
  const label = Math.max(...rows.map(([name]) => name.length));
  const values = rows.map(([, value]) => value.toLocaleString("en-US"));
  const width = Math.max(...values.map((value) => value.length));
  return rows.map(([name], i) => `  ${name.padEnd(label)}  ${values[i].padStart(width)}`).join("\n");
}
