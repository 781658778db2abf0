/**
 * A reactor and everything around it, played by plain data in an order that a seed decides: guests, event channels,
 * grants, disks, the clock, and the driver, which calls the reactor when that has asked for it, and never otherwise. So a
 * ring that has work to do, and asks for nothing, stands still here as it would in a daemon.
 */
import assert from "node:assert/strict";
import * as abi from "../../../assembly/abi.js";
import { random } from "../../../host/guest/workload.js";
import { Activity } from "../../../host/reactor/activity.js";
import { returnMemory, takeMemory } from "../../../host/reactor/memory-pool.js";
import { Reactor } from "../../../host/reactor/reactor.js";
import type { Ring } from "../../../host/reactor/ring.js";
import { Throttle } from "../../../host/reactor/throttle.js";
import { ALONE, type Credit, QUANTUM } from "../../../host/reactor/turns.js";
import { Result } from "../../../host/storage/device.js";
import { Driver } from "./driver.js";
import { insist, takeFaults } from "./faults.js";
import { Frontend, SECTORS } from "./frontend.js";
import { Platform } from "./platform.js";
import { Watcher } from "./watcher.js";

const STEPS = 500;
/** More than any scene needs to come to rest. */
const MOST_ROUNDS = 100_000;
/** A guest that rings in vain is not heard for so long at most. */
const MOST_MASKED_MS = 64;
/** No throttle is in debt for longer. */
const MOST_MS = 400_000;

/** A ring that is attached. */
interface Served {
  readonly frontend: Frontend;
  readonly ring: Ring;
  readonly throttle: Throttle | null;
  paused: boolean;
  watcher: Watcher | null;
  /** It takes no more requests: its guest has lied, or it has failed. */
  halted: boolean;
  lied: boolean;
  detaching: Promise<void> | null;
  /** Requests that it had taken when that began. */
  taken: number;
  detached: boolean;
}

export class Simulation {
  readonly #random: (below: number) => number;
  readonly #platform = new Platform();
  readonly #reactor: Reactor;
  readonly #driver: Driver;
  readonly #rings: Served[] = [];
  readonly #devices = new Map<string, object>();
  readonly #guests: number;
  readonly #errors: boolean;
  readonly #polls: boolean;
  /** What was done, for whoever reads a failure. */
  readonly #log: string[] = [];
  #time = 5_000_000;
  #nextNumber = 1;
  #answered = 0;

  constructor(seed: number) {
    const next = random(seed);
    this.#random = (below) => next() % below;
    this.#guests = 1 + this.#random(3);
    this.#errors = this.#random(3) === 0;
    this.#polls = this.#random(3) === 0;
    const clock = (): number => this.#time;
    const platform = this.#platform;
    this.#reactor = new Reactor(
      platform.events(),
      platform.grants(),
      new Activity(undefined, () => this.#time | 0),
      clock,
    );
    this.#reactor.watching = this.#polls;
    this.#driver = new Driver(this.#reactor, platform);
    platform.onBind = () => {
      if (this.#one(2)) this.#driver.dispatch();
    };
    platform.onUnmask = (frontend) => {
      const watcher = this.#rings.find((one) => one.frontend === frontend)?.watcher;
      // One that has stayed masked for a while is unmasked by the clock.
      insist(
        !this.#driver.turning || watcher?.state !== "called",
        "a channel is unmasked in the midst of a pass",
      );
    };
    platform.mapFails = () => this.#errors && this.#one(30);
    platform.copyThrows = () => this.#errors && this.#one(400);
  }

  #one(inSoMany: number): boolean {
    return this.#random(inSoMany) === 0;
  }

  #pick<T>(list: readonly T[]): T {
    return list[this.#random(list.length)];
  }

