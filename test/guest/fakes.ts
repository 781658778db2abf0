/** In-process fakes of the ports that a frontend needs; each remembers what a test wants to know. */
import { closeSync, constants, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allocateMemory, PAGE_SIZE } from "../../host/core/memory.js";
import { makeFifo, readNonBlocking, writeNonBlocking } from "../../host/platform/libc.js";
import type {
  EventChannels,
  GuestPages,
  Xenstore,
  XenstoreTransaction,
  XenstoreWatch,
} from "../../host/platform/ports.js";

interface Grant {
  frame: number;
  readOnly: boolean;
  domid: number;
  mapped: number;
}

export class FakePages implements GuestPages {
  readonly domid = 7;
  readonly memory;
  readonly bytes;
  readonly grants = new Map<number, Grant>();
  /** Grants that were ever made. */
  granted = 0;
  maxGrants = Number.POSITIVE_INFINITY;
  readonly #used: Uint8Array;
  #nextRef = 100;

  constructor(pages: number) {
    this.memory = allocateMemory(pages * PAGE_SIZE);
    this.bytes = this.memory.u8;
    this.#used = new Uint8Array(pages);
  }

  get usedFrames(): number {
    return this.#used.reduce((sum, used) => sum + used, 0);
  }

  allocate(count: number): number {
    for (let frame = 1; frame + count <= this.#used.length; frame++) {
      if (this.#used.subarray(frame, frame + count).includes(1)) continue;
      this.#used.fill(1, frame, frame + count);
      return frame;
    }
    throw new Error("out of memory");
  }

  free(frame: number, count: number): void {
    if (this.#used.subarray(frame, frame + count).includes(0)) throw new Error("freed twice");
    this.#used.fill(0, frame, frame + count);
  }

  grant(domid: number, frame: number, readOnly: boolean): number {
    if (!this.#used[frame]) throw new Error("granted a page that was not allocated");
    if (this.grants.size >= this.maxGrants) throw new Error("the grant table is full");
    this.granted++;
    this.grants.set(this.#nextRef, { frame, readOnly, domid, mapped: 0 });
    return this.#nextRef++;
  }

  endAccess(ref: number): boolean {
    const grant = this.grants.get(ref);
    if (!grant) throw new Error(`grant ${ref} was ended twice`);
    if (grant.mapped > 0) return false;
    this.grants.delete(ref);
    return true;
  }

  async close(): Promise<void> {}

  /** The backend's way in: the frame's bytes. */
  map(ref: number, writable: boolean): Uint8Array {
    const grant = this.grants.get(ref);
    if (!grant) throw new Error(`grant ${ref} does not exist`);
    if (grant.readOnly && writable) throw new Error(`grant ${ref} is read-only`);
    grant.mapped++;
    return this.memory.u8.subarray(grant.frame * PAGE_SIZE, (grant.frame + 1) * PAGE_SIZE);
  }

  unmap(ref: number): void {
    this.grants.get(ref)!.mapped--;
  }
}

interface Port {
  pending: boolean;
  masked: boolean;
  remote: (() => void) | null;
}

/** The frontend's handle; a fifo is its descriptor. */
export class FakeEvents implements EventChannels {
  readonly fd: number;
  readonly inbox = new Uint32Array(0);
  readonly ports = new Map<number, Port>();
  notified = 0;
  #next = 1;
  readonly #directory = mkdtempSync(join(tmpdir(), "blkfront-"));

  constructor() {
    const path = join(this.#directory, "events");
    makeFifo(path);
    this.fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  }

  async bindInterdomain(): Promise<number> {
    throw new Error("a frontend binds nothing");
  }

  async allocUnbound(): Promise<number> {
    this.ports.set(this.#next, { pending: false, masked: false, remote: null });
    return this.#next++;
  }

  async unbind(port: number): Promise<void> {
    if (!this.ports.delete(port)) throw new Error(`port ${port} is not bound`);
  }

  notify(port: number): void {
    this.notified++;
    this.ports.get(port)!.remote?.();
  }

  read(ports: Uint32Array): number {
    readNonBlocking(this.fd, new Uint8Array(4096));
    let count = 0;
    for (const [number, port] of this.ports) {
      if (!port.pending || port.masked) continue;
      port.pending = false;
      port.masked = true;
      ports[count++] = number;
    }
    return count;
  }

  received(): number {
    throw new Error("a frontend reads by itself");
  }

  unmaskBy(): void {}

  unmask(port: number): void {
    const entry = this.ports.get(port);
    if (!entry) return;
    entry.masked = false;
    if (entry.pending) this.#wake();
  }

  async close(): Promise<void> {
    closeSync(this.fd);
    rmSync(this.#directory, { recursive: true });
  }

  /** The backend binds to a port; what comes back raises it. */
  bind(port: number, handler: () => void): () => void {
    const entry = this.ports.get(port)!;
    entry.remote = handler;
    return () => {
      if (entry.pending) return;
      entry.pending = true;
      if (!entry.masked) this.#wake();
    };
  }

  #wake(): void {
    writeNonBlocking(this.fd, new Uint8Array(1));
  }
}

export class FakeXenstore implements Xenstore {
  readonly nodes = new Map<string, string>();
  /** Every write, in order: "path=value"; "[" and "]" around a transaction. */
  readonly log: string[] = [];
  onClose = null;
  readonly #watches = new Set<{ path: string; changed: (path: string) => void }>();

  async read(path: string): Promise<string | null> {
    await null;
    return this.nodes.get(path) ?? null;
  }

  async write(path: string, value: string): Promise<void> {
    this.log.push(`${path}=${value}`);
    this.nodes.set(path, value);
    this.#fire(path);
  }

  async directory(path: string): Promise<string[] | null> {
    const below = [...this.nodes.keys()].filter((p) => p.startsWith(`${path}/`));
    if (below.length === 0 && !this.nodes.has(path)) return null;
    return [...new Set(below.map((p) => p.slice(path.length + 1).split("/")[0]))];
  }

  async mkdir(path: string): Promise<void> {
    this.nodes.set(path, "");
  }

  async remove(path: string): Promise<void> {
    for (const node of [...this.nodes.keys()]) {
      if (node !== path && !node.startsWith(`${path}/`)) continue;
      this.nodes.delete(node);
      this.#fire(node);
    }
  }

  async setPermissions(): Promise<void> {}

  async permissions(): Promise<string[] | null> {
    return null;
  }

  async isDomainIntroduced(): Promise<boolean | null> {
    return null;
  }

  async watch(path: string, changed: (path: string) => void): Promise<XenstoreWatch> {
    const watch = { path, changed };
    this.#watches.add(watch);
    setImmediate(() => changed(path));
    return {
      remove: async () => {
        this.#watches.delete(watch);
      },
    };
  }

  get watches(): number {
    return this.#watches.size;
  }

  async transaction<T>(body: (t: XenstoreTransaction) => Promise<T>): Promise<T> {
    this.log.push("[");
    const result = await body(this);
    this.log.push("]");
    return result;
  }

  close(): void {}

  #fire(path: string): void {
    for (const watch of this.#watches) {
      if (path !== watch.path && !path.startsWith(`${watch.path}/`)) continue;
      setImmediate(() => this.#watches.has(watch) && watch.changed(path));
    }
  }
}
