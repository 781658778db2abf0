/**
 * `npm run bench:xen`: the kernel's xen-blkback, QEMU's qdisk and xbdback in one dom0 of the lab, one after the other,
 * with the same guest, fio jobs and ram disk. The machine is emulated in software: the figures tell what a request costs
 * in CPU, not what disks can do.
 */
import { parseArgs } from "node:util";
import { buildLab, runInLab } from "../../test/xen/lab.js";

const USAGE = `npm run bench:xen -- [options]
  --json       print one JSON object and nothing else on stdout`;
const SECONDS = 1800;
const OURS = "xbdback";

interface Peer {
  /** Requests a second, by job. */
  readonly iops: Record<string, number>;
  /** Of dom0, over all jobs. */
  cpuSeconds: number;
}

function parse(output: string): Map<string, Peer> {
  const peers = new Map<string, Peer>();
  let peer: Peer | undefined;
  for (const line of output.split("\n")) {
    const [word, ...rest] = line.trim().split(" ");
    if (word === "PEER") peers.set(rest[0], (peer = { iops: {}, cpuSeconds: 0 }));
    else if (word === "BENCH" && peer) peer.iops[rest[0]] = Number(rest[1]);
    else if (word === "CPU" && peer) peer.cpuSeconds = Number(rest[0]) - Number(rest[1]);
  }
  return peers;
}

function table(peers: Map<string, Peer>): string {
  const ours = peers.get(OURS) as Peer;
  const others = [...peers].filter(([name]) => name !== OURS);
  const cell = (text: string): string => text.padStart(12);
  const head = [...peers.keys(), ...others.map(([name]) => `/ ${name}`)].map(cell).join("");
  const rows = Object.keys(ours.iops).map((job) => {
    const counts = [...peers.values()].map(({ iops }) => cell(String(iops[job] ?? "-")));
    const ratios = others.map(([, { iops }]) => cell((ours.iops[job] / iops[job]).toFixed(2)));
    return job.padEnd(18) + [...counts, ...ratios].join("");
  });
  const cpu = [...peers.values()].map(({ cpuSeconds }) => cell(`${cpuSeconds.toFixed(1)} s`)).join("");
  return [
    "Requests a second in a guest of an emulated machine, ratios of xbdback's to the others'; CPU costs, not disks.",
    `${"".padEnd(18)}${head}`,
    ...rows,
    `${"dom0's CPU".padEnd(18)}${cpu}`,
  ].join("\n");
}

const { values } = parseArgs({
  options: { json: { type: "boolean", default: false }, help: { type: "boolean" } },
});
if (values.help) {
  process.stdout.write(`${USAGE}\n`);
} else {
  buildLab();
  const { status, output } = await runInLab("bench.sh", SECONDS);
  const peers = parse(output);
  if (status !== 0 || !output.includes("CHECKS DONE") || peers.size !== 3) {
    process.stderr.write(`${output}\nthe run did not get to its end: status ${status}\n`);
    process.exit(1);
  }
  process.stdout.write(`${values.json ? JSON.stringify(Object.fromEntries(peers)) : table(peers)}\n`);
}
