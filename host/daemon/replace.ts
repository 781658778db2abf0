/**
 * Taking the place of a daemon that serves: it is stopped when its successor has loaded all that it needs, so that guests wait
 * for no more than the handing over (docs/restart.md).
 */
import { createConnection } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { peerOf } from "../platform/libc.js";
import { startOf } from "../platform/process-start.js";
import { control } from "./control.js";

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

/** A disk that a daemon which stops has not released, and why. */
export interface Unreleased {
  readonly name: string;
  readonly why: string;
  readonly inflight: number;
  /** Its storage does not answer. */
  readonly hangs: boolean;
}

export interface HandOver {
  readonly unreleased: readonly Unreleased[];
}

/** A daemon that was stopped and has not ended, because of these disks. */
export interface Predecessor extends HandOver {
  readonly pid: number;
}

/**
 * Stops the daemon that listens at a control socket, if one does. Resolves with null when it has ended; or, as soon as it has
 * released what it can, with what it still has: where storage hangs, the kernel keeps the process until that answers, and its
 * other disks are to be served meanwhile. Each disk has its locks, so the rest can be taken over one by one.
 */
export async function takePlace(socket: string, log: (line: string) => void): Promise<Predecessor | null> {
  const pid = await daemonAt(socket);
  if (pid === null) return null;
  const begun = startOf(pid);
  const { unreleased } = await handOver(socket);
  if (unreleased.length > 0) {
    for (const { name, why } of unreleased) log(`${name}: process ${pid} has not released it: ${why}`);
    return { pid, unreleased };
  }
  // It ends by itself, unless it is of a release that does not know the command.
  if (startOf(pid) === begun) process.kill(pid, "SIGTERM");
  const start = performance.now();
  for (let said = false; begun !== null && startOf(pid) === begun; await sleep(RETRY_MS)) {
    if (said || performance.now() - start < SAID_MS) continue;
    said = true;
    log(
      `xbdback: process ${pid} still waits for the I/O of its disks, and this process for it; ${killAdvice(pid)}`,
    );
  }
  return null;
}

/** An earlier release refuses, and what ends does not always answer: both have released nothing that is known of. */
async function handOver(socket: string): Promise<HandOver> {
  return control<HandOver>(socket, { command: "handover" }).catch(() => ({ unreleased: [] }));
}

/** What to do about a daemon that does not end; see objectionTo in vbd/adoption.ts. */
export function killAdvice(pid: number): string {
  return (
    `\`kill -9 ${pid}\` loses nothing of image files, block devices and the disks of helpers, ` +
    "and closes the writable disks of vhost-user servers and others without a lock"
  );
}
