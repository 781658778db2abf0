/** The report as an SVG: for each row, bars of IOPS to fio's or of a fair share, with the range of the repeats. */
import type { Measured } from "../statistics.js";
import type { GoodResult, NeighbourResult } from "./neighbours.js";
import type { Report } from "./report.js";
import { bestLoad, type RowResult, type ScaleResult } from "./results.js";

const WIDTH = 1000;
const MARGIN = 28;
/** Where the bars start and end. */
const LEFT = 320;
const RIGHT = 852;
const BAR = 11;
const GAP = 3;
const ROW_GAP = 15;
const SECTION = 44;
/** No bar is longer than so many times fio's. */
const MOST = 1.6;
const LEAST = 1.1;

/** In the order of the bars. */
const SERIES = [
  ["xbdback", "xbdback: guest and backend process"],
  ["fio-single", "fio, one I/O a system call"],
  ["qemu-nbd", "qemu-nbd"],
  ["nbdkit", "nbdkit"],
] as const;

const BACKINGS = {
  ...{ nbd: "qemu-nbd behind", raw: "raw, served", qcow2: "qcow2", overlay: "qcow2 overlay", rbd: "in Ceph" },
} as const;

const STYLE = `
  svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
  .ground { fill: #ffffff; } .ink { fill: #1c2128; } .soft { fill: #59636e; }
  .grid { stroke: #d8dee4; } .limit { stroke: #1c2128; stroke-dasharray: 4 3; }
  .whisker { stroke: #1c2128; stroke-opacity: 0.6; }
  .xbdback { fill: #0f766e; } .fio-single { fill: #8b98a8; } .qemu-nbd { fill: #d97706; } .nbdkit { fill: #7c5cc4; }
  .title { font-size: 20px; font-weight: 650; } .section { font-size: 13.5px; font-weight: 650; }
  .label { font-size: 12.5px; } .value { font-size: 10.5px; font-variant-numeric: tabular-nums; }
  .value { stroke: #ffffff; stroke-width: 3px; paint-order: stroke; }
  .strong { font-weight: 650; }
  @media (prefers-color-scheme: dark) {
    .value { stroke: #0d1117; }
    .ground { fill: #0d1117; } .ink { fill: #e6edf3; } .soft { fill: #9198a1; }
    .grid { stroke: #2b323b; } .limit { stroke: #e6edf3; } .whisker { stroke: #e6edf3; }
    .xbdback { fill: #2dd4bf; } .fio-single { fill: #768390; } .qemu-nbd { fill: #f0a23b; } .nbdkit { fill: #a78bfa; }
  }`;

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escaped = (text: string): string => text.replace(/[&<>"]/g, (character) => ENTITIES[character]);

function text(x: number, y: number, classes: string, words: string, more = ""): string {
  return `<text x="${round(x)}" y="${round(y)}" class="${classes}"${more}>${escaped(words)}</text>`;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

/** "118k". */
function short(value: number): string {
  if (value < 1000) return String(Math.round(value));
  return value < 1e6 ? `${(value / 1000).toFixed(value < 10_000 ? 1 : 0)}k` : `${(value / 1e6).toFixed(2)}M`;
}

/** "4K random read, depth 32, 4 rings". */
function describe({
  blockSize,
  depth,
  readPercent,
  sequential,
  queues,
  persistent,
  disk,
  pinned,
  pollUs,
  apart,
}: RowResult): string {
  const size = blockSize < 1 << 20 ? `${blockSize >> 10}K` : `${blockSize >> 20}M`;
  const mixed = `${readPercent}/${100 - readPercent}`;
  const kind = readPercent === 100 ? "read" : readPercent === 0 ? "write" : mixed;
  const words = [`${size} ${sequential ? "sequential" : "random"} ${kind}`, `QD ${depth}`];
  if (queues > 1) words.push(`${queues} rings`);
  if (!persistent) words.push("copy");
  if (disk !== "file") words.push(BACKINGS[disk]);
  if (pinned) words.push("1 CPU");
  if (apart) words.push("apart");
  if (pollUs > 0) words.push(`polls ${pollUs} µs`);
  return words.join(", ");
}

class Chart {
  readonly #scale: number;
  readonly #parts: string[] = [];
  #y = 0;

  constructor(most: number) {
    this.#scale = (RIGHT - LEFT) / most;
  }

  x(ratio: number): number {
    return Math.min(LEFT + ratio * this.#scale, RIGHT);
  }

  get height(): number {
    return this.#y;
  }

  add(part: string): void {
    this.#parts.push(part);
  }

  skip(height: number): void {
    this.#y += height;
  }

  text(x: number, classes: string, words: string, more = ""): void {
    this.add(text(x, this.#y, classes, words, more));
  }

  row(row: RowResult): void {
    const shown = SERIES.flatMap(([name]) => {
      const result = row.contestants[name];
      return result?.ratioToFio ? [{ name, result, ratio: result.ratioToFio }] : [];
    });
    const height = shown.length * (BAR + GAP) - GAP;
    this.add(text(LEFT - 12, this.#y + height / 2 + 4, "label ink", describe(row), ' text-anchor="end"'));
    for (const { name, result, ratio } of shown) {
      this.#bar(name, ratio, `${short(result.iops.median)} IOPS`);
      this.skip(BAR + GAP);
    }
    this.skip(ROW_GAP - GAP);
  }

  /** A good guest beside what `label` says. */
  share(label: string, { share, besideP99 }: GoodResult): void {
    this.add(text(LEFT - 12, this.#y + BAR / 2 + 4, "label ink", label, ' text-anchor="end"'));
    this.#bar("xbdback", share, `p99 ${besideP99.median.toFixed(2)} ms`);
    this.skip(BAR + GAP + GAP);
  }

  /** `more` is what is written behind the ratio. */
  #bar(name: string, ratio: Measured, more: string): void {
    const end = this.x(ratio.median);
    const middle = this.#y + BAR / 2;
    this.add(
      `<rect x="${LEFT}" y="${round(this.#y)}" width="${round(end - LEFT)}" height="${BAR}" rx="2" class="${name}"/>`,
    );
    const [low, high] = [round(this.x(ratio.min)), round(this.x(ratio.max))];
    const [top, bottom] = [round(middle - 3), round(middle + 3)];
    this.add(
      `<path d="M${low} ${middle}H${high}M${low} ${top}V${bottom}M${high} ${top}V${bottom}" class="whisker" fill="none"/>`,
    );
    const label = `${ratio.median.toFixed(2)} · ${more}`;
    const classes = name === "xbdback" ? "value ink strong" : "value soft";
    this.add(text(Math.max(end, high) + 7, middle + 3.8, classes, label));
  }

  /** Vertical lines at each quarter behind the bars, and one at 1, which is `whole`. */
  grid(from: number, to: number, whole: string): string {
    const lines: string[] = [];
    for (let ratio = 0; this.x(ratio) < RIGHT || ratio === 0; ratio += 0.25) {
      const x = round(this.x(ratio));
      const kind = ratio === 1 ? "limit" : "grid";
      lines.push(`<path d="M${x} ${from}V${to}" class="${kind}"/>`);
      const words = ratio === 1 ? `${whole} = 1` : String(ratio);
      const weight = ratio === 1 ? "value ink strong" : "value soft";
      lines.push(text(x, from - 6, weight, words, ' text-anchor="middle"'));
    }
    return lines.join("\n");
  }

  toString(): string {
    return this.#parts.join("\n");
  }
}

function legend(chart: Chart): void {
  let x = MARGIN;
  for (const [name, words] of SERIES) {
    chart.add(`<rect x="${x}" y="${chart.height - 9}" width="11" height="11" rx="2" class="${name}"/>`);
    chart.text(x + 17, "label ink", words);
    x += 17 + words.length * 6.9 + 20;
  }
}

function scaleWords(scale: ScaleResult): string {
  const { vbds, memoryPerVbd, attach } = scale;
  const memory = `${(memoryPerVbd.pss / 2 ** 20).toFixed(2)} MiB each when idle`;
  return `${vbds} vbd${vbds > 1 ? "s" : ""}: ${memory}, attached in ${attach.median.toFixed(0)} ms each, ${short(bestLoad(scale).iops.median)} IOPS together`;
}

function subtitle({ environment, repeats, seconds }: Report): string {
  const { cores, cpu, kernel, fileSystem, node } = environment;
  return `${cores} × ${cpu}, Linux ${kernel}, ${fileSystem}, Node ${node}; ${repeats} runs of ${seconds} s in turn, median and range`;
}

function besideWords({ cache, engine, disk, depth, kind }: NeighbourResult): string {
  const words = [kind, disk === "file" ? engine : disk, cache === "none" ? "direct" : "warm", `QD ${depth}`];
  return words.join(", ");
}

/** The good guest beside others, with its grid. */
function shares(chart: Chart, { neighbours, hung }: Report): string[] {
  if (neighbours.length + hung.length === 0) return [];
  chart.skip(SECTION);
  chart.text(MARGIN, "section ink", "A guest at 4K beside a neighbour: its IOPS as a part of its fair share");
  chart.skip(SECTION);
  const top = chart.height - 12;
  for (const result of neighbours) chart.share(besideWords(result), result);
  for (const result of hung) chart.share(`hung storage: ${result.kind}`, result);
  return [chart.grid(top, chart.height, "fair share")];
}

/** The whole drawing; light or dark as the reader's system is. */
export function plot(report: Report): string {
  const drawn = report.rows.filter(({ contestants }) => contestants["xbdback"]?.ratioToFio);
  const ratios = drawn.flatMap(({ contestants }) =>
    SERIES.map(([name]) => contestants[name]?.ratioToFio?.max ?? 0),
  );
  const chart = new Chart(Math.min(MOST, Math.max(LEAST, ...ratios)));
  chart.skip(MARGIN + 16);
  chart.text(MARGIN, "title ink", "IOPS on one file, as a share of fio's io_uring on the file itself");
  chart.skip(21);
  chart.text(MARGIN, "label soft", subtitle(report));
  chart.skip(28);
  legend(chart);
  chart.skip(34);
  const top = chart.height;
  for (const [cache, title] of [
    ["none", "O_DIRECT"],
    ["writeback", "Page cache, warm"],
  ] as const) {
    const section = drawn.filter((row) => row.cache === cache);
    if (section.length === 0) continue;
    chart.skip(SECTION / 2);
    chart.text(MARGIN, "section ink", title);
    chart.skip(SECTION / 2 - 6);
    for (const row of section) chart.row(row);
  }
  const grids = drawn.length > 0 ? [chart.grid(top, chart.height, "fio")] : [];
  grids.push(...shares(chart, report));
  for (const scale of report.scale) {
    chart.skip(22);
    chart.text(MARGIN, "label ink", scaleWords(scale));
  }
  chart.skip(MARGIN);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${round(chart.height)}" width="${WIDTH}" height="${round(chart.height)}" role="img" aria-label="IOPS of xbdback and its peers as a share of fio's">
<style>${STYLE}
</style>
<rect width="100%" height="100%" rx="8" class="ground"/>
${grids.join("\n")}
${chart}
</svg>
`;
}
