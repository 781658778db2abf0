/** The table on the terminal. */
import type { Measured } from "../statistics.js";
import type { Aim } from "./aims.js";
import type { AnswerResult } from "./answers.js";
import { COMMANDS, type HungResult } from "./hung.js";
import type { IdleResult } from "./idle-images.js";
import type { GoodResult, NeighbourResult } from "./neighbours.js";
import type { ContestantResult, RowResult, ScaleResult } from "./results.js";
import { isImage } from "./rows.js";

const MIB = 1 << 20;

const COLUMNS = [
  ["", 12],
  ["IOPS", 10],
  ["range", 18],
  ["MB/s", 8],
  ["of fio", 8],
  ["range", 12],
  ["p50 µs", 9],
  ["p99", 8],
  ["p99.9", 8],
  ["client", 8],
  ["server", 8],
] as const;

const whole = (value: number): string => Math.round(value).toLocaleString("en-US");
const micro = (nanoseconds: number): string => {
  const value = nanoseconds / 1000;
  return value >= 1000 ? whole(value) : value.toFixed(1);
};
const range = ({ min, max }: Measured, format: (value: number) => string): string =>
  `${format(min)}-${format(max)}`;
const two = (value: number): string => value.toFixed(2);

function line(cells: readonly string[]): string {
  return cells
    .map((cell, i) => (i === 0 ? cell.padEnd(COLUMNS[i][1]) : cell.padStart(COLUMNS[i][1])))
    .join("");
}

function contestantLine(name: string, result: ContestantResult): string {
  const { iops, megabytesPerSecond, ratioToFio, latency, clientCpu, serverCpu } = result;
  return line([
    `  ${name}`,
    whole(iops.median),
    range(iops, whole),
    whole(megabytesPerSecond.median),
    ratioToFio ? two(ratioToFio.median) : "-",
    ratioToFio ? range(ratioToFio, two) : "-",
    micro(latency.p50),
    micro(latency.p99),
    micro(latency.p999),
    two(clientCpu.median),
    serverCpu ? two(serverCpu.median) : "-",
  ]);
}

export function head(): string {
  return line(COLUMNS.map(([name]) => name));
}

export function rowLines({ name, disk, contestants, left, syscalls, compared }: RowResult): string {
  const lines = [name, ...Object.entries(contestants).map(([who, result]) => contestantLine(who, result))];
  const { notifications } = contestants["xbdback"];
  const counts: string[] = [];
  if (notifications)
    counts.push(`notifications ${two(notifications.received)} in, ${two(notifications.sent)} out`);
  if (syscalls)
    counts.push(
      `system calls ${two(syscalls.backend)} (io_uring_enter ${two(syscalls.backendEnters)}), guest ${two(syscalls.guest)}`,
    );
  if (isImage(disk) || disk === "rbd") lines.push(`  xbdback to ${comparisons(compared)}`);
  if (counts.length > 0) lines.push(`  a request of xbdback: ${counts.join("; ")}`);
  for (const [who, reason] of Object.entries(left)) lines.push(`  no ${who}: ${reason}`);
  return lines.join("\n");
}

function comparisons(compared: RowResult["compared"]): string {
  return Object.entries(compared)
    .filter(([who]) => who !== "fio")
    .map(([who, { ratio, added }]) => {
      const latency = `p50 ${(added.median / 1000).toFixed(1)} µs more`;
      return `${who}'s: ${two(ratio.median)} (${range(ratio, two)}), ${latency}`;
    })
    .join("; to ");
}

export function idleLines({ name, memoryPerVbd: { daemon, helper } }: IdleResult): string {
  const parts = `${two(daemon / MIB)} of the daemon, ${two(helper / MIB)} of its helper`;
  return `${name}\n  memory of an idle vbd ${two((daemon + helper) / MIB)} MiB PSS: ${parts}`;
}

export function scaleLines(scale: ScaleResult): string {
  const { name, memoryPerVbd, attach, loads } = scale;
  return [
    name,
    `  memory of an idle vbd ${two(memoryPerVbd.pss / MIB)} MiB PSS, ${two(memoryPerVbd.rss / MIB)} MiB RSS`,
    `  attach ${attach.median.toFixed(1)} ms (median), ${attach.max.toFixed(1)} ms (longest)`,
    ...loads.map(
      ({ depth, iops, serverCpu }) =>
        `  all together ${whole(iops.median)} IOPS (${range(iops, whole)}) at depth ${depth} each; ` +
        `server ${two(serverCpu.median)} CPU s for 100k`,
    ),
  ].join("\n");
}