  /** With the clock, and the sizes of turns, that the seed decides; both are as before when it has ended. */
  async run(): Promise<number> {
    const before = {
      now: performance.now,
      bigint: process.hrtime.bigint,
      quantum: { ...QUANTUM },
      alone: { ...ALONE },
    };
    performance.now = () => this.#time;
    process.hrtime.bigint = () => BigInt(Math.round(this.#time * 1e6));
    this.#setSizes();
    takeFaults();
    try {
      await this.#play();
    } catch (error) {
      (error as Error).message += `\n${this.#dump()}`;
      throw error;
    } finally {
      performance.now = before.now;
      process.hrtime.bigint = before.bigint;
      Object.assign(QUANTUM, before.quantum);
      Object.assign(ALONE, before.alone);
    }
    return this.#answered;
  }

  #setSizes(): void {
    const quantum: Credit = {
      segments: this.#pick([1, 2, 7, 32, 32]),
      bytes: this.#pick([512, 4096, 20_000, 131_072, 131_072]),
    };
    const times = this.#pick([1, 3, 64, 64]);
    Object.assign(QUANTUM, quantum);
    Object.assign(ALONE, { segments: quantum.segments * times, bytes: quantum.bytes * times });
  }

  async #play(): Promise<void> {
    const rings = 1 + this.#random(5);
    for (let i = 0; i < rings; i++) await this.#attach();
    for (let step = 0; step < STEPS; step++) {
      await this.#step();
      if (this.#one(100)) await this.#rest();
    }
    for (const served of this.#rings) {
      if (served.paused) this.#setThrottle(served, false);
    }
    if (this.#one(2)) await this.#rest();
    for (const served of this.#rings) if (served.detaching === null) this.#detach(served);
    await this.#rest();
    assert.equal(this.#rings.length, 0);
    assert.equal(this.#platform.mappedPages, 0, "pages of guests are still mapped");
    assert.equal(this.#platform.ports.size, 0);
  }

  // ---- What the driver does ----

  #turn(): void {
    this.#driver.turn(new Set(this.#rings.filter(({ ring }) => ring.ready).map(({ ring }) => ring.domid)));
  }

  #poll(): void {
    if (!this.#polls) return;
    this.#driver.poll(this.#random(3), () => {
      const served = this.#someRing();
      if (served) this.#push(served);
    });
  }

  // ---- What others do ----

  #someRing(): Served | null {
    const active = this.#rings.filter(({ detaching }) => detaching === null);
    return active.length > 0 ? this.#pick(active) : null;
  }

  #push({ frontend, ring, halted, lied }: Served): void {
    if (halted || lied) return;
    for (let i = this.#pick([1, 1, 2, 5, 40]); i > 0; i--) frontend.put();
    if (frontend.push() || this.#one(20)) this.#platform.raise(ring.port);
  }

  /** More often than is normal (XSA-332). */
  #ringInVain({ ring }: Served): void {
    for (let i = 0; i < 25; i++) {
      this.#platform.raise(ring.port);
      this.#driver.dispatch();
      this.#turn();
    }
  }

  #end(frontend: Frontend): void {
    for (let i = this.#pick([1, 1, 3, 100]); i > 0; i--) {
      const { underway } = frontend.disk;
      if (underway.length === 0) return;
      frontend.disk.end(this.#random(underway.length), this.#result(frontend));
    }
  }

  #result(frontend: Frontend): Result {
    if (!this.#errors || !this.#one(8)) return Result.Success;
    frontend.mayFail = true;
    return this.#pick([Result.Failure, Result.Failure, Result.ReadOnly, Result.Unsupported]);
  }

  #setThrottle(served: Served, paused: boolean): void {
    const { throttle, ring } = served;
    if (throttle === null) return;
    throttle.set(
      { iops: this.#pick([0, 100, 5000]), bps: this.#pick([0, 1 << 20, 64 << 20]), burst: 0.01 },
      paused,
    );
    served.paused = paused;
    ring.setThrottle(throttle);
  }

  #observe(served: Served): void {
    if (served.frontend.failed) return;
    if (served.watcher !== null && served.watcher.state !== "ended") {
      const { watcher } = served;
      served.ring.observe(null);
      served.watcher = null;
      if (served.frontend.failed) return;
      // Whoever has put it on ends it.
      if (watcher.state === "between") watcher.end();
      return;
    }
    const watcher = new Watcher(this.#one(2));
    try {
      served.ring.observe(watcher);
      served.watcher = watcher;
    } catch (error) {
      // Its pass was ended first, and has failed.
      if (!served.frontend.failed) throw error;
    }
  }

  async #attach(): Promise<void> {
    const number = this.#nextNumber++;
    const domid = 1 + this.#random(this.#guests);
    const ringPages = this.#pick([1, 1, 2]);
    const persistent = this.#one(2);
    const memory = takeMemory(null);
    const frontend = new Frontend(number, domid, memory, ringPages, persistent, this.#random);
    frontend.mayFail = this.#errors;
    const disk = `${domid}.${this.#random(2)}`;
    const device = this.#devices.get(disk) ?? {};
    this.#devices.set(disk, device);
    this.#platform.frontends.set(number, frontend);
    const throttle = this.#one(3) ? new Throttle() : null;
    throttle?.set(
      { iops: this.#pick([0, 1000]), bps: this.#pick([0, 1 << 20]), burst: this.#pick([0.001, 1]) },
      false,
    );
    // The bucket is empty: another ring of the disk has taken all of it.
    if (throttle && this.#one(2)) {
      throttle.admit();
      throttle.charge(2000, 1 << 21);
    }
    const features =
      abi.FEATURE_FLUSH |
      abi.FEATURE_BARRIER |
      abi.FEATURE_DISCARD |
      (persistent ? abi.FEATURE_PERSISTENT : 0);
    const config = {
      abi: abi.ABI_X86_64,
      ringPages,
      features,
      domid,
      sectors: SECTORS,
      sectorSize: 512,
      maxIndirect: 256,
      maxIo: this.#pick([65536, abi.MAX_IO]),
      maxPersistent: this.#pick([8, 64, 1056]),
      maxLarge: this.#pick([1, 2, 64]),
    };
    // A guest that has made its requests before the backend came.
    for (let i = this.#random(4); i > 0; i--) frontend.put();
    frontend.push();
    const ring: Ring = await this.#reactor.attach(
      {
        config,
        ringRefs: Uint32Array.from({ length: ringPages }, (_, i) => i),
        memory,
        start: "attach",
        throttle,
        device,
        makeQueue: frontend.disk.makeQueue,
        onHalt: () => this.#onHalt(frontend),
        onError: () => {},
      },
      number,
    );
    this.#rings.push({
      frontend,
      ring,
      throttle,
      paused: false,
      watcher: null,
      halted: frontend.failed,
      lied: false,
      detaching: null,
      taken: 0,
      detached: false,
    });
    this.#say(`attach ${number} of domain ${domid}`);
    if (this.#one(4)) await this.#rest();
  }

  #onHalt(frontend: Frontend): void {
    const served = this.#rings.find((one) => one.frontend === frontend);
    assert.ok(!served?.halted, "it is halted twice");
    assert.ok(served?.lied || frontend.failed, "it is halted for nothing");
    if (served) served.halted = true;
  }

  #detach(served: Served): void {
    this.#say(`detach ${served.frontend.number}`);
    served.taken = served.frontend.taken;
    served.detaching = this.#reactor.detach(served.ring).then(() => {
      served.detached = true;
    });
  }

  /** A ring that was detached leaves nothing behind. */
  #bury(served: Served): void {
    const { frontend, ring } = served;
    assert.ok(!this.#platform.ports.has(ring.port), "its port is bound");
    assert.equal(frontend.disk.underway.length, 0, "an I/O is under way");
    assert.equal(frontend.mapped.size, 0, "its pages are mapped");
    assert.equal(frontend.taken, served.taken, "it has taken requests since");
    frontend.take();
    this.#answered += frontend.answered;
    if (!frontend.failed) assert.equal(frontend.inflight, 0, "what it has taken is not answered");
    this.#platform.frontends.delete(frontend.number);
    returnMemory(frontend.memory, null);
    this.#rings.splice(this.#rings.indexOf(served), 1);
  }

  async #buryDetached(): Promise<void> {
    for (let i = 0; i < 12; i++) await Promise.resolve();
    for (const served of [...this.#rings]) if (served.detached) this.#bury(served);
  }

  // ---- The order of things ----

  async #step(): Promise<void> {
    const served = this.#someRing();
    const dice = this.#random(100);
    if (dice < 15) this.#driver.dispatch();
    else if (dice < 40) this.#turn();
    else if (dice < 44) this.#pass(this.#pick([0, 0.5, 3, 20, 120]));
    else if (dice < 48) this.#poll();
    else if (dice < 49) this.#pass(this.#pick([1100, 6000, 70_000]));
    else if (served === null) await this.#attach();
    else if (dice < 67) this.#push(this.#pick(this.#rings));
    else if (dice < 82) this.#end(this.#pick(this.#rings).frontend);
    else if (dice < 90 && served.frontend.rung) served.frontend.take();
    else if (dice < 93) this.#setThrottle(served, this.#one(4));
    else if (dice < 95) this.#resize(served);
    else if (dice < 97) this.#observe(served);
    else if (dice < 98) await this.#comeAndGo(served);
    else if (this.#one(4)) this.#ringInVain(served);
    else if (this.#one(10) && !served.halted) {
      served.lied = true;
      served.frontend.lie();
      this.#platform.raise(served.ring.port);
      this.#say(`ring ${served.frontend.number} lies`);
    }
  }

  async #comeAndGo(served: Served): Promise<void> {
    if (this.#rings.length < 6 && this.#one(2)) await this.#attach();
    else if (this.#one(3)) this.#detach(served);
    await this.#buryDetached();
  }

  #resize(served: Served): void {
    served.ring.resize(SECTORS + this.#random(2) * 8);
  }

  /** The driver sleeps. */
  #pass(milliseconds: number): void {
    if (!this.#driver.maySleep()) return;
    this.#time += milliseconds;
    this.#driver.tick(this.#time);
  }

  /** Until when something waits, by the clock: a throttle, or a guest that has rung in vain. Infinity where nothing does. */
  get #awaited(): number {
    let until = Number.POSITIVE_INFINITY;
    for (const { frontend, ring, paused } of this.#rings) {
      if (!paused && !frontend.failed) until = Math.min(until, ring.resumeAt);
      if (this.#platform.ports.get(ring.port)?.masked) until = Math.min(until, this.#time + MOST_MASKED_MS);
    }
    return until;
  }

  /** Everything that was begun comes to its end: then nothing may be left to do. */
  async #rest(): Promise<void> {
    const until = this.#time + MOST_MS;
    for (let round = 0; ; round++) {
      assert.ok(round < MOST_ROUNDS, "it does not come to rest");
      if (this.#rings.some(({ detaching }) => detaching)) await this.#buryDetached();
      if (this.#doWhatIsThere()) continue;
      const awaited = this.#awaited;
      if (awaited === Number.POSITIVE_INFINITY) break;
      assert.ok(this.#driver.timer <= Math.max(awaited, this.#time), `the driver sleeps beyond ${awaited}`);
      assert.ok(this.#driver.timer <= until, "it waits for ever");
      this.#pass(Math.max(this.#driver.timer - this.#time, 0));
    }
    this.#checkRest();
  }

  #doWhatIsThere(): boolean {
    const rung = this.#rings.filter(({ frontend }) => frontend.rung);
    for (const { frontend } of rung) frontend.take();
    if (rung.length > 0 || this.#driver.dispatch()) return true;
    const { told } = this.#driver;
    if (told) this.#turn();
    else if (!this.#driver.maySleep()) return true;
    // The disks are slow, mostly: some I/Os end in the midst of passes.
    const busy = this.#rings.filter(({ frontend }) => frontend.disk.underway.length > 0);
    if (busy.length > 0 && (!told || this.#one(5))) this.#end(this.#pick(busy).frontend);
    return told || busy.length > 0;
  }

  #checkRest(): void {
    assert.deepEqual(takeFaults(), []);
    assert.ok(!this.#reactor.ready, "a ring is ready, and the driver does not know it");
    for (const served of this.#rings) {
      const { frontend, ring, paused, lied, halted } = served;
      const name = `ring ${frontend.number}`;
      assert.equal(served.detaching, null, `${name} is never detached`);
      const port = this.#platform.ports.get(ring.port);
      assert.ok(!port?.masked, `${name} has its event channel masked`);
      if (frontend.failed) continue;
      assert.equal(frontend.inflight, 0, `${name} stands still with requests in flight`);
      assert.ok(!frontend.wasForgotten, `${name} has not told its guest of responses`);
      assert.ok(!lied || halted || paused, `${name} was not halted`);
      if (lied || paused) continue;
      assert.notEqual(served.watcher?.state, "waits", `${name} never lets its observer begin`);
      assert.equal(frontend.asked.size, frontend.unpushed, `${name} stands still with requests on the ring`);
      frontend.checkDisk();
    }
  }

  #say(what: string): void {
    this.#log.push(what);
  }

  #dump(): string {
    const lines = this.#rings.map(({ frontend, ring, paused, halted, detaching }) => {
      const port = this.#platform.ports.get(ring.port);
      const state = [
        ring.ready && "ready",
        paused && "paused",
        halted && "halted",
        frontend.failed && "failed",
        detaching && "detaching",
        port?.masked && "masked",
        port?.pending && "pending",
        ring.resumeAt !== Number.POSITIVE_INFINITY && `resumes at ${ring.resumeAt}`,
      ];
      return `${frontend}: ${state.filter((word) => word).join(", ")}`;
    });
    const { readable } = this.#platform;
    return [
      `time ${this.#time}, timer ${this.#driver.timer}, due ${this.#reactor.due}, ${this.#driver.told ? "told" : "not told"}, ports to read: ${readable}`,
      ...lines,
      ...this.#log.slice(-10),
    ].join("\n");
  }
}
