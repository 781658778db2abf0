/** A loopback machine that is being started, with what joins it started beside it, as in a shell script. */
import { setTimeout as sleep } from "node:timers/promises";
import { xenstoreSocket } from "../platform/loopback/host.js";
import { startMachine } from "../platform/loopback/index.js";
import { connectXenstore } from "../platform/xenstore/client.js";
import { CliError } from "./errors.js";

const PAUSE_MS = 50;
/** What is said of a wait that lasts. */
const NOTICE_MS = 1000;
/** A machine that runs makes its guests at once: one that is not there by then does not exist, as whoever joins it says. */
const GUEST_MS = 1000;

/** Resolves when a domain of the machine can be joined. Rejects with a {@link CliError} where none has come in 10 s. */
export async function machineStarted(directory: string, domid: number, patienceMs = 10_000): Promise<void> {
  const begin = performance.now();
  let running: number | null = null;
  let said = false;
  while (!(await answers(directory, domid))) {
    const now = performance.now();
    const waited = now - begin;
    if (running === null && domid !== 0 && (await answers(directory, 0))) running = now;
    if (running !== null && now - running > GUEST_MS) return;
    if (running === null && waited > patienceMs) {
      throw new CliError(`no loopback machine runs in ${directory}: ${startMachine(directory)}`);
    }
    if (waited > NOTICE_MS && !said)
      process.stderr.write(`xbdback: waiting for the machine in ${directory}\n`);
    said ||= waited > NOTICE_MS;
    await sleep(PAUSE_MS);
  }
}

/** True also where another error comes, which who joins the machine then tells. */
async function answers(directory: string, domid: number): Promise<boolean> {
  try {
    (await connectXenstore(xenstoreSocket(directory, domid))).close();
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code !== "ENOENT" && code !== "ECONNREFUSED";
  }
}
