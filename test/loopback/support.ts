/** What the loopback tests share: a hypervisor in a directory of its own, and other processes. */
import { type ChildProcess, fork } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { allocateMemory, type LinearMemory } from "../../host/core/memory.js";
import { addressOf } from "../../host/platform/libc.js";
import {
  Hypervisor,
  type LoopbackDomain,
  openDomain,
  runtimeParent,
} from "../../host/platform/loopback/index.js";
import type { EventChannels } from "../../host/platform/ports.js";

export const GUEST = 5;
export const GUEST_BYTES = 4 << 20;

export function temporaryDirectory(t: TestContext): string {
  const directory = mkdtempSync(join(runtimeParent(), "xbdback-test-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** A hypervisor with domains 0 and {@link GUEST}. */
export async function startHypervisor(t: TestContext): Promise<Hypervisor> {
  const hypervisor = await Hypervisor.start(temporaryDirectory(t));
  t.after(() => hypervisor.close());
  await hypervisor.createDomain(GUEST, GUEST_BYTES);
  return hypervisor;
}

export async function joinDomain(
  t: TestContext,
  { directory }: Hypervisor,
  domid: number,
): Promise<LoopbackDomain> {
  const domain = await openDomain(directory, domid);
  t.after(() => domain.close());
  return domain;
}

/** A ring's linear memory, as a backend has it. */
export function ringMemory(bytes = 1 << 20): LinearMemory {
  return allocateMemory(bytes, addressOf);
}

/** Waits until `condition` holds; throws after `ms`. */
export async function until(condition: () => boolean, what: string, ms = 60_000): Promise<void> {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`timed out: ${what}`);
    await sleep(1);
  }
}

/** Takes what is pending on a handle, unmasks it, and returns the ports. */
export function takeEvents(channels: EventChannels): number[] {
  const ports = new Uint32Array(16);
  const taken = [...ports.subarray(0, channels.read(ports))];
  for (const port of taken) channels.unmask(port);
  return taken;
}

/** A process of its own, running a role of peer.ts. It is killed when the test ends. */
export class Peer {
  readonly #child: ChildProcess;
  readonly #messages: unknown[] = [];
  readonly ended: Promise<void>;

  constructor(t: TestContext, role: string, ...args: (string | number)[]) {
    const script = fileURLToPath(new URL("./peer.js", import.meta.url));
    this.#child = fork(script, [role, ...args.map(String)]);
    this.#child.on("message", (message) => this.#messages.push(message));
    this.ended = new Promise((resolve) => this.#child.once("exit", () => resolve()));
    t.after(() => this.kill());
  }

  /** The next thing that the role says. */
  async hear<T>(): Promise<T> {
    await until(() => this.#messages.length > 0, "waiting for a message of another process");
    return this.#messages.shift() as T;
  }

  tell(message: object): void {
    this.#child.send(message);
  }

  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.ended;
  }
}
