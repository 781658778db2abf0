/**
 * Every interleaving of one guest and the real core on a ring, at the grain of single accesses to the shared indices.
 *
 * A run follows a list of choices, who moves next, and goes on with the first choice where the list ends; what it could
 * have chosen there is run later. A state that was seen before ends the run. The core is deterministic, so where it stood
 * when its step began and what it has loaded since say all there is to know about it.
 */
import * as abi from "../../assembly/abi.js";
import { Harness } from "./harness.js";
import { watched } from "./instrument.js";
import { encodeRequest } from "./wire.js";

const [REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT] = [
  abi.SRING_REQ_PROD >> 2,
  abi.SRING_REQ_EVENT >> 2,
  abi.SRING_RSP_PROD >> 2,
  abi.SRING_RSP_EVENT >> 2,
];
/** An operation that is answered at once. */
const UNKNOWN = 4;

export interface Plan {
  /** Both indices begin here. */
  readonly start: number;
  /** Requests in all, and on the ring at once: the guest treats it as if it had so many entries. */
  readonly total: number;
  readonly window: number;
  /** Requests that a pass of the core takes. */
  readonly batch: number;
  /** "xbf" is OpenBSD's: it asks for a response after the request is on the ring, and never looks again. */
  readonly frontend?: "ring.h" | "xbf";
  /** The host may also look for requests when there was no event. */
  readonly polls?: boolean;
  /** The host keeps its duty to call idle(). */
  readonly callsIdle?: boolean;
}

export interface Explored {
  readonly states: number;
  readonly runs: number;
  /** Runs in which idle() asked for a notification. */
  readonly extra: number;
}

/** Ends a run that need not go on: what follows has been seen. One for all, because making them takes long. */
const SEEN = new Error("seen before");

/** A run that is wrong, with the moves that led there. */
export class Lost extends Error {}

type GuestState = "push" | "pushed" | "look" | "arm" | "check" | "asleep";

/** ring.h's frontend, one access to a shared index a move. It sleeps when it can neither push nor find a response. */
class Frontend {
  state: GuestState = "push";
  produced: number;
  consumed: number;
  /** Its event channel, and the backend's. */
  event = false;
  backendEvent = false;
  #old = 0;
  readonly #plan: Plan;
  protected readonly ring: Uint32Array;

  constructor(plan: Plan, ring: Uint32Array) {
    this.#plan = plan;
    this.ring = ring;
    this.produced = this.consumed = plan.start;
  }

