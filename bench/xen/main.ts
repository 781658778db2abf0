/**
 * `npm run bench:xen`: the kernel's xen-blkback, QEMU's qdisk and xbdback in one dom0 of the lab, in turn, with the same
 * guest, fio jobs and ram disk. The machine is emulated in software: the figures tell what a request costs in CPU, not
 * what disks can do.
 */
import { parseArgs } from "node:util";
import { buildLab, runInLab } from "../../test/xen/lab.js";
import { median } from "../statistics.js";

const USAGE = `npm run bench:xen -- [options]
  --repeats N  guests of each backend, default 3; one takes a minute or two
  --json       print one JSON object and nothing else on stdout`;
const SECONDS_A_REPEAT = 1200;
const OURS = "xbdback";
/** What xbdback should reach of each of the others, in every job. */
const AIMS: Record<string, number> = { blkback: 0.7, qdisk: 1 };

/** What one backend did, a value for each repeat. */
interface Peer {
  /** Requests a second, by job. */
  readonly iops: Record<string, number[]>;
  /** Of dom0, over all jobs. */
  readonly cpuSeconds: number[];
}

function parse(output: string): Map<string, Peer> {
  const peers = new Map<string, Peer>();
  let peer: Peer = { iops: {}, cpuSeconds: [] };
  for (const line of output.split("\n")) {
    const [word, first, second] = line.trim().split(" ");
    if (word === "PEER") {
      peer = peers.get(first) ?? { iops: {}, cpuSeconds: [] };
      peers.set(first, peer);
    } else if (word === "BENCH") (peer.iops[first] ??= []).push(Number(second));
    else if (word === "CPU") peer.cpuSeconds.push(Number(first) - Number(second));
  }
  return peers;
}

function table(peers: Map<string, Peer>): string {
  const ours = peers.get(OURS) as Peer;
  const others = [...peers].filter(([name]) => name !== OURS);
  const cell = (text: string): string => text.padStart(12);
  const head = [...peers.keys(), ...others.map(([name]) => `/ ${name}`)].map(cell).join("");
  let reached = 0;
  const rows = Object.entries(ours.iops).map(([job, values]) => {
    const counts = [...peers.values()].map(({ iops }) => cell(String(median(iops[job]))));
    const ratios = others.map(([name, { iops }]) => {
      const ratio = median(values) / median(iops[job]);
      if (ratio >= AIMS[name]) reached++;
      return cell(ratio.toFixed(2));
    });
    return job.padEnd(18) + [...counts, ...ratios].join("");
  });
  const cpu = [...peers.values()]
    .map(({ cpuSeconds }) => cell(`${median(cpuSeconds).toFixed(1)} s`))
    .join("");
  return [
    `Requests a second in a guest of an emulated machine (CPU costs, not disks), medians of ${ours.cpuSeconds.length}, and`,
    "the ratios of xbdback's to the others':",
    `${"".padEnd(18)}${head}`,
    ...rows,
    `${"dom0's CPU".padEnd(18)}${cpu}`,
    `${reached} of ${rows.length * others.length} aims reached (at least the IOPS of qdisk, 0.7 of xen-blkback's)`,
  ].join("\n");
}

/** Whether each peer has each job as often as asked. */
function isWhole(peers: Map<string, Peer>, repeats: number): boolean {
  return (
    [OURS, ...Object.keys(AIMS)].every((name) => peers.get(name)?.cpuSeconds.length === repeats) &&
    [...peers.values()].every(({ iops }) => Object.values(iops).every(({ length }) => length === repeats))
  );
}

const { values } = parseArgs({
  options: {
    repeats: { type: "string", default: "3" },
    json: { type: "boolean", default: false },
    help: { type: "boolean" },
  },
});
const repeats = Number(values.repeats);
if (values.help) {
  process.stdout.write(`${USAGE}\n`);
} else if (!Number.isInteger(repeats) || repeats < 1) {
  process.stderr.write(`--repeats ${values.repeats}: give a whole number from 1 on\n`);
  process.exit(2);
} else {
  buildLab();
  const { status, output } = await runInLab("bench.sh", SECONDS_A_REPEAT * repeats, {
    REPEATS: values.repeats,
  });
  const peers = parse(output);
  if (status !== 0 || !output.includes("CHECKS DONE") || !isWhole(peers, repeats)) {
    process.stderr.write(`${output}\nthe run did not get to its end: status ${status}\n`);
    process.exit(1);
  }
  process.stdout.write(`${values.json ? JSON.stringify(Object.fromEntries(peers)) : table(peers)}\n`);
}
