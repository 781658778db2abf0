/** Where the journals of this daemon's rings are, and which of them is whose. */
import { createHash } from "node:crypto";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { JOURNAL_IDENTITY_BYTES, JOURNAL_VERSION } from "../../assembly/abi.js";
import { RingJournal } from "../reactor/journal.js";
import type { Start } from "../reactor/start.js";
import type { FrontendConfig } from "./frontend.js";
import { type VbdId, vbdName } from "./name.js";

/** How a ring is to be begun. */
export interface Beginning {
  readonly start: Start;
  readonly journal: RingJournal | null;
}

/** A journal that only another release can go on with. */
class JournalFormatError extends Error {}

export class Journals {
  readonly #directory: string;
  readonly #prefix: string;

  /** `directory` is there, on a file system that outlives the process and not the machine. Daemons of other kinds may share it. */
  constructor(directory: string, kind: string) {
    this.#directory = directory;
    this.#prefix = `${kind}-`;
  }

  of(id: VbdId): VbdJournals {
    return new VbdJournals(join(this.#directory, this.#prefix + vbdName(id)));
  }

  /** Rings that another process has left, or fewer. */
  get count(): number {
    return readdirSync(this.#directory).filter((file) => file.startsWith(this.#prefix)).length;
  }

  /** Removes those of vbds that are not there any more. */
  sweep(exists: (name: string) => boolean): void {
    for (const file of readdirSync(this.#directory)) {
      const name = file.slice(this.#prefix.length).replace(/\.[0-9]+$/, "");
      if (file.startsWith(`${this.#prefix}xbdback`) && !exists(name)) rmSync(join(this.#directory, file));
    }
  }
}

/** The journals of one vbd: a file for each queue. */
export class VbdJournals {
  readonly #path: string;
  /** Files of one connection may be there. */
  #some = true;

  constructor(path: string) {
    this.#path = path;
  }

  /** One for each queue of a frontend that connects. Throws where there is no room. */
  create(identities: readonly Buffer[]): Beginning[] {
    this.discard();
    this.#some = true;
    const made: RingJournal[] = [];
    try {
      for (const [queue, identity] of identities.entries())
        made.push(RingJournal.create(this.#file(queue), identity));
    } catch (error) {
      for (const journal of made) journal.remove();
      throw error;
    }
    return made.map((journal) => ({ start: "attach", journal }));
  }

  /**
   * What a process that is dead has left of these rings: for each how to go on. Null where the frontend has made other rings
   * since, and, unless `withoutAny`, where there is no journal. Throws a {@link JournalFormatError} and, while somebody else has one, an Error.
   */
  inherit(identities: readonly Buffer[], withoutAny: boolean): Beginning[] | null {
    const starts = identities.map((identity, queue) => startOf(this.#file(queue), identity));
    if (starts.includes("attach") || !(withoutAny || starts.includes("recover"))) return null;
    const taken: Beginning[] = [];
    try {
      for (const [queue, start] of starts.entries()) {
        taken.push(
          start === "recover"
            ? { start, journal: take(this.#file(queue)) }
            : this.#resume(queue, identities[queue]),
        );
      }
    } catch (error) {
      for (const { journal } of taken) journal?.release();
      throw error;
    }
    return taken;
  }

  /** Nobody is to go on with what was there. */
  discard(): void {
    if (!this.#some) return;
    this.#some = false;
    for (let queue = 0; queue < MAX_QUEUES; queue++) rmSync(this.#file(queue), { force: true });
  }

  #resume(queue: number, identity: Buffer): Beginning {
    this.#some = true;
    return { start: "resume", journal: RingJournal.create(this.#file(queue), identity) };
  }

  #file(queue: number): string {
    return `${this.#path}.${queue}`;
  }
}

/** blkif.h has no bound; we never offer more. */
export const MAX_QUEUES = 16;

/** The machine's monotonic clock, which all processes share. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

function startOf(path: string, identity: Buffer): Start {
  const header = RingJournal.header(path);
  if (header === null || !header.begun) return "resume";
  if (header.format > JOURNAL_VERSION) {
    throw new JournalFormatError(
      `${path} has format ${header.format}; this xbdback knows ${JOURNAL_VERSION}: start the one that wrote it, or a later one; the guest waits`,
    );
  }
  // A damaged one tells nothing of whose it is; the core refuses it.
  return header.intact && !identity.equals(header.identity) ? "attach" : "recover";
}

function take(path: string): RingJournal {
  const journal = RingJournal.open(path);
  if (journal === null)
    throw new Error(`${path} is locked: the daemon that serves this disk is still running`);
  return journal;
}

/**
 * What tells each ring of a frontend from every other that was or will be on this machine. Every release makes the same of
 * the same, or a guest's rings would seem made anew.
 *
 * @param vm the /vm/UUID path of the guest, or "" where it has none.
 */
export function identitiesOf(directory: string, vm: string, { abi, queues }: FrontendConfig): Buffer[] {
  return queues.map(({ ringRefs, eventChannel }, queue) => {
    const words = [directory, vm, abi, queue, queues.length, eventChannel, ringRefs.join(",")];
    const hash = createHash("sha512").update(words.join("\n")).digest();
    return hash.subarray(0, JOURNAL_IDENTITY_BYTES);
  });
}
