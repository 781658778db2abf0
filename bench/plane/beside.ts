/**
 * What a good guest keeps beside its neighbours: in each repeat it is measured alone, and then for each neighbour beside a
 * guest that does the same (its fair share) and beside that one, which takes all it can get.
 */
import { GoodGuest, type NeighbourProcess } from "./good-guest.js";
import type { Failure, Plan } from "./measure.js";
import {
  type NeighbourRow,
  type NeighbourSamples,
  type NeighbourSetup,
  type Run,
  SAME,
  sameNeighbourSetup,
} from "./neighbours.js";

/** `each` hears of the rows of a set-up when they are measured. What fails fails for its set-up only. */
export async function measureNeighbours(
  rows: readonly NeighbourRow[],
  plan: Plan,
  each: (samples: NeighbourSamples) => void,
): Promise<Failure[]> {
  const failures: Failure[] = [];
  for (let first = 0, next = 0; first < rows.length; first = next) {
    while (next < rows.length && sameNeighbourSetup(rows[first], rows[next])) next++;
    const own = rows.slice(first, next);
    try {
      for (const samples of await measureSetup(own, plan)) each(samples);
    } catch (error) {
      failures.push({ rows: own.map(({ name }) => name), reason: (error as Error).message });
    }
  }
  return failures;
}

interface Measuring {
  readonly row: NeighbourRow;
  readonly process: NeighbourProcess;
  readonly fair: Run[];
  readonly beside: Run[];
  readonly neighbour: number[];
  /** fio's, in the good guest's place. */
  readonly fioFair: Run[];
  readonly fioBeside: Run[];
}

interface AtDepth {
  readonly depth: number;
  readonly same: NeighbourProcess;
  /** For all rows. */
  readonly alone: Run[];
  readonly rows: readonly Measuring[];
}

async function measureSetup(rows: readonly NeighbourRow[], plan: Plan): Promise<NeighbourSamples[]> {
  const [setup] = rows;
  const guest = await GoodGuest.start(setup, plan);
  try {
    const depths = await neighboursOf(rows, setup, guest);
    await guest.warmUp();
    for (let repeat = 0; repeat < plan.repeats; repeat++)
      for (const { depth, same, alone, rows: own } of depths) {
        alone.push(await guest.run(depth));
        for (const measuring of own) await measureOne(measuring, same, guest, depth);
      }
    return depths.flatMap(({ alone, rows: own }) =>
      own.map(({ process: _process, ...samples }) => ({ alone, ...samples })),
    );
  } finally {
    await guest.stop();
    guest.removeImages();
  }
}

/** A repeat of a row. */
async function measureOne(
  { process, fair, beside, neighbour, fioFair, fioBeside }: Measuring,
  same: NeighbourProcess,
  guest: GoodGuest,
  depth: number,
): Promise<void> {
  fair.push((await same.beside(() => guest.run(depth))).result);
  const { result, rate } = await process.beside(() => guest.run(depth));
  beside.push(result);
  neighbour.push(rate);
  const fio = (): Promise<Run | null> => guest.runFio(depth);
  const besideSame = (await same.beside(fio)).result;
  const besideNeighbour = (await process.beside(fio)).result;
  if (besideSame === null || besideNeighbour === null) return;
  fioFair.push(besideSame);
  fioBeside.push(besideNeighbour);
}

/** Starts one neighbour of each kind, and for each depth one that does the same as the good guest. */
async function neighboursOf(
  rows: readonly NeighbourRow[],
  { disk }: NeighbourSetup,
  guest: GoodGuest,
): Promise<AtDepth[]> {
  const kinds = new Map<string, NeighbourProcess>();
  const start = async (name: string, kind: string, depth: number): Promise<NeighbourProcess> =>
    guest.neighbour(kind, (await guest.image(name, disk)).target, depth);
  const depths: AtDepth[] = [];
  for (const depth of new Set(rows.map((row) => row.depth))) {
    const own: Measuring[] = [];
    for (const row of rows.filter((one) => one.depth === depth)) {
      const process = kinds.get(row.kind) ?? (await start(row.kind, row.kind, 1));
      kinds.set(row.kind, process);
      own.push({ row, process, fair: [], beside: [], neighbour: [], fioFair: [], fioBeside: [] });
    }
    const same = await start(`${SAME}${depth}`, SAME, depth);
    depths.push({ depth, same, alone: [], rows: own });
  }
  return depths;
}
