/**
 * Taking the place of a daemon that serves: it is stopped when its successor has loaded all that it needs, so that guests wait
 * for no more than the handing over (docs/restart.md).
 */
import { readFileSync } from "node:fs";
import { createConnection } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { peerOf } from "../platform/libc.js";

const RETRY_MS = 2;
const SAID_MS = 5000;

/** A process that listens at a control socket, and its user when it began to. */
export interface Listener {
  readonly pid: number;
  readonly uid: number;
}

/** The process that listens at a control socket; null when none does. Rejects when it cannot be told. */
export async function daemonAt(socket: string): Promise<number | null> {
  return (await listenerAt(socket))?.pid ?? null;
}

/** As {@link daemonAt}. */
export async function listenerAt(socket: string): Promise<Listener | null> {
  const connection = createConnection(socket);
  try {
    await new Promise<void>((resolve, reject) => connection.once("connect", resolve).once("error", reject));
    const { fd } = (connection as unknown as { _handle: { fd: number } })._handle;
    const { pid, uid } = peerOf(fd);
    if (pid > 0) return { pid, uid };
    throw new Error(`the daemon at ${socket} runs in another PID namespace: stop it there`);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ECONNREFUSED") return null;
    throw error;
  } finally {
    connection.destroy();
  }
}

/**
 * Stops the daemon that listens at a control socket, if one does, and resolves when it has ended. It is waited for as long as
 * its I/O in flight takes: to start beside it would help nobody, and its guests want a successor.
 */
export async function takePlace(socket: string, log: (line: string) => void): Promise<void> {
  const pid = await daemonAt(socket);
  if (pid === null) return;
  const begun = startOf(pid);
  process.kill(pid, "SIGTERM");
  const start = performance.now();
  for (let said = false; begun !== null && startOf(pid) === begun; await sleep(RETRY_MS)) {
    if (said || performance.now() - start < SAID_MS) continue;
    said = true;
    log(
      `xbdback: process ${pid} still waits for the I/O of its disks, and this process for it; ${killAdvice(pid)}`,
    );
  }
}

/** What to do about a daemon that does not end; see objectionTo in vbd/adoption.ts. */
export function killAdvice(pid: number): string {
  return (
    `\`kill -9 ${pid}\` loses nothing of image files and block devices, ` +
    "and closes the writable disks of NBD servers and others without a lock"
  );
}

/** When a process began, by the kernel's ticks: tells it from a later one of the same number. Null when it has ended. */
function startOf(pid: number): string | null {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return null;
  }
  // The second field may hold anything, in brackets.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [state] = fields;
  return state === "Z" || state === "X" ? null : fields[19];
}
