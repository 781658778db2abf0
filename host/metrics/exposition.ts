/** The text format that Prometheus reads, version 0.0.4. */

export type Labels = Readonly<Record<string, string | number>>;

export interface Sample {
  readonly labels: Labels;
  readonly value: number;
}

export interface HistogramSample {
  readonly labels: Labels;
  /** Upper bounds in the metric's unit, ascending; what is beyond the last is the last entry of `counts`. */
  readonly bounds: readonly number[];
  /** Observations by bucket, one more than there are bounds; not cumulative. */
  readonly counts: readonly number[];
  readonly sum: number;
}

interface Named {
  readonly name: string;
  readonly help: string;
}
export type Family =
  | (Named & { readonly type: "counter" | "gauge"; readonly samples: readonly Sample[] })
  | (Named & { readonly type: "histogram"; readonly samples: readonly HistogramSample[] });

export const CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** Families without samples are left out. */
export function expose(families: readonly Family[]): string {
  return families
    .filter(({ samples }) => samples.length > 0)
    .map(familyText)
    .join("");
}

function familyText(family: Family): string {
  const { name, help, type } = family;
  const lines = [
    `# HELP ${name} ${help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")}`,
    `# TYPE ${name} ${type}`,
  ];
  if (family.type === "histogram")
    for (const sample of family.samples) lines.push(...histogramLines(name, sample));
  else for (const { labels, value } of family.samples) lines.push(line(name, labels, value));
  return `${lines.join("\n")}\n`;
}

function histogramLines(name: string, { labels, bounds, counts, sum }: HistogramSample): string[] {
  let total = 0;
  const buckets = counts.map((count, i) => {
    total += count;
    return line(`${name}_bucket`, { ...labels, le: i < bounds.length ? bounds[i] : "+Inf" }, total);
  });
  return [...buckets, line(`${name}_sum`, labels, sum), line(`${name}_count`, labels, total)];
}

function line(name: string, labels: Labels, value: number): string {
  const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escaped(String(text))}"`);
  return `${name}${pairs.length > 0 ? `{${pairs.join(",")}}` : ""} ${value}`;
}

function escaped(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
