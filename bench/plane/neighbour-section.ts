/** The section *neighbours*: a good guest beside other guests, and beside storage that hangs. */
import { measureNeighbours } from "./beside.js";
import { measureHung } from "./beside-hung.js";
import { type HungResult, type HungRow, hungResult } from "./hung.js";
import { whyNot } from "./hung-storage.js";
import type { Failure, Plan } from "./measure.js";
import { type NeighbourResult, type NeighbourRow, neighbourResult } from "./neighbours.js";
import type { Report } from "./report.js";
import { hungLines, leftLines, neighbourLines } from "./table.js";

type Section = Pick<Report, "neighbours" | "hung" | "left" | "failures">;

export async function measureSection(
  rows: readonly NeighbourRow[],
  hungRows: readonly HungRow[],
  plan: Plan,
): Promise<Section> {
  const { missing, say } = plan;
  const left: Record<string, string> = {};
  /** Those that can be measured here. */
  const possible = <T extends { name: string }>(
    all: readonly T[],
    reasonOf: (row: T) => string | null,
  ): T[] =>
    all.filter((row) => {
      const reason = reasonOf(row);
      if (reason === null) return true;
      left[row.name] = reason;
      say(leftLines(row.name, reason));
      return false;
    });
  const neighbours: NeighbourResult[] = [];
  const noQcow2 = missing.get("qemu-storage-daemon") ?? null;
  const here = possible(rows, ({ disk }) => (disk === "qcow2" ? noQcow2 : null));
  const failures: Failure[] = await measureNeighbours(here, plan, (samples) => {
    const result = neighbourResult(samples);
    neighbours.push(result);
    say(neighbourLines(result));
  });
  const hung: HungResult[] = [];
  for (const row of possible(hungRows, ({ kind }) => whyNot(kind, missing))) {
    try {
      const result = hungResult(await measureHung(row, plan));
      hung.push(result);
      say(hungLines(result));
    } catch (error) {
      failures.push({ rows: [row.name], reason: (error as Error).message });
    }
  }
  return { neighbours, hung, left, failures };
}
