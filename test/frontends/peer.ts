/** What the scripts of frontends are written with: keys and states one by one, one ring, one request at a time. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { PAGE_SIZE } from "../../host/core/memory.js";
import { type Abi, LAYOUTS, Op, Rsp, writeDirect, writeSegment, writeU64 } from "../../host/guest/layout.js";
import { FrontRing } from "../../host/guest/ring.js";
import { XenstoreError } from "../../host/platform/ports.js";
import { addVbd, type Removal, removeVbd } from "../../host/toolstack/vbd.js";
import { backendPath, DEVID, frontendPath, type Guest, type Machine, until } from "../vbd/harness.js";

export type Keys = Record<string, string>;

/** The states that every script's backend may write, whatever happens (xenbus.h knows more). */
const LEGAL = [2, 4, 5, 6];

interface Ring {
  readonly ring: FrontRing;
  readonly abi: Abi;
  readonly port: number;
  readonly refs: readonly number[];
}

export class Peer {
  readonly machine: Machine;
  readonly guest: Guest;
  readonly path: string;
  readonly backend: string;
  readonly frontend: string;
  #ring: Ring | null = null;

  private constructor(machine: Machine, guest: Guest, path: string) {
    this.machine = machine;
    this.guest = guest;
    this.path = path;
    this.backend = backendPath(DEVID, guest.domid);
    this.frontend = frontendPath(DEVID, guest.domid);
  }

  /** A guest with a disk, as `xl create` leaves them: the backend is at 2 and the script has spoken. */
  static async start(machine: Machine, domid = 1): Promise<Peer> {
    const peer = new Peer(machine, await machine.guest(domid), machine.image());
    await addVbd(machine.xenstore, peer.spec);
    return peer;
  }

  /** A guest whose frontend does `first` before the backend has seen the disk. */
  static async early(machine: Machine, first: (peer: Peer) => Promise<void>): Promise<Peer> {
    const peer = new Peer(machine, await machine.guest(), machine.image());
    machine.spy.hook = async (verb, path) => {
      if (verb !== "watch" || path !== `${peer.frontend}/state`) return;
      machine.spy.hook = null;
      await first(peer);
    };
    await machine.plug({ path: peer.path });
    return peer;
  }

  get spec() {
    const { path, guest } = this;
    return { backendDomid: 0, domid: guest.domid, devid: DEVID, path, mode: "w", dev: "xvda" };
  }

  /** As `xl block-detach`. */
  remove(timeoutMs = 10_000): Promise<Removal> {
    return removeVbd(this.machine.xenstore, this.spec, timeoutMs);
  }

  /** A key of the backend; null if it is not there. xenstored does not tell a guest what its neighbours lack. */
  async read(key: string): Promise<string | null> {
    try {
      return await this.guest.xenstore.read(`${this.backend}/${key}`);
    } catch (error) {
      if (error instanceof XenstoreError && error.code === "EACCES") return null;
      throw error;
    }
  }

  /** A key of the backend that frontends cannot do without. */
  async need(key: string): Promise<number> {
    const value = await this.read(key);
    assert.match(value ?? "", /^[0-9]+$/, `${key} is ${value}`);
    return Number(value);
  }

  /** Keys of ours, in one transaction. */
  publish(keys: Keys): Promise<void> {
    return this.guest.xenstore.transaction(async (t) => {
      for (const [key, value] of Object.entries(keys)) await t.write(`${this.frontend}/${key}`, value);
    });
  }

  async drop(...keys: string[]): Promise<void> {
    for (const key of keys) await this.guest.xenstore.remove(`${this.frontend}/${key}`);
  }

  state(state: number): Promise<void> {
    return this.guest.xenstore.write(`${this.frontend}/state`, String(state));
  }

  /** The backend's state; 0 if it is gone. */
  async back(): Promise<number> {
    return Number((await this.read("state")) ?? 0);
  }

  /** Waits while the backend's state does not fit and returns the one that does. */
  async backIs(...wanted: number[]): Promise<number> {
    let state = -1;
    const there = async () => wanted.includes((state = await this.back()));
    await until(`the backend is at ${wanted.join(" or ")}`, there).catch((error) => {
      throw new Error(`${error.message}: it is at ${state}\n${this.machine.log.join("\n")}`);
    });
    return state;
  }

