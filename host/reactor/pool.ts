/**
 * Serves rings in reactor threads, each ring in the one that has the fewest; other disks' rings in this thread. A guest's
 * rings are in as many threads as the operator has said; where that is more than one, there is one thread more for those
 * of others, so that no guest is in all of them.
 */
import { coreModule } from "../core/load.js";
import { openDomain, type Platform } from "../platform/platform.js";
import { Activity } from "./activity.js";
import { LocalRingHost } from "./local.js";
import type { EngineName, ReactorSettings } from "./messages.js";
import type { AttachedRing, AttachOptions, ReactorStatus, RingHost } from "./ring-host.js";
import { ReactorThread, type ThreadDisk } from "./thread.js";

export interface PoolOptions extends Pick<ReactorSettings, "engine" | "pollUs"> {
  readonly platform: Platform;
  /** Threads for the rings of one guest at most; they are started as rings come. */
  readonly reactors: number;
  /** A line for the operator. */
  readonly log: (line: string) => void;
  /** A thread ended by itself, and its rings with it. */
  readonly onFailure: (error: Error) => void;
}

interface Member {
  readonly thread: ReactorThread;
  engine: EngineName;
}

export class ReactorPool implements RingHost {
  readonly #options: PoolOptions;
  readonly #members: Member[] = [];
  readonly #activity = new Activity();
  #local: Promise<{ host: LocalRingHost; close: () => Promise<void> }> | null = null;
  #localPages = (): number => 0;
  #told = false;
  /** A thread could not start: those that are there serve. */
  #complete = false;

  private constructor(options: PoolOptions) {
    this.#options = options;
  }

  /** Starts the first thread. Rejects when that cannot be. */
  static async start(options: PoolOptions): Promise<ReactorPool> {
    const pool = new ReactorPool(options);
    const first = pool.#add();
    // Rings in this thread, too, have the core of this release, whatever lies there when they come.
    coreModule();
    await first.started;
    return pool;
  }

  get mappedPages(): number {
    const pages = this.#members.reduce((sum, { thread }) => sum + thread.statistics.mappedPages, 0);
    return pages + this.#localPages();
  }

  get threads(): ReactorStatus[] {
    return this.#members.map(({ thread, engine }) => ({ engine, rings: thread.rings, ...thread.statistics }));
  }

  /** So many rings are about to come: starts the threads that are for them. Resolves when these are there. */
  async prepare(rings: number): Promise<void> {
    const wanted = Math.min(rings, this.#options.reactors);
    while (this.#members.length < wanted) this.#add();
    await Promise.allSettled(this.#members.map(({ thread }) => thread.started));
  }

  async attach(options: AttachOptions): Promise<AttachedRing> {
    const disk = await this.#threadDisk(options);
    if (disk === null) return (await this.#here()).attach(options);
    for (;;) {
      const thread = this.#choose(options.config.domid);
      try {
        return await thread.attach(options, disk);
      } catch (error) {
        const there = this.#members.length === 0 || this.#members.some((member) => member.thread === thread);
        if (!there) continue;
        await disk.release?.();
        throw error;
      }
    }
  }

  async answers(): Promise<void> {
    // One that is about to start will answer.
    await Promise.all(this.#members.map(({ thread }) => thread.answers()));
  }

  async close(): Promise<void> {
    await Promise.all(this.#members.map(({ thread }) => thread.close()));
    if (this.#local) await (await this.#local).close();
  }

  /** Null where only this thread can reach the disk. */
  async #threadDisk({ device, rings = 1 }: AttachOptions): Promise<ThreadDisk | null> {
    const disk = (store: ThreadDisk["store"], release?: ThreadDisk["release"]): ThreadDisk => ({
      store,
      ...(release && { release }),
      get size() {
        return device.size;
      },
    });
    if (device.store !== undefined) return disk(device.store);
    // Threads without io_uring cannot wait for a server.
    if (this.#members[0]?.engine !== "io_uring") return null;
    const lease = await device.takeQueue?.(rings);
    return lease ? disk(lease.store, () => lease.release()) : null;
  }

  /** Threads at most. */
  get #most(): number {
    const { reactors } = this.#options;
    return reactors > 1 ? reactors + 1 : 1;
  }

  #choose(domid: number): ReactorThread {
    const all = this.#members.map(({ thread }) => thread);
    const its = all.filter((thread) => thread.serves(domid));
    const full = its.length >= this.#options.reactors;
    const threads = full ? its : all;
    const least = threads.reduce((a, b) => (b.rings < a.rings ? b : a));
    if (full || least.rings === 0 || this.#complete || all.length >= this.#most) return least;
    return this.#add();
  }

  #add(): ReactorThread {
    const { platform, engine, pollUs, onFailure, log } = this.#options;
    const thread = new ReactorThread(
      { platform, engine, pollUs, activity: this.#activity.buffer },
      onFailure,
    );
    const member: Member = { thread, engine: "libuv" };
    this.#members.push(member);
    thread.started.then(
      (started) => {
        member.engine = started.engine;
        if (started.missing === null || this.#told) return;
        this.#told = true;
        log(`xbdback: no io_uring here (${started.missing}): I/O goes through libuv's thread pool`);
      },
      (error: Error) => this.#doWithout(member, error),
    );
    return thread;
  }

  /** A thread could not start. Whoever waits for the first one hears why. */
  #doWithout(member: Member, { message }: Error): void {
    this.#members.splice(this.#members.indexOf(member), 1);
    if (this.#members.length === 0 || this.#complete) return;
    this.#complete = true;
    this.#options.log(
      `xbdback: cannot start a reactor thread (${message}): rings go to the existing ones; \`xbdback upgrade\` restarts them`,
    );
  }

  async #here(): Promise<LocalRingHost> {
    this.#local ??= (async () => {
      const domain = await openDomain(this.#options.platform);
      const host = new LocalRingHost(await domain.eventChannels(), await domain.grantTable(), this.#activity);
      this.#localPages = () => host.mappedPages;
      return {
        host,
        async close() {
          await host.close();
          await domain.close();
        },
      };
    })();
    return (await this.#local).host;
  }
}
