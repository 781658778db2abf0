/**
 * Plays a session on the real core: guest and host around it, and a check after every call. It writes the same log as
 * assembly/session does (docs/session.md describes it), and tells an observer enough to move data and to judge it.
 */
import * as abi from "../../assembly/abi.js";
import * as format from "../../assembly/session/format.js";
import { BlkifCore, type RingConfig } from "../core/blkif.js";
import { allocateMemory, type LinearMemory } from "../core/memory.js";
import type { Session, SessionHeader, SessionRecord } from "./file.js";
import { type GrantCopy, type GrantMap, SessionGrants } from "./grants.js";
import { type SessionIo, SessionIos } from "./ios.js";
import { GuestRing, type RingResponse } from "./ring.js";
import { check } from "./violation.js";

/** What happens in a session, as it happens. */
export interface SessionObserver {
  /** A request was taken from the ring, when the disk had so many sectors; `entry` is a copy. */
  taken?(index: number, entry: Uint8Array, sectors: number, grants: SessionGrants): void;
  /** The guest has moved req_prod back, so that nobody can tell any more what was taken; there is no `taken` from now on. */
  confused?(): void;
  copied?(copy: GrantCopy): void;
  mapped?(map: GrantMap): void;
  unmapped?(page: number): void;
  completed?(io: SessionIo, result: number): void;
  responded?(response: RingResponse): void;
  /** The guest writes into a granted page. */
  written?(gref: number, offset: number, bytes: Uint8Array): void;
  ended?(): void;
}

/** Linear memory for players, one session after the other. */
export function sessionMemory(): LinearMemory {
  return { ...allocateMemory(abi.MEMORY_BYTES), base: format.BASE_HIGH * 2 ** 32 };
}

export class SessionPlayer {
  readonly #core: BlkifCore;
  readonly #observer: SessionObserver;
  readonly #log: string[] | null;
  readonly #ring: GuestRing;
  readonly #grants: SessionGrants;
  readonly #ios: SessionIos;
  #batch: number;
  #sectors: number;
  #completions = 0;
  #attached: boolean;
  #more = false;
  /** A pass has begun and not ended. */
  #inPass = false;
  #lastTime = 0;

  /** `core` must be on memory of `sessionMemory`. Lines are added to `log` if there is one. */
  constructor(
    core: BlkifCore,
    header: SessionHeader,
    observer: SessionObserver = {},
    log: string[] | null = null,
  ) {
    this.#core = core;
    this.#observer = observer;
    this.#log = log;
    this.#ring = new GuestRing(core, header);
    this.#grants = new SessionGrants(core, header.domid, header.maxPersistent);
    this.#ios = new SessionIos(core, header, this.#grants.mapped);
    this.#batch = header.batch;
    this.#sectors = header.sectors;
    const code = core.attach({ ...header, ...spoiltField(header.spoilt) });
    this.#log?.push(`attach ${code}`);
    const good = this.#ring.overfull ? abi.ATTACH_BAD_RING : abi.ATTACH_OK;
    check(code === (header.spoilt === 0 ? good : abi.ATTACH_BAD_CONFIG), format.BAD_ANSWER);
    this.#attached = code === abi.ATTACH_OK;
  }