  get room(): number {
    const sent = (this.produced - this.#plan.start) >>> 0;
    const free = this.#plan.window - ((this.produced - this.consumed) >>> 0);
    return Math.min(free, this.#plan.total - sent);
  }

  get done(): boolean {
    return (this.consumed - this.#plan.start) >>> 0 === this.#plan.total;
  }

  /** How many different moves it can make now: it may push any number of requests at once. */
  get moves(): number {
    if (this.state === "asleep") return this.event ? 1 : 0;
    return this.state === "push" ? Math.max(this.room, 1) : 1;
  }

  get key(): string {
    const { state, produced, consumed, event, backendEvent } = this;
    return [state, produced, consumed, event, backendEvent, this.#old].join();
  }

  /** Nothing but an event makes it look, and there is none. */
  get sleeps(): boolean {
    return this.state === "asleep" && !this.event;
  }

  move(choice: number): void {
    const { ring } = this;
    if (this.state === "push" && this.room > 0) {
      this.#old = this.produced;
      this.produced = (this.produced + choice + 1) >>> 0;
      ring[REQ_PROD] = this.produced;
      this.state = "pushed";
    } else if (this.state === "push") this.state = "look";
    else if (this.state === "pushed") {
      // RING_PUSH_REQUESTS_AND_CHECK_NOTIFY.
      if ((this.produced - ring[REQ_EVENT]) >>> 0 < (this.produced - this.#old) >>> 0)
        this.backendEvent = true;
      this.state = "look";
    } else if (this.state === "look" || this.state === "check") {
      const found = ring[RSP_PROD] !== this.consumed;
      this.consumed = ring[RSP_PROD];
      if (found) this.state = this.room > 0 ? "push" : "look";
      else if (this.state === "look") this.state = "arm";
      else this.state = this.room > 0 ? "push" : "asleep";
    } else if (this.state === "arm") {
      // RING_FINAL_CHECK_FOR_RESPONSES: asks, then looks again.
      ring[RSP_EVENT] = this.consumed + 1;
      this.state = "check";
    } else {
      this.event = false;
      this.state = "look";
    }
  }
}

/** OpenBSD's xbf(4): one request at a time, each announced, with rsp_event written after req_prod. */
class Xbf extends Frontend {
  override get moves(): number {
    return Math.min(super.moves, 1);
  }

  override move(): void {
    const { ring, room } = this;
    if (this.state === "push" && room > 0) {
      this.produced = (this.produced + 1) >>> 0;
      ring[REQ_PROD] = this.produced;
      this.state = "arm";
    } else if (this.state === "arm") {
      ring[RSP_EVENT] = this.produced;
      this.state = "pushed";
    } else if (this.state === "pushed") {
      this.backendEvent = true;
      this.state = "push";
    } else if (this.state === "push") {
      this.state = "asleep";
    } else if (this.state === "asleep") {
      this.event = false;
      this.state = "look";
    } else {
      this.consumed = ring[RSP_PROD];
      this.state = "push";
    }
  }
}

export class Explorer {
  readonly #plan: Plan;
  readonly #harness: Harness;
  readonly #exports: Record<string, (n?: number) => number>;
  readonly #seen = new Set<string>();
  readonly #pending: number[][] = [[]];
  #guest!: Frontend;
  #choices: readonly number[] = [];
  #made: number[] = [];
  /** Where the core stood when its step began, and what it has loaded since. */
  #loaded: number[] = [];
  /** rsp_event as the core has loaded it last, which it remembers, and whether the guest slept then. */
  #eventSeen = 0;
  #slept = false;
  /** req_cons when the event came that the host is busy with. */
  #heardAt: number | null = null;
  /** Of this run. */
  #events = 0;
  #extra = 0;

  constructor(module: WebAssembly.Module, plan: Plan) {
    this.#plan = plan;
    this.#harness = new Harness({ startIndex: plan.start, batch: plan.batch, disk: false });
    const access = (at: number): void => {
      if (at < abi.SRING_ENTRIES) this.#beforeAccess(at);
    };
    this.#exports = watched(module, this.#harness, abi.SRING, access, access);
  }

  /** Runs everything that can happen. Throws a Lost. */
  explore(): Explored {
    let runs = 0;
    let extra = 0;
    for (let next = this.#pending.pop(); next; next = this.#pending.pop(), runs++) {
      try {
        this.#run(next);
      } catch (error) {
        if (error !== SEEN) throw error;
      }
      if (this.#extra > 0) extra++;
    }
    this.#harness.release();
    return { states: this.#seen.size, runs, extra };
  }

  get #ring(): Uint32Array {
    return this.#harness.memory.u32;
  }

  #run(choices: readonly number[]): void {
    const { start, total, window } = this.#plan;
    this.#choices = choices;
    this.#made = [];
    this.#loaded = [];
    this.#events = this.#extra = 0;
    this.#heardAt = null;
    this.#guest = new (this.#plan.frontend === "xbf" ? Xbf : Frontend)(this.#plan, this.#ring);
    const entry = encodeRequest("x86_64", { operation: UNKNOWN, id: 7n, sector: 0n });
    for (let i = 0; i < Math.max(total, window); i++)
      this.#harness.memory.u8.set(entry, abi.SRING_ENTRIES + (((start + i) >>> 0) & 31) * entry.length);
    this.#ring.set([start, start + 1, start, start + 1], REQ_PROD);
    this.#attach();
    this.#play();
  }

  /** Without a turn for the guest. */
  #attach(): void {
    const guest = this.#guest;
    this.#guest = null as unknown as Frontend;
    this.#eventSeen = 0;
    const code = this.#exports.attach();
    this.#guest = guest;
    if (code !== abi.ATTACH_OK) throw new Error(`attach() is ${code}`);
  }

  /** The backend's host: a pass at the beginning, and whenever its event channel has fired. */
  #play(): void {
    this.#pass();
    for (;;) {
      const guest = this.#guest;
      const acts = guest.backendEvent ? [this.#hear] : [];
      if (this.#plan.polls === true && this.#ring[REQ_PROD] !== this.#reqCons) acts.push(this.#pass);
      if (acts.length === 0) {
        if (!this.#turn("asleep", false)) return;
        continue;
      }
      // A host that polls may be late to hear an event.
      const choice = this.#plan.polls === true ? this.#choose("awake", acts.length + guest.moves) : 0;
      if (choice < acts.length) acts[choice].call(this);
      else guest.move(choice - acts.length);
    }
  }

  #hear(): void {
    this.#guest.backendEvent = false;
    this.#events++;
    this.#heardAt = this.#reqCons;
    this.#pass();
    if (this.#plan.callsIdle !== false && this.#reqCons === this.#heardAt) this.#idle();
    this.#heardAt = null;
  }

  get #reqCons(): number {
    return this.#ring[abi.OUT_REQ_CONS >> 2];
  }

  #pass(): void {
    for (let more = true; more; ) {
      this.#loaded = [this.#reqCons, this.#ring[abi.OUT_RSP_PROD >> 2]];
      const published = this.#ring[RSP_PROD];
      const flags = this.#exports.step(0);
      more = (flags & abi.STEP_MORE) !== 0;
      // The host is in no hurry to notify.
      this.#turns(`stepped ${flags}`);
      if (!(flags & abi.STEP_NOTIFY)) continue;
      if (this.#ring[RSP_PROD] === published) throw new Lost(this.#story("a notification of nothing"));
      this.#guest.event = true;
    }
    this.#loaded = [];
  }

  #idle(): void {
    this.#loaded = [this.#reqCons];
    const before = this.#eventSeen;
    const flags = this.#exports.idle();
    this.#turns(`idle ${flags} ${this.#slept}`);
    this.#loaded = [];
    if (!(flags & abi.STEP_NOTIFY)) return;
    if (this.#slept && this.#plan.frontend !== "xbf")
      throw new Lost(this.#story("a frontend that has looked is woken for nothing"));
    if (this.#eventSeen === before) throw new Lost(this.#story("a second notification for one rsp_event"));
    if (++this.#extra > this.#events) throw new Lost(this.#story("more notifications than events"));
    this.#guest.event = true;
  }

  #beforeAccess(at: number): void {
    if (!this.#guest) return;
    this.#turns(`access ${at - abi.SRING}`);
    if (at >> 2 === RSP_EVENT) {
      this.#eventSeen = this.#ring[RSP_EVENT];
      this.#slept = this.#guest.sleeps;
    }
    this.#loaded.push(at, this.#ring[at >> 2]);
  }

  /** Lets the guest move as often as it is its turn. */
  #turns(where: string): void {
    while (this.#turn(where, true));
  }

  /** One choice. True when the guest has moved; false when the backend is to go on, or, if it cannot, when all is over. */
  #turn(where: string, backendCan: boolean): boolean {
    const guest = this.#guest;
    const options = guest.moves + (backendCan ? 1 : 0);
    if (options === 0) {
      if (!guest.done) throw new Lost(this.#story("both sides sleep"));
      return false;
    }
    const choice = this.#choose(where, options);
    if (backendCan && choice === 0) return false;
    guest.move(backendCan ? choice - 1 : choice);
    return true;
  }

  /** One of so many options: the one that this run is to take, or the first, with the others left for later. */
  #choose(where: string, options: number): number {
    const position = this.#made.length;
    if (position >= this.#choices.length) {
      const shared = this.#ring.subarray(REQ_PROD, REQ_PROD + 4).join();
      const host = [...this.#loaded, this.#eventSeen, this.#heardAt].join();
      const key = [where, this.#guest.key, shared, host].join("|");
      if (this.#seen.has(key)) throw SEEN;
      this.#seen.add(key);
      for (let other = 1; other < options; other++) this.#pending.push([...this.#made, other]);
    }
    const choice = this.#choices[position] ?? 0;
    this.#made.push(choice);
    return choice;
  }

  #story(what: string): string {
    const indices = Array.from(this.#ring.subarray(REQ_PROD, REQ_PROD + 4)).join(", ");
    return `${what}: req_prod, req_event, rsp_prod, rsp_event are ${indices}; choices ${this.#made.join(" ")}`;
  }
}
