/** `xbdback top`. */
import { Command } from "commander";
import type { VbdStatus } from "../../vbd/status.js";
import { type CommonOptions, examples, integer, placeOptions } from "../options.js";
import { printJson } from "../output.js";
import { type Rates, ratesOfAll } from "../rates.js";
import { ORDERS, type Order, type TopRow, topScreen } from "../top-screen.js";
import { rateTable, sample } from "./stats.js";

interface TopOptions extends CommonOptions {
  readonly interval: number;
  readonly count?: number;
}

/** Samples that a sparkline may show. */
const HISTORY = 60;
const FALLBACK = { columns: 80, rows: 24 };
/** The alternate screen without a cursor, and back. */
const ENTER = "\x1b[?1049h\x1b[?25l";
const LEAVE = "\x1b[?25h\x1b[?1049l";
const CONTROL_C = "\x03";

export function topCommand(): Command {
  const command = placeOptions(
    new Command("top")
      .summary("watch all vbds live, the busiest first")
      .description(
        "IOPS, bytes, latency and queue depth of every vbd, and how its IOPS went. q quits; i, b, l and n sort. Without a\n" +
          "terminal it prints a table every interval, as `stats --watch` does.",
      ),
  )
    .option("--interval <seconds>", "between two looks", integer(1, 3600), 1)
    .option("--count <n>", "end after so many looks", integer(1, 1e9));
  return examples(command, "xbdback top", "xbdback top --interval 5 --count 3 | cat").action(top);
}

async function top(options: TopOptions): Promise<void> {
  const session = new TopSession(options);
  if (process.stdout.isTTY && process.stdin.isTTY && !options.json) await session.interact();
  else await session.print();
}

class TopSession {
  readonly #options: TopOptions;
  readonly #histories = new Map<string, number[]>();
  #before: VbdStatus[] = [];
  #then = 0;
  #rows: TopRow[] = [];
  #order: Order = "i";
  #stop: () => void = () => {};

  constructor(options: TopOptions) {
    this.#options = options;
  }

  /** A table every interval. */
  async print(): Promise<void> {
    const { interval, count = Number.POSITIVE_INFINITY, json } = this.#options;
    await this.#look();
    for (let i = 0; i < count; i++) {
      await new Promise((resolve) => setTimeout(resolve, interval * 1000));
      const rates = await this.#look();
      if (json) printJson({ time: new Date().toISOString(), vbds: rates });
      else process.stdout.write(`${rateTable(rates).join("\n")}\n`);
    }
  }

  /** The whole terminal, until q. */
  async interact(): Promise<void> {
    const { stdin, stdout } = process;
    const stopped = new Promise<void>((resolve) => {
      this.#stop = resolve;
    });
    const resized = (): void => this.#draw();
    const ended = (): void => this.#stop();
    stdout.write(ENTER);
    stdin
      .setRawMode(true)
      .setEncoding("utf8")
      .on("data", (keys: string) => this.#keys(keys))
      .resume();
    stdout.on("resize", resized);
    for (const signal of ["SIGTERM", "SIGHUP"] as const) process.on(signal, ended);
    try {
      await Promise.race([stopped, this.#follow()]);
    } finally {
      stdout.off("resize", resized);
      stdin.setRawMode(false).pause();
      stdout.write(LEAVE);
      this.#stop();
    }
    // A look that is under way is of no more use.
    process.exit();
  }

  async #follow(): Promise<void> {
    const { interval, count = Number.POSITIVE_INFINITY } = this.#options;
    for (let i = 0; i < count; i++) {
      await this.#look();
      this.#draw();
      await new Promise((resolve) => setTimeout(resolve, interval * 1000));
    }
  }

  #keys(keys: string): void {
    for (const key of keys) {
      if (key === "q" || key === CONTROL_C) this.#stop();
      else if (Object.hasOwn(ORDERS, key)) this.#order = key as Order;
    }
    this.#draw();
  }

  #draw(): void {
    const { columns = FALLBACK.columns, rows = FALLBACK.rows } = process.stdout;
    const lines = topScreen(this.#rows, this.#order, columns, rows);
    process.stdout.write(`\x1b[H${lines.map((line) => `${line}\x1b[K`).join("\r\n")}\x1b[J`);
  }

  async #look(): Promise<Rates[]> {
    const now = await sample(undefined, this.#options);
    const seconds = (performance.now() - this.#then) / 1000;
    this.#then = performance.now();
    // Since when those of the first look have worked nobody knows.
    const before = this.#before.length > 0 ? this.#before : now;
    const rates = ratesOfAll(now, before, seconds);
    this.#before = now;
    this.#rows = rates.map((rate, i) => {
      const history = [...(this.#histories.get(rate.name) ?? []), rate.iops].slice(-HISTORY);
      this.#histories.set(rate.name, history);
      return { ...rate, history, waitsFor: now[i].waitsFor };
    });
    return rates;
  }
}
