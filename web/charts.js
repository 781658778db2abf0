/** The charts of the chosen disk: axes, and values at the pointer, by uPlot. */
import uPlot from "uplot";
import { bytes, count, time } from "./format.js";

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const axis = () => ({
  stroke: style("--muted"),
  grid: { stroke: style("--border"), width: 1 },
  ticks: { show: false },
  font: "11px system-ui, sans-serif",
});
const clock = (_, splits) => splits.map((at) => new Date(at * 1000).toLocaleTimeString("en-GB"));

function chart(element, { series, values, range, draw, incrs }) {
  const options = {
    width: element.clientWidth,
    height: element.clientHeight,
    legend: { live: true },
    cursor: { drag: { x: false, y: false }, points: { size: 6 } },
    scales: { y: { range } },
    axes: [
      { ...axis(), values: clock, space: 90, size: 26 },
      { ...axis(), values: (_, splits) => splits.map(values), size: 66, space: 28, ...(incrs && { incrs }) },
    ],
    series: [
      { label: "at", value: (_, at) => (at === null ? "" : new Date(at * 1000).toLocaleTimeString("en-GB")) },
      ...series.map(({ label, colour, show }) => ({
        label,
        stroke: style(colour),
        width: 1.5,
        points: { show: false },
        value: (_, value) => (value === null || value === undefined ? "–" : show(value)),
      })),
    ],
    hooks: { drawAxes: draw ? [draw] : [] },
  };
  return new uPlot(options, [[], ...series.map(() => [])], element);
}

const fromZero = (_, least, most) => [0, Math.max(most ?? 0, least ?? 0, 1) * 1.1];
const perSecond = (value) => `${count(value)}/s`;
const microseconds = (exponent) => time(2 ** exponent / 1e6);
/** A bucket's number on the axis of the latency chart. */
const exponent = (seconds) => (seconds === null ? null : Math.log2(Math.max(seconds * 1e6, 1)));

/** Steps of the axes: bytes are shown in powers of 1,024, and there is no half request. */
const POWERS = Array.from({ length: 50 }, (_, i) => 2 ** i);
const WHOLE = Array.from({ length: 12 }, (_, i) => [1, 2, 5].map((step) => step * 10 ** i)).flat();

export class Charts {
  #charts = [];
  #heat = [];
  #drawn = [[], 1];

  constructor(elements) {
    const line = (id, values, ...series) => [
      elements[id],
      { values, range: fromZero, series, incrs: id === "bytes" ? POWERS : WHOLE },
    ];
    const definitions = [
      line("iops", count, { label: "IOPS", colour: "--line", show: perSecond }),
      line(
        "bytes",
        (value) => bytes(value),
        { label: "read", colour: "--line", show: (value) => bytes(value, "/s") },
        { label: "written", colour: "--second", show: (value) => bytes(value, "/s") },
      ),
      line("depth", count, { label: "in flight", colour: "--line", show: String }),
      [
        elements.heat,
        {
          values: microseconds,
          range: () => [0, 24],
          incrs: [4, 8],
          series: [{ label: "mean", colour: "--second", show: microseconds }],
          draw: (plot) => this.#drawHeat(plot),
        },
      ],
    ];
    const make = () => {
      for (const plot of this.#charts) plot.destroy();
      this.#charts = definitions.map(([element, definition]) => chart(element, definition));
    };
    make();
    // uPlot draws with the colours that it was made with.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      make();
      this.draw(...this.#drawn);
    });
    const observer = new ResizeObserver(() => {
      for (const [i, [element]] of definitions.entries()) {
        const { clientWidth: width, clientHeight: height } = element;
        const plot = this.#charts[i];
        if (width > 0 && (plot.width !== width || plot.height !== height)) plot.setSize({ width, height });
      }
    });
    for (const [element] of definitions) observer.observe(element);
  }

  /** `history` is what was seen second by second, `seconds` the width of the charts. */
  draw(history, seconds) {
    this.#drawn = [history, seconds];
    const of = (name) => history.map((one) => one[name]);
    const at = of("at");
    this.#heat = history.map(({ heat }) => heat);
    const data = [[of("iops")], [of("read"), of("written")], [of("depth")], [of("latency").map(exponent)]];
    const end = at.at(-1) ?? Date.now() / 1000;
    for (const [i, plot] of this.#charts.entries()) {
      plot.setData([at, ...data[i]]);
      plot.setScale("x", { min: end - seconds, max: end });
      // Without a pointer, the values of now.
      if (plot.cursor.left === undefined || plot.cursor.left < 0) plot.setLegend({ idx: at.length - 1 });
    }
  }

  /** The darker, the more I/Os ended in that second in that time. */
  #drawHeat(plot) {
    const most = Math.max(1, ...this.#heat.flatMap((counts) => counts ?? []));
    const { ctx } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
    ctx.clip();
    ctx.fillStyle = style("--line");
    for (const [i, counts] of this.#heat.entries()) {
      const right = plot.valToPos(plot.data[0][i], "x", true);
      const left = plot.valToPos(plot.data[0][i] - 1, "x", true);
      for (const [bucket, value] of (counts ?? []).entries()) {
        if (value <= 0) continue;
        const top = plot.valToPos(bucket, "y", true);
        ctx.globalAlpha = 0.12 + 0.6 * Math.sqrt(value / most);
        ctx.fillRect(left, top, right - left + 0.5, plot.valToPos(bucket - 1, "y", true) - top);
      }
    }
    ctx.restore();
  }
}