  /** Grants a ring and opens an event channel; the keys that tell of them. */
  async makeRing(pages = 1, abi: Abi = "x86_64"): Promise<Keys> {
    const frame = this.guest.pages.allocate(pages);
    const ring = new FrontRing(this.guest.pages.memory, frame * PAGE_SIZE, pages, LAYOUTS[abi]);
    const refs = Array.from({ length: pages }, (_, i) => this.guest.pages.grant(0, frame + i, false));
    const port = await this.guest.events.allocUnbound(0);
    this.#ring = { ring, abi, port, refs };
    const names = pages === 1 ? ["ring-ref"] : refs.map((_, i) => `ring-ref${i}`);
    const keys = Object.fromEntries(names.map((name, i) => [name, String(refs[i])]));
    return { ...keys, "event-channel": String(port), protocol: `${abi}-abi` };
  }

  /** As a kernel does that was overwritten by another: the ring is forgotten, not taken back. */
  forgetRing(): void {
    this.#ring = null;
  }

  /** Takes the ring back. Whatever the backend still holds is a panic in some kernels and a leak in all. */
  async dropRing(): Promise<void> {
    const { refs, port } = this.#ring as Ring;
    this.#ring = null;
    for (const ref of refs) assert.ok(this.guest.pages.endAccess(ref), `g.e. ${ref} still in use`);
    await this.guest.events.unbind(port);
  }

  /**
   * One request, and its status. The page of a write is granted for reading only, as most frontends do. No grant may
   * be in use once the response is there: NetBSD asserts it.
   */
  async request(operation: number, sector: number, data: Uint8Array | null): Promise<number> {
    const { ring, abi, port } = this.#ring as Ring;
    const { pages, events } = this.guest;
    const { u8 } = pages.memory;
    const layout = LAYOUTS[abi];
    const frame = pages.allocate(1);
    const write = operation !== Op.read;
    if (data && write) u8.set(data, frame * PAGE_SIZE);
    const ref = pages.grant(0, frame, write);
    const at = ring.produce(operation);
    writeDirect(pages.memory, at, operation, data ? 1 : 0, DEVID & 0xffff);
    writeU64(pages.memory, at + layout.sectorNumber, sector, 0);
    if (data) writeSegment(pages.memory, at + layout.segments, ref, 0, data.length / 512 - 1);
    if (ring.push()) events.notify(port);
    let status: number | null = null;
    await until("the request is answered", () => {
      ring.consume((_, answer) => {
        status = answer;
      });
      return status !== null;
    });
    assert.ok(pages.endAccess(ref), `g.e. ${ref} still in use after the response`);
    if (data && !write) data.set(u8.subarray(frame * PAGE_SIZE, frame * PAGE_SIZE + data.length));
    pages.free(frame, 1);
    return status as unknown as number;
  }

  /** A request of which nothing is written but its operation and id: the rest is what was in the ring's entry. */
  async bareRequest(operation: number): Promise<number> {
    const { ring, port } = this.#ring as Ring;
    this.guest.pages.memory.u8[ring.produce(operation)] = operation;
    if (ring.push()) this.guest.events.notify(port);
    let status: number | null = null;
    await until("the request is answered", () => {
      ring.consume((_, answer) => {
        status = answer;
      });
      return status !== null;
    });
    return status as unknown as number;
  }

  /** Writes a page, reads it again, and looks into the image. */
  async useDisk(mark: number): Promise<void> {
    const written = new Uint8Array(PAGE_SIZE).fill(mark);
    assert.equal(await this.request(Op.write, 8 * mark, written), Rsp.okay);
    const back = new Uint8Array(PAGE_SIZE);
    assert.equal(await this.request(Op.read, 8 * mark, back), Rsp.okay);
    assert.deepEqual(back, written);
    const at = mark * PAGE_SIZE;
    assert.deepEqual(new Uint8Array(readFileSync(this.path).subarray(at, at + PAGE_SIZE)), written);
  }

  /** Exactly these states, in order, since the start or the last time that this was asked. */
  wrote(...states: number[]): void {
    const written = this.machine.spy.states.splice(0).map(({ state }) => state);
    for (const state of written) assert.ok(LEGAL.includes(state), `the backend wrote state ${state}`);
    assert.deepEqual(written, states);
  }

  /** The toolstack removes a closed disk, and nothing is left of it. */
  async end(): Promise<void> {
    assert.equal(await this.remove(), "closed");
    await until("the vbd is gone", () => this.machine.backend.status().length === 0);
    await this.machine.untilClean();
    assert.equal(await this.machine.error(), null);
  }
}