  /** Throws a Violation when the backend does what it must not. */
  play(record: SessionRecord): void {
    if (!this.#attached) return;
    switch (record.kind) {
      case "request":
        this.#ring.put(record.entry);
        break;
      case "push":
        this.#ring.push();
        break;
      case "index":
        this.#ring.writeIndex(record.which, record.value);
        break;
      case "page":
        this.#grants.setContent(record.gref, record.offset, record.bytes);
        this.#observer.written?.(record.gref, record.offset, record.bytes);
        break;
      case "step":
        this.#step(false);
        break;
      case "once":
        this.#step(true);
        break;
      case "ended":
        this.#end(record.slot, record.result);
        break;
      case "grant":
        this.#grants.setStatus(record.gref, record.status);
        break;
      case "complete":
        this.#completeOne(record.which, record.result);
        break;
      case "fault":
        this.#grants.addFault(record.distance, record.status);
        break;
      default:
        this.#playBetweenPasses(record);
    }
  }

  /** What a host does between passes: one that has begun goes on to its end. */
  #playBetweenPasses(record: SessionRecord): void {
    if (this.#inPass) this.#pass(false);
    if (record.kind === "trim") this.#trim(record.now);
    else if (record.kind === "resize") this.#resize(record.sectors);
    else if (record.kind === "batch") this.#setBatch(record.batch);
    else if (record.kind === "budget") this.#core.setBudget(record.segments, record.bytes);
  }

  /** Lets everything end that is under way, and checks that nothing is left. */
  finish(): void {
    if (!this.#attached) return;
    for (let passes = 0; ; passes++) {
      check(passes < format.MAX_PASSES, format.BAD_HANG);
      while (this.#ios.underway.length > 0) this.#complete(0, abi.IO_RESULT_SUCCESS);
      this.#step(false);
      if (this.#ios.underway.length === 0 && !this.#more) break;
    }
    check(this.#ring.inFlight === 0, format.BAD_LEAK);
    check(this.#ring.isDrained(this.#batch), format.BAD_HANG);
    // A page that was used at a time that had not come yet goes with the second.
    this.#trim((this.#lastTime + 600) >>> 0);
    this.#trim((this.#lastTime + 600) >>> 0);
    check(this.#grants.mapped.size === 0, format.BAD_LEAK);
    this.#attached = false;
    this.#log?.push(`counters ${Object.values(this.#core.counters()).join(" ")}`);
    this.#observer.ended?.();
  }

  #resize(sectors: number): void {
    this.#sectors = sectors;
    this.#core.resize(sectors);
    this.#ios.noteSize(sectors);
  }

  #setBatch(batch: number): void {
    this.#batch = batch;
    this.#core.setBatch(batch);
  }

  #completeOne(which: number, result: number): void {
    const { length } = this.#ios.underway;
    if (length > 0) this.#complete(which % length, result);
  }

  /** The core must take no notice where there is no such I/O. As many completions fit as there can be I/Os. */
  #end(slot: number, result: number): void {
    const { underway } = this.#ios;
    const which = underway.findIndex((io) => io.slot === slot);
    if (which >= 0) this.#complete(which, result);
    else if (this.#completions + underway.length < abi.MAX_SLOTS)
      this.#core.setCompletion(this.#completions++, slot, result);
  }

  #complete(which: number, result: number): void {
    const [io] = this.#ios.underway.splice(which, 1);
    this.#core.setCompletion(this.#completions++, io.slot, result);
    this.#observer.completed?.(io, result);
  }

  /**
   * A frontend whose req_prod is strange may be right once the completions are answered, and its newest requests then
   * lie under responses that it has not seen. Two passes keep apart what was taken from what was written.
   */
  #step(once: boolean): void {
    if (!this.#inPass && this.#completions !== 0 && this.#ring.strange) {
      const batch = this.#batch;
      this.#setBatch(0);
      this.#pass(false);
      this.#setBatch(batch);
    }
    this.#pass(once);
  }

  /** Begins a pass or goes on with it: one call of the core, and more as long as it asks for grant operations. */
  #pass(once: boolean): void {
    const completions = this.#completions;
    this.#completions = 0;
    this.#log?.push(`step ${completions}`);
    let flags = this.#call(completions);
    for (let rounds = 0; flags & (abi.STEP_COPY | abi.STEP_MAP); rounds++) {
      const early = flags & (abi.STEP_IO | abi.STEP_MORE | abi.STEP_HALTED);
      check(rounds < format.MAX_ROUNDS && early === 0, format.BAD_HANG);
      this.#performGrants();
      if (once) return;
      flags = this.#call(0);
    }
    this.#inPass = false;
    this.#grants.checkBudget();
    check(this.#ring.mayHalt((flags & abi.STEP_HALTED) !== 0), format.BAD_ANSWER);
    this.#more = (flags & abi.STEP_MORE) !== 0;
    if (flags & abi.STEP_IO) this.#ios.start((io) => this.#logIo(io));
  }

  /** One call of the core, and what it did to the ring; its flags. */
  #call(completions: number): number {
    this.#ring.shadow();
    const flags = this.#core.step(completions);
    if (!this.#inPass) this.#observeTaking();
    this.#inPass = true;
    this.#observe(flags);
    return flags;
  }

  #observeTaking(): void {
    const taken = this.#ring.observeTaking(this.#batch);
    if (this.#ring.confused) this.#observer.confused?.();
    for (const { index, entry } of taken) this.#observer.taken?.(index, entry, this.#sectors, this.#grants);
  }

  #observe(flags: number): void {
    this.#ring.observe((flags & abi.STEP_NOTIFY) !== 0, (response) => {
      this.#log?.push(`response ${response.id} ${response.operation} ${response.status}`);
      this.#observer.responded?.(response);
    });
    this.#log?.push(`flags ${flags}`);
  }

  #performGrants(): void {
    this.#grants.performMaps((map) => {
      this.#log?.push(`map ${map.gref} ${map.page} ${map.status}`);
      this.#observer.mapped?.(map);
    });
    this.#grants.performCopies((copy) => {
      const { gref, offset, length, local, status } = copy;
      this.#log?.push(
        `${copy.toGuest ? "copy-out" : "copy-in"} ${gref} ${offset} ${length} ${local} ${status}`,
      );
      this.#observer.copied?.(copy);
    });
  }

  #logIo(io: SessionIo): void {
    if (!this.#log) return;
    const { slot, operation, flags, position, length, requests } = io;
    // A flush has no place on the disk, and its request may hold any number.
    const sector = operation === abi.IO_FLUSH ? 0 : position / 512;
    const memory = io.memory.map(({ at, length: bytes }) => ` ${at} ${bytes}`).join("");
    this.#log.push(`io ${slot} ${operation} ${flags} ${sector} ${length / 512} ${requests}${memory}`);
  }

  #trim(now: number): void {
    this.#lastTime = now;
    const pages = this.#core.trim(now);
    this.#log?.push(["trim", now, ...pages].join(" "));
    this.#grants.unmap(pages);
    for (const page of pages) this.#observer.unmapped?.(page);
  }
}

