/** `xbdback top`. */
import { Command } from "commander";
import { describeStatus, type VbdStatus } from "../../vbd/status.js";
import { type CommonOptions, examples, integer, placeOptions } from "../options.js";
import { printJson } from "../output.js";
import { type Rates, ratesOfAll } from "../rates.js";
import { ORDERS, type Order, rowsOn, type TopRow, topScreen, type View } from "../top-screen.js";
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
const CONTROL_Z = "\x1a";
/** A key that sends several characters, or one character. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: what terminals send.
const KEYS = /\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])|./gs;

/** Rows to scroll by, for a page of so many. */
const SCROLL: Readonly<Record<string, (page: number) => number>> = {
  "\x1b[A": () => -1,
  "\x1bOA": () => -1,
  k: () => -1,
  "\x1b[B": () => 1,
  "\x1bOB": () => 1,
  j: () => 1,
  "\x1b[5~": (page) => -page,
  "\x1b[6~": (page) => page,
  "\x1b[H": () => Number.NEGATIVE_INFINITY,
  "\x1b[1~": () => Number.NEGATIVE_INFINITY,
  "\x1b[F": () => Number.POSITIVE_INFINITY,
  "\x1b[4~": () => Number.POSITIVE_INFINITY,
};

export function topCommand(): Command {
  const command = placeOptions(
    new Command("top")
      .summary("watch all vbds live, the busiest first")
      .description(
        "IOPS, bytes, latency and queue depth of every vbd, and how its IOPS went. q quits; i, b, l and n sort; arrows, Page\n" +
          "Up and Page Down scroll; Ctrl-Z stops it until fg. Without a terminal it prints a table every interval, as\n" +
          "`stats --watch` does.",
      ),
  )
    .option("--interval <seconds>", "between two looks", integer(1, 3600), 1)
    .option("--count <n>", "end after this many tables", integer(1, 1e9));
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
  #view: View = { order: "i", first: 0 };
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
    stdin.setEncoding("utf8").on("data", (keys: string) => this.#keys(keys));
    this.#enter();
    stdout.on("resize", resized);
    for (const signal of ["SIGTERM", "SIGHUP"] as const) process.on(signal, ended);
    process.on("SIGTSTP", this.#suspend);
    try {
      await Promise.race([stopped, this.#follow()]);
    } finally {
      stdout.off("resize", resized);
      this.#leave();
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
    for (const [key] of keys.matchAll(KEYS)) {
      const scroll = SCROLL[key];
      if (key === "q" || key === CONTROL_C) this.#stop();
      else if (key === CONTROL_Z) this.#suspend();
      else if (scroll) this.#scroll(scroll(rowsOn(process.stdout.rows ?? FALLBACK.rows)));
      else if (Object.hasOwn(ORDERS, key)) this.#view = { order: key as Order, first: 0 };
    }
    this.#draw();
  }

  #scroll(by: number): void {
    const last = Math.max(0, this.#rows.length - rowsOn(process.stdout.rows ?? FALLBACK.rows));
    this.#view = { ...this.#view, first: Math.max(0, Math.min(this.#view.first + by, last)) };
  }

  /** As programs do that leave the terminal alone: the shell gets it as it was, until `fg`. */
  readonly #suspend = (): void => {
    this.#leave();
    process.once("SIGCONT", () => {
      process.on("SIGTSTP", this.#suspend);
      this.#enter();
      this.#draw();
    });
    // With a listener of ours the process would not stop.
    process.off("SIGTSTP", this.#suspend);
    process.kill(process.pid, "SIGTSTP");
  };

  #enter(): void {
    process.stdin.setRawMode(true).resume();
    process.stdout.write(ENTER);
  }

  #leave(): void {
    process.stdin.setRawMode(false).pause();
    process.stdout.write(LEAVE);
  }

  #draw(): void {
    const { columns = FALLBACK.columns, rows = FALLBACK.rows } = process.stdout;
    const lines = topScreen(this.#rows, this.#view, columns, rows);
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
      return { ...rate, history, status: statusOf(now[i]) };
    });
    return rates;
  }
}

/** Why a vbd does nothing; null while its guest is served. */
function statusOf(vbd: VbdStatus): string | null {
  const well = vbd.waitsFor === null && vbd.storage.state !== "waiting";
  return well ? null : describeStatus(vbd);
}
