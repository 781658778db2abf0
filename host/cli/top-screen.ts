/** What `xbdback top` shows: lines of text from rates, for any size of terminal. */
import { columns } from "./output.js";
import { type Rates, shortBytes, shortNumber, shortTime, shownDomain } from "./rates.js";

export const ORDERS = { i: "IOPS", b: "bytes", l: "latency", n: "name" } as const;
export type Order = keyof typeof ORDERS;

/** A vbd's rates, and its IOPS over the last samples, the newest last. */
export interface TopRow extends Rates {
  readonly history: readonly number[];
  /** Why it does nothing: what it waits for, its storage, a pause; null while it is connected and served. */
  readonly status: string | null;
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

/** What a screen shows, and from which row on. */
export interface View {
  readonly order: Order;
  /** Of the sorted rows, the first that is shown, as far as there are so many. */
  readonly first: number;
}

/** Rows of the table that a screen has room for, below summary and headings and above the keys. */
export function rowsOn(height: number): number {
  return Math.max(height - 4, 1);
}

const HEADINGS = ["DOMAIN", "VDEV", ">IOPS", ">READ/S", ">WRITE/S", ">LAT", ">99%", ">QD"];
const MAX_DOMAIN = 16;

function cellsOf(row: TopRow): string[] {
  const name = shownDomain(row);
  return [
    name.length > MAX_DOMAIN ? `${name.slice(0, MAX_DOMAIN - 1)}…` : name,
    row.vdev,
    shortNumber(row.iops),
    ...[row.readBytes, row.writtenBytes].map(shortBytes),
    ...[shortTime(row.latency), shortTime(row.latency99), String(row.inflight)],
  ];
}

/** At most `height` lines, none wider than `width`: a summary, the headings, a line for each vbd, the keys. */
export function topScreen(rows: readonly TopRow[], view: View, width: number, height: number): string[] {
  const { order } = view;
  const total = (of: (row: TopRow) => number): number => rows.reduce((sum, row) => sum + of(row), 0);
  const bytes = total((row) => row.readBytes + row.writtenBytes);
  const summary =
    `xbdback: ${rows.length} ${rows.length === 1 ? "vbd" : "vbds"}, ${shortNumber(total((row) => row.iops))} IOPS, ` +
    `${shortBytes(bytes)}/s, ${total((row) => row.inflight)} in flight; by ${ORDERS[order]}`;
  const most = rowsOn(height);
  const first = Math.max(0, Math.min(view.first, rows.length - most));
  const shown = sorted(rows, order).slice(first, first + most);
  const lines = columns(HEADINGS, shown.map(cellsOf));
  const room = width - lines[0].length - 2;
  const table = lines.map((line, i) => {
    if (room < 8) return line;
    if (i === 0) return `${line}  IOPS, THE LAST ${Math.min(room, MAX_SPARKLINE)}`.slice(0, width);
    const { status, history } = shown[i - 1];
    return `${line}  ${status ?? sparkline(history, Math.min(room, MAX_SPARKLINE))}`;
  });
  const hidden =
    shown.length < rows.length
      ? `${first + 1}-${first + shown.length} of ${rows.length}, ↑↓ PgUp PgDn scroll   `
      : "";
  const keys = `${hidden}q quit   sort: i IOPS  b bytes  l latency  n name`;
  return [summary, "", ...table, keys]
    .slice(0, Math.max(height, 3))
    .map((line) => [...line].slice(0, width).join(""));
}
