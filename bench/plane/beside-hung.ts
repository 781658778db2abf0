/**
 * What a good guest keeps while another's storage hangs: in each repeat it is measured alone, beside a guest that does the
 * same (its fair share), and then while the other's requests are in flight and their server does not answer. What the
 * operator does meanwhile is timed afterwards, so that it takes no CPU from the guest.
 */
import { execFile } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { program } from "../../host/cli/child.js";
import { vbdName } from "../../host/vbd/name.js";
import { GOOD, GoodGuest, type NeighbourProcess } from "./good-guest.js";
import { COMMANDS, type Command, HUNG_SETUP, type HungRow, type HungSamples } from "./hung.js";
import { type HungStorage, startHungStorage } from "./hung-storage.js";
import type { Plan } from "./measure.js";
import { type Run, SAME } from "./neighbours.js";

/** No response for so long, with requests in flight: it hangs. */
const QUIET_MS = 250;
const STUCK_MS = 20_000;
const COMMAND_MS = 60_000;

export async function measureHung(row: HungRow, plan: Plan): Promise<HungSamples> {
  const guest = await GoodGuest.start(HUNG_SETUP, plan);
  let storage: HungStorage | null = null;
  try {
    storage = await startHungStorage(row.kind, guest, plan.scratch);
    const same = await guest.neighbour(SAME, (await guest.image(SAME, "file")).target);
    const hung = await guest.neighbour("hung", storage.target);
    const healthy = (await guest.image("healthy", "file")).path;
    await guest.warmUp();
    const [alone, fair, beside]: [Run[], Run[], Run[]] = [[], [], []];
    const commands: Record<Command, number[]> = { list: [], show: [], attach: [], detach: [] };
    for (let repeat = 0; repeat < plan.repeats; repeat++) {
      alone.push(await guest.run(1));
      fair.push((await same.beside(() => guest.run(1))).result);
      const whileHung = async (): Promise<void> => {
        beside.push(await guest.run(1));
        const times = await commandTimes(guest, hung, healthy);
        for (const command of COMMANDS) commands[command].push(times[command]);
      };
      await hung.beside(() => hanging(guest, hung, storage!.pid, whileHung));
    }
    return { row, alone, fair, beside, commands };
  } finally {
    await guest.stop();
    await storage?.stop();
    guest.removeImages();
  }
}

/** Runs `work` while the server of the neighbour's disk is stopped. */
async function hanging(
  { machine }: GoodGuest,
  { domid }: NeighbourProcess,
  server: number | null,
  work: () => Promise<void>,
): Promise<void> {
  const pid = server ?? (await machine.helperPid(domid));
  if (pid === null) throw new Error("the disk has no process that could be stopped");
  process.kill(pid, "SIGSTOP");
  try {
    const end = Date.now() + STUCK_MS;
    for (let before = -1; ; ) {
      const { counters, inflight } = await machine.statusOf(domid);
      if (inflight > 0 && counters.responses === before) break;
      if (Date.now() > end) throw new Error("the disk does not hang, although its server is stopped");
      before = counters.responses;
      await sleep(QUIET_MS);
    }
    await work();
  } finally {
    process.kill(pid, "SIGCONT");
  }
}

/** Milliseconds of each. */
async function commandTimes(
  { machine }: GoodGuest,
  { domid, devid }: NeighbourProcess,
  image: string,
): Promise<Record<Command, number>> {
  const words: Record<Command, string[]> = {
    list: [],
    show: [vbdName({ domid, devid })],
    attach: [String(GOOD), `${image},raw,xvdb,rw`],
    detach: [`${GOOD}/xvdb`],
  };
  const times: Partial<Record<Command, number>> = {};
  for (const command of COMMANDS) {
    const args = [program, command, ...words[command], "--directory", machine.directory];
    const start = performance.now();
    // Not execFileSync: this process has the machine's xenstore.
    await promisify(execFile)(process.execPath, args, { timeout: COMMAND_MS });
    times[command] = performance.now() - start;
  }
  return times as Record<Command, number>;
}