/** The field that SPOILT_* numbers, with a value that it must not have. */
function spoiltField(spoilt: number): Partial<RingConfig> {
  const fields: Partial<RingConfig>[] = [
    {},
    ...[-1, 2].map((layout) => ({ abi: layout })),
    ...[16, 48, 1024].map((entries) => ({ ringPages: entries / 32 })),
    ...[0, 3, 16].map((units) => ({ sectorSize: units * 512 })),
    ...[-1, abi.MAX_SEGMENTS + 1].map((maxIndirect) => ({ maxIndirect })),
    ...[abi.PAGE - 1, abi.MAX_IO + 1].map((maxIo) => ({ maxIo })),
    ...[-1, abi.MAX_PERSISTENT + 1].map((maxPersistent) => ({ maxPersistent })),
    ...[-1, abi.MAX_SLOTS + 1].map((batch) => ({ batch })),
    ...[0, abi.MAX_PASS_SEGMENTS + 1].map((passSegments) => ({ passSegments })),
    ...[0, abi.MAX_PASS_BYTES + 1].map((passBytes) => ({ passBytes })),
  ];
  return fields[spoilt];
}

/** Plays a whole session; the log, without it if `logging` is false. */
export function playSession(
  module: WebAssembly.Module,
  memory: LinearMemory,
  session: Session,
  observer: SessionObserver = {},
  logging = true,
): string[] {
  const log: string[] = [];
  const core = new BlkifCore(module, memory);
  const player = new SessionPlayer(core, session.header, observer, logging ? log : null);
  for (const record of session.records) player.play(record);
  player.finish();
  return log;
}
