/** `xbdback stats`. */
import { setTimeout as sleep } from "node:timers/promises";
import { Command } from "commander";
import { type VbdId, vbdName } from "../../vbd/name.js";
import type { VbdStatus } from "../../vbd/status.js";
import { ask } from "../daemon.js";
import { CliError, Exit, noVbd } from "../errors.js";
import { type CommonOptions, examples, ID_HELP, integer, placeOptions, vbdId } from "../options.js";
import { columns, printJson, printTable } from "../output.js";
import {
  type Rates,
  ratesOfAll,
  refusedRequests,
  shortBytes,
  shortNumber,
  shortTime,
  shownDomain,
} from "../rates.js";

interface StatsOptions extends CommonOptions {
  readonly watch?: true | number;
  readonly count?: number;
}

export function statsCommand(): Command {
  const command = placeOptions(
    new Command("stats")
      .summary("show counters of vbds, or rates every second")
      .description(
        "Without --watch: totals since the vbd was attached or the daemon started, whichever is later.\n" +
          "With it: rates, a line for each vbd every N seconds.\n" +
          "Latency is that of I/Os: on average, and what 99 of 100 take less than.",
      )
      .argument("[id]", `${ID_HELP}; all when left out`, vbdId),
  )
    .option("--watch [seconds]", "continue until Ctrl-C", integer(1, 3600))
    .option("--count <n>", "with --watch: end after this many times", integer(1, 1e9));
  return examples(
    command,
    "xbdback stats",
    "xbdback stats 1/xvda --watch",
    "xbdback stats --watch 10 --json >> stats.jsonl",
  ).action(stats);
}

async function stats(id: VbdId | undefined, options: StatsOptions): Promise<void> {
  if (options.watch !== undefined) return watch(id, options);
  if (options.count !== undefined) throw new CliError("--count needs --watch", Exit.usage);
  const vbds = await sample(id, options);
  if (options.json)
    return printJson({
      vbds: vbds.map(({ name, domid, devid, domainName, vdev, counters, latency }) => ({
        name,
        domid,
        devid,
        domainName,
        vdev,
        counters,
        latency,
      })),
    });
  const headings = [
    "VBD",
    "DOMAIN",
    "VDEV",
    ">READS",
    ">WRITES",
    ">FLUSHES",
    ">DISCARDS",
    ">READ",
    ">WRITTEN",
    ">I/OS",
    ">FAILED",
    ">REFUSED",
  ];
  const rows = vbds.map((vbd) => {
    const { name, vdev, counters: c } = vbd;
    const numbers = [c.read, c.write, c.flush + c.barrier, c.discard];
    const bytes = [c.sectorsRead, c.sectorsWritten].map((sectors) => shortBytes(sectors * 512));
    return [
      name,
      shownDomain(vbd),
      vdev,
      ...numbers.map(String),
      ...bytes,
      ...[c.ios, c.ioErrors, refusedRequests(c)].map(String),
    ];
  });
  printTable(columns(headings, rows));
}

async function watch(id: VbdId | undefined, options: StatsOptions): Promise<void> {
  const interval = options.watch === true || options.watch === undefined ? 1 : options.watch;
  let before = await sample(id, options);
  let then = performance.now();
  for (let i = 0; i < (options.count ?? Number.POSITIVE_INFINITY); i++) {
    await sleep(interval * 1000);
    const now = await sample(id, options);
    const seconds = (performance.now() - then) / 1000;
    then = performance.now();
    const rates = ratesOfAll(now, before, seconds);
    before = now;
    if (options.json) printJson({ time: new Date().toISOString(), seconds, vbds: rates });
    else printTable(rateTable(rates));
  }
}

/** One line for each vbd, behind the headings. */
export function rateTable(rates: readonly Rates[]): string[] {
  const headings = [
    "VBD",
    "DOMAIN",
    "VDEV",
    ">IOPS",
    ">READ/S",
    ">WRITE/S",
    ">LATENCY",
    ">99%",
    ">INFLIGHT",
    ">ERR/S",
  ];
  return columns(headings, rates.map(rateRow));
}

function rateRow(rate: Rates): string[] {
  const bytes = [rate.readBytes, rate.writtenBytes].map(shortBytes);
  const times = [shortTime(rate.latency), shortTime(rate.latency99)];
  return [
    rate.name,
    shownDomain(rate),
    rate.vdev,
    shortNumber(rate.iops),
    ...bytes,
    ...times,
    String(rate.inflight),
    shortNumber(rate.errors),
  ];
}

/** All vbds, or the one that is wanted, in the order of their numbers. */
export async function sample(id: VbdId | undefined, options: CommonOptions): Promise<VbdStatus[]> {
  const { vbds } = await ask<{ vbds: VbdStatus[] }>(options, { command: "list" });
  if (id === undefined) return vbds;
  const wanted = vbds.filter(({ name }) => name === vbdName(id));
  if (wanted.length > 0) return wanted;
  throw noVbd(vbdName(id));
}