export const answerLines = ({ name, answer }: AnswerResult): string =>
  `${name}\n  answer to the hotplug script after ${two(answer.median)} ms (${range(answer, two)})`;

export const leftLines = (name: string, reason: string): string => `${name}\n  left out: ${reason}`;

/** The good guest's; `what` is beside it. */
function goodLines(result: GoodResult, what: string): string[] {
  const { aloneIops, fairIops, besideIops, share, aloneP99, fairP99, besideP99 } = result;
  const one = (what: string, iops: Measured, p99: number, more = ""): string =>
    `  ${what.padEnd(20)}${whole(iops.median).padStart(8)} IOPS (${range(iops, whole)}), p99 ${two(p99)} ms${more}`;
  const kept = `; ${two(share.median)} of its fair share (${range(share, two)})`;
  return [
    one("alone", aloneIops, aloneP99),
    one("beside its like", fairIops, fairP99),
    one(`beside ${what}`, besideIops, besideP99.median, kept),
  ];
}

export function neighbourLines(result: NeighbourResult): string {
  const { name, neighbourRate, fioShare } = result;
  const rate = `  the neighbour: ${whole(neighbourRate.median)} requests a second`;
  const fio =
    fioShare && `  fio in its place: ${two(fioShare.median)} of its own fair share (${range(fioShare, two)})`;
  return [name, ...goodLines(result, "the neighbour"), rate, ...(fio ? [fio] : [])].join("\n");
}

export function hungLines(result: HungResult): string {
  const times = COMMANDS.map((command) => `${command} ${whole(result.commands[command].max)}`);
  const commands = `  meanwhile, the slowest of the repeats in ms: ${times.join(", ")}`;
  return [result.name, ...goodLines(result, "hung storage"), commands].join("\n");
}

function aimLine({ row, what, unit, atLeast, atMost, value, min, max, reached }: Aim): string {
  const limit = atLeast === undefined ? `≤ ${atMost}` : `≥ ${atLeast}`;
  const spread = min === undefined || max === undefined ? "" : ` (${two(min)}-${two(max)})`;
  const verdict = reached ? "reached    " : "not reached";
  return `${verdict}  ${row.padEnd(28)} ${what}: ${two(value)}${spread}${unit && ` ${unit}`}, aim ${limit}`;
}

export function aimLines(aims: readonly Aim[]): string {
  const reached = aims.filter((aim) => aim.reached).length;
  return [...aims.map(aimLine), `${reached} of ${aims.length} aims reached`].join("\n");
}

export const EXPLANATION = `
direct   O_DIRECT; warm: through the page cache, which holds the file; 4queues: rings; copy: no persistent grants; apart, poll30: see docs/bench.md
nbd      behind the vbd there is a qemu-nbd
images   behind it there is a qemu-storage-daemon with a raw image, a qcow2 image, an overlay half filled; warm
ceph     behind it there is an image in a cluster of one OSD on this machine; fio-rbd: fio's rbd engine on another image there
vhost    a plain client in C of the same qemu-storage-daemon, of its second socket (vhost.c)
fio      io_uring on the file itself, one job, up to the whole depth in a system call: the limit
fio-single  the same, one I/O in a system call: fio without options
fio-fixed, fio-shm  fio with registered buffers, and with buffers in pages like a loopback guest's
qemu-nbd, nbdkit  on the same file, over a Unix socket, with fio's NBD client (C, libnbd)
traced, recorded  xbdback, while \`xbdback trace\` or \`xbdback record\` looks at the ring
xbdback  a guest process and a backend process; qd1: everything on one CPU
neighbours  a good guest, at depth 1 or qd32, beside one that takes all it can get; fair share: beside one that does the same
hung     beside a guest whose storage does not answer; list, show, attach and detach while it does not
of fio   median and range of the repeats' ratios; client, server: CPU seconds for 100,000 I/Os
`;
