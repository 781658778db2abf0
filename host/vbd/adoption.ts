/**
 * Going on with a frontend that another process of ours has left connected, killed or stopped (docs/restart.md). What is in
 * xenstore stays as it is: the guest is to see a pause and nothing else.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Xenstore, XenstoreError } from "../platform/ports.js";
import { XenbusState as State, type XenbusState } from "../platform/xenbus-state.js";
import { RingError } from "../reactor/start.js";
import type { BlockDevice } from "../storage/device.js";
import { isBusy } from "../storage/open.js";
import { DEVICE_KEYS } from "./backend-keys.js";
import { type AssumedProtocol, type FrontendConfig, readFrontend } from "./frontend.js";
import { type Beginning, identitiesOf, MAX_QUEUES, type VbdJournals } from "./journals.js";

/** The store of a process that is dead is its own until its last I/O has ended. */
const BUSY_MS = 10_000;
const BUSY_SAID_MS = 1000;
const MAX_BUSY_RETRY_MS = 64;
/** What any of our releases may have offered. */
const WIDEST = { maxQueues: MAX_QUEUES, maxRingPageOrder: 4 };

export interface AdoptionOptions {
  readonly xenstore: Xenstore;
  /** Null where none are kept. */
  readonly journals: VbdJournals | null;
  /** The frontend's. */
  readonly domid: number;
  /** Backend and frontend. */
  readonly directory: string;
  readonly frontend: string;
  readonly assumedProtocol: AssumedProtocol;
}

/** What there is to go on with. */
export interface Orphan {
  readonly config: FrontendConfig;
  readonly beginnings: readonly Beginning[];
  /** What the frontend was told of its disk. */
  readonly told: Record<string, string>;
  /** The errno of an fdatasync that failed for the process before, or 0. */
  readonly flushErrno: number;
  /** When it was handed over, by {@link monotonicMs}; 0 when the process was killed. */
  readonly since: number;
  /** The process before has waited for all that it had sent to the store, and closed it. */
  readonly settled: boolean;
}

export class Adoption {
  readonly #options: AdoptionOptions;
  #orphan: Orphan | null = null;
  #over = false;

  constructor(options: AdoptionOptions) {
    this.#options = options;
  }

  /**
   * Whether there is a frontend to go on with; {@link take} follows when its store is open. Once false, always false. Rejects
   * with why that cannot be told yet, and the guest waits.
   */
  async pends(ours: XenbusState, theirs: XenbusState): Promise<boolean> {
    const { journals } = this.#options;
    if (this.#over) return false;
    const atWork = theirs >= State.InitWait && theirs <= State.Closing;
    if (journals && atWork && (ours === State.Connected || ours === State.Closing)) {
      this.#orphan ??= await this.#find(journals, ours);
      if (this.#orphan) return true;
    }
    this.end();
    return false;
  }

  /** There is a frontend to go on with, whose process did not live to see all its answers. */
  get unsettled(): boolean {
    return this.#orphan !== null && !this.#orphan.settled;
  }

  /** What was found, for a connection to take over. If that fails, it is to be found again. */
  take(): Orphan {
    const orphan = this.#orphan as Orphan;
    this.#orphan = null;
    return orphan;
  }

  /** This process has released the frontend, and is to go on with it. */
  again(): void {
    this.#over = false;
  }

  /** Nothing is to be adopted any more. */
  end(): void {
    this.#over = true;
    for (const { journal } of this.#orphan?.beginnings ?? []) journal?.release();
    this.#orphan = null;
  }

  async #find(journals: VbdJournals, ours: XenbusState): Promise<Orphan | null> {
    const { xenstore, directory, frontend, assumedProtocol } = this.#options;
    const offer = { ...WIDEST, backend: directory, assumedProtocol };
    const [config, ...values] = await Promise.all([
      readFrontend(xenstore, frontend, offer),
      ...DEVICE_KEYS.map((key) => xenstore.read(`${directory}/${key}`)),
    ]);
    const told: Record<string, string> = {};
    for (const [i, key] of DEVICE_KEYS.entries()) {
      const value = values[i];
      if (value !== null) told[key] = value;
    }
    const beginnings = journals.inherit(await this.identities(config), ours === State.Connected);
    if (beginnings === null) return null;
    const rings = beginnings.flatMap(({ start, journal }) =>
      start === "recover" && journal ? [journal] : [],
    );
    const flushErrno = Math.max(0, ...rings.map((journal) => journal.flushErrno));
    const since = Math.max(0, ...rings.map((journal) => journal.handedOver));
    // A ring without a journal says nothing.
    const settled = rings.length === beginnings.length && rings.every((journal) => journal.settled);
    return { config, beginnings, told, flushErrno, since, settled };
  }

  async identities(config: FrontendConfig): Promise<Buffer[]> {
    const { xenstore, domid, directory } = this.#options;
    const vm = await xenstore.read(`/local/domain/${domid}/vm`).catch((error: unknown) => {
      // A driver domain may not read it.
      if (error instanceof XenstoreError) return null;
      throw error;
    });
    return identitiesOf(directory, vm ?? "", config);
  }
}

/**
 * Why a store cannot be gone on with. Either what was written ended with the process before. Or that did not live to see all
 * its answers, and nobody can tell when a server has ended the last write that it was sent: done after newer ones, it would
 * spoil them.
 */
export function objectionTo(device: BlockDevice, { settled }: Orphan): RingError | null {
  if (device.volatile && !device.readOnly) {
    return new RingError(
      `${device.name}: the guest's written data ended with the previous daemon; the disk is closed`,
    );
  }
  if (device.fenced !== false || device.readOnly || settled) return null;
  return new RingError(
    `${device.name}: the previous daemon was killed or its drain timed out, and the server may still carry out its writes; the disk is closed`,
  );
}

/** A flush that failed for the process before has failed for good: see RawDevice. */
export function inheritFlushErrno(device: BlockDevice, errno: number): void {
  if (errno !== 0) device.flushErrno = errno;
}

/**
 * The fence: opens a store as soon as the kernel has ended the last I/O of the process before, which keeps the locks until
 * then. Rejects, with who has it, after ten seconds; `say` gets a line after one.
 */
export async function openWhenFree(
  open: () => Promise<BlockDevice>,
  say: (line: string) => void,
  until = "the I/O of the previous process has ended",
): Promise<BlockDevice> {
  const start = performance.now();
  let said = false;
  for (let delay = 2; ; delay = Math.min(2 * delay, MAX_BUSY_RETRY_MS)) {
    try {
      return await open();
    } catch (error) {
      if (!isBusy(error)) throw error;
      const waited = performance.now() - start;
      if (waited > BUSY_MS) throw error;
      if (waited > BUSY_SAID_MS && !said) {
        said = true;
        say(`${error.message}; the guest waits until ${until}`);
      }
      await sleep(delay);
    }
  }
}

/** For the operator. */
export function adoptionMessage({ beginnings }: Orphan, handoverMs: number | null): string {
  const journals = beginnings.filter(({ start }) => start === "recover").length;
  const pause =
    handoverMs !== null
      ? `after a pause of ${handoverMs.toFixed(0)} ms`
      : `${(process.uptime() * 1000).toFixed(0)} ms after this process began`;
  const rings =
    journals === beginnings.length ? "" : ` (${beginnings.length - journals} rings without a journal)`;
  return `taken over${rings} ${pause}`;
}
