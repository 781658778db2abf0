/** What `xbdback top` shows: lines of text from rates, for any size of terminal. */
import { shownDevice } from "../vbd/vbd-name.js";
import { columns } from "./output.js";
import { type Rates, shortNumber, shortTime } from "./rates.js";

export const ORDERS = { i: "IOPS", b: "bytes", l: "latency", n: "name" } as const;
export type Order = keyof typeof ORDERS;

/** A vbd's rates, and its IOPS over the last samples, the newest last. */
export interface TopRow extends Rates {
  readonly history: readonly number[];
  /** Why it is not at work; null when it is. */
  readonly waitsFor: string | null;
}

const BARS = "▁▂▃▄▅▆▇█";
const MAX_SPARKLINE = 60;

/** A bar for each value, the highest of them as high as a line. */
export function sparkline(values: readonly number[], width: number): string {
  const shown = values.slice(-width);
  const most = Math.max(...shown, 1);
  const bar = (value: number): string =>
    BARS[Math.min(Math.floor((value / most) * BARS.length), BARS.length - 1)];
  return shown.map(bar).join("").padStart(Math.min(width, MAX_SPARKLINE));
}

function sorted(rows: readonly TopRow[], order: Order): TopRow[] {
  const measure = (row: TopRow): number => {
    if (order === "b") return row.readBytes + row.writtenBytes;
    return order === "l" ? (row.latency ?? 0) : row.iops;
  };
  const byName = (a: TopRow, b: TopRow): number => a.domid - b.domid || a.devid - b.devid;
  return [...rows].sort((a, b) => (order === "n" ? 0 : measure(b) - measure(a)) || byName(a, b));
}

/** At most `height` lines, none wider than `width`: a summary, the headings, a line for each vbd, the keys. */
export function topScreen(rows: readonly TopRow[], order: Order, width: number, height: number): string[] {
  const total = (of: (row: TopRow) => number): number => rows.reduce((sum, row) => sum + of(row), 0);
  const bytes = total((row) => row.readBytes + row.writtenBytes);
  const summary =
    `xbdback: ${rows.length} ${rows.length === 1 ? "vbd" : "vbds"}, ${shortNumber(total((row) => row.iops))} IOPS, ` +
    `${shortNumber(bytes)}B/s, ${total((row) => row.inflight)} in flight; by ${ORDERS[order]}`;
  const headings = ["VBD", "VDEV", ">IOPS", ">READ/S", ">WRITE/S", ">LAT", ">99%", ">QD"];
  const cells = sorted(rows, order).map((row) => [
    row.name,
    shownDevice(row.devid),
    shortNumber(row.iops),
    ...[row.readBytes, row.writtenBytes].map((value) => `${shortNumber(value)}B`),
    ...[shortTime(row.latency), shortTime(row.latency99), String(row.inflight)],
  ]);
  const lines = columns(headings, cells);
  const room = width - lines[0].length - 2;
  const table = lines.map((line, i) => {
    if (room < 8) return line;
    if (i === 0) return `${line}  IOPS, THE LAST ${Math.min(room, MAX_SPARKLINE)}`.slice(0, width);
    const { waitsFor, history } = sorted(rows, order)[i - 1];
    return `${line}  ${waitsFor === null ? sparkline(history, Math.min(room, MAX_SPARKLINE)) : `waiting for ${waitsFor}`}`;
  });
  const keys = "q quit   sort: i IOPS  b bytes  l latency  n name";
  const body = table.slice(0, Math.max(height - 3, 1));
  return [summary, "", ...body, ...(height > body.length + 2 ? [keys] : [])].map((line) =>
    [...line].slice(0, width).join(""),
  );
}
