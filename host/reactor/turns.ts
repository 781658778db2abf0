/**
 * Which rings make a pass in a turn, and how much each may take up: deficit round robin over guests. However many rings a
 * guest has in this thread, and however large its requests are, others wait for a quantum of it at most.
 *
 * A guest's credit grows by a quantum a turn. Its rings make their passes while some of it is left, and what a pass has
 * taken up is deducted, so the credit may become negative by one request: then the guest sits out until it is positive
 * again. Credit that is not used lapses; debt does not.
 */
import { MEMORY_MS } from "./activity.js";

/** What a guest's rings may take up, in the units of the core's budget. */
export interface Credit {
  segments: number;
  bytes: number;
}

/** As much as there is: nobody is charged. */
export const UNLIMITED: Credit = { segments: Number.POSITIVE_INFINITY, bytes: Number.POSITIVE_INFINITY };

/** A turn of a guest beside others: some 20 µs of grant copies, or of reads from the page cache. */
export const QUANTUM: Readonly<Credit> = { segments: 32, bytes: 128 << 10 };
/** A turn of a guest that nobody waits for: whoever comes waits for some milliseconds, once. */
export const ALONE: Readonly<Credit> = { segments: 2048, bytes: 8 << 20 };

export interface TurnRing {
  readonly domid: number;
  /** Whether it still wants a pass. */
  readonly ready: boolean;
}

interface Guest<R> {
  readonly domid: number;
  readonly credit: Credit;
  /** Rings that want a pass, in the order in which they get it. */
  readonly ready: R[];
  /** Its rings in this thread. */
  rings: number;
  /** It is among those that have a turn next. */
  waits: boolean;
}

export class Turns<R extends TurnRing> {
  readonly #guests = new Map<number, Guest<R>>();
  readonly #run: (ring: R, credit: Credit) => void;
  readonly #now: () => number;
  /** Guests that have a turn next, and those that have it now. */
  #next: Guest<R>[] = [];
  #running: Guest<R>[] = [];
  /** Who had the last turn, and when it last was another than before. */
  #last: Guest<R> | null = null;
  #changedAt = Number.NEGATIVE_INFINITY;

  /** `run` lets a ring make a pass, and deducts what it took up. */
  constructor(run: (ring: R, credit: Credit) => void, now = (): number => performance.now()) {
    this.#run = run;
    this.#now = now;
  }

  /** Whether a ring wants a pass. */
  get waiting(): boolean {
    return this.#next.length > 0;
  }

  add(domid: number): void {
    let guest = this.#guests.get(domid);
    if (guest === undefined) {
      guest = { domid, credit: { segments: 0, bytes: 0 }, ready: [], rings: 0, waits: false };
      this.#guests.set(domid, guest);
    }
    guest.rings++;
  }

  /** The ring that leaves wants no pass any more. */
  remove(domid: number): void {
    const guest = this.#guests.get(domid) as Guest<R>;
    if (--guest.rings > 0) return;
    this.#guests.delete(domid);
    if (this.#last === guest) this.#last = null;
  }

  /** The ring wants a pass. To be called once until it has had it. */
  enqueue(ring: R): void {
    const guest = this.#guests.get(ring.domid) as Guest<R>;
    guest.ready.push(ring);
    this.#wait(guest);
  }

  /** Each guest that waits has its turn; what its rings want besides has to wait for the next. */
  take(): void {
    if (this.#next.length === 0) return;
    const running = this.#next;
    this.#next = this.#running;
    this.#running = running;
    if (running.length === 1 && this.#guests.size === 1) {
      const { credit } = running[0];
      credit.segments = ALONE.segments;
      credit.bytes = ALONE.bytes;
    } else this.#grant(running, this.#isAlone(running) ? ALONE : QUANTUM);
    for (const guest of running) {
      guest.waits = false;
      this.#serve(guest);
    }
    running.length = 0;
  }

  #wait(guest: Guest<R>): void {
    if (guest.waits) return;
    guest.waits = true;
    this.#next.push(guest);
  }

  /** Whether nobody else has had a turn lately, or has one now. */
  #isAlone(running: readonly Guest<R>[]): boolean {
    const [guest] = running;
    if (running.length > 1 || guest !== this.#last) {
      this.#last = running[running.length - 1];
      this.#changedAt = this.#now();
      return false;
    }
    return this.#now() - this.#changedAt > MEMORY_MS;
  }

  /** Adds a quantum to each, up to one; where all of them would sit out, as many as it takes for one to go on. */
  #grant(running: readonly Guest<R>[], quantum: Readonly<Credit>): void {
    let turns = Number.POSITIVE_INFINITY;
    for (const { credit } of running) {
      const debt = Math.max(-credit.segments / quantum.segments, -credit.bytes / quantum.bytes, 0);
      turns = Math.min(turns, Math.floor(debt) + 1);
    }
    for (const { credit } of running) {
      credit.segments = Math.min(credit.segments + turns * quantum.segments, quantum.segments);
      credit.bytes = Math.min(credit.bytes + turns * quantum.bytes, quantum.bytes);
    }
  }

  /** Each of the guest's rings makes a pass at most, while there is credit. */
  #serve(guest: Guest<R>): void {
    const { credit, ready } = guest;
    const count = ready.length;
    let served = 0;
    while (served < count && credit.segments > 0 && credit.bytes > 0) {
      const ring = ready[served++];
      if (ring.ready) this.#run(ring, credit);
    }
    if (served === ready.length) ready.length = 0;
    else {
      ready.copyWithin(0, served);
      ready.length -= served;
      this.#wait(guest);
    }
  }
}
