/** Event channels and grants that are plain data, so that a test decides when anything is seen. */
import * as abi from "../../../assembly/abi.js";
import { type LinearMemory, PAGE_SIZE } from "../../../host/core/memory.js";
import { type EventChannels, Gntst, type GrantTable } from "../../../host/platform/ports.js";
import { insist } from "./faults.js";
import type { Frontend, Page } from "./frontend.js";

interface Port {
  masked: boolean;
  pending: boolean;
  readonly frontend: Frontend;
}

/** What a turn has copied for a domain. */
export interface Copied {
  segments: number;
  bytes: number;
}

export class Platform {
  readonly ports = new Map<number, Port>();
  readonly frontends = new Map<number, Frontend>();
  readonly copied = new Map<number, Copied>();
  /** Ports that read(2) returns next. */
  readonly readable: number[] = [];
  /** Called while a port is being bound, when its first event is there and its ring is not. */
  onBind: () => void = () => {};
  /** Called when a port is unmasked. */
  onUnmask: (frontend: Frontend) => void = () => {};
  /** Whether the next page cannot be mapped, and whether the next copies throw, as they do where a kernel is broken. */
  mapFails = (): boolean => false;
  copyThrows = (): boolean => false;
  mappedPages = 0;
  #nextPort = 1;

  raise(port: number): void {
    const it = this.ports.get(port);
    if (it === undefined || it.pending) return;
    it.pending = true;
    if (!it.masked) this.readable.push(port);
  }

  /** `remotePort` is the number of a frontend. */
  #bind(remotePort: number): number {
    const frontend = this.frontends.get(remotePort);
    insist(frontend !== undefined, "a port of nobody is bound");
    const port = this.#nextPort++;
    this.ports.set(port, { masked: false, pending: false, frontend });
    this.raise(port);
    this.onBind();
    return port;
  }

  #read(ports: Uint32Array): number {
    const some = this.readable.splice(0, ports.length);
    for (const port of some) {
      const it = this.ports.get(port);
      if (it) Object.assign(it, { masked: true, pending: false });
    }
    ports.set(some);
    return some.length;
  }

  #unmask(port: number): void {
    const it = this.ports.get(port);
    if (it === undefined) return;
    insist(it.masked, `port ${port} is unmasked twice`);
    it.masked = false;
    this.onUnmask(it.frontend);
    if (it.pending) this.readable.push(port);
  }

  events(): EventChannels {
    return {
      bindInterdomain: async (_domid: number, remotePort: number) => this.#bind(remotePort),
      unbind: async (port: number) => void this.ports.delete(port),
      notify: (port: number) => this.ports.get(port)?.frontend.notified(),
      unmask: (port: number) => this.#unmask(port),
      read: (ports: Uint32Array) => this.#read(ports),
      close: async () => {},
    } as unknown as EventChannels;
  }

  grants(): GrantTable {
    const platform = this;
    return {
      get mappedPages() {
        return platform.mappedPages;
      },
      close: () => {},
      map: (memory, at, domid, refs, _writable, status) => this.#map(memory, at, domid, refs, status),
      unmap: (memory, at, pages) => this.#unmap(memory, at, pages),
      copy: (memory, table, count) => this.#copy(memory, table, count),
    };
  }

  #of(memory: LinearMemory): Frontend {
    for (const frontend of this.frontends.values()) if (frontend.memory === memory) return frontend;
    insist(false, "the memory of a ring that is detached is used");
  }

  #map(memory: LinearMemory, at: number, domid: number, refs: Uint32Array, status: Int16Array): void {
    status.fill(Gntst.okay);
    if (at < abi.PERSISTENT) return;
    const frontend = this.#of(memory);
    insist(domid === frontend.domid, "a page of another domain is mapped");
    refs.forEach((gref, i) => {
      const page = this.mapFails() ? undefined : frontend.pages.get(gref);
      status[i] = page ? Gntst.okay : Gntst.badGntref;
      if (page) this.#mapPage(frontend, page, at + i * PAGE_SIZE);
    });
  }

  #mapPage(frontend: Frontend, page: Page, at: number): void {
    insist(page.mappedAt === -1, "a page is mapped twice");
    const bytes = frontend.memory.u8.subarray(at, at + PAGE_SIZE);
    bytes.set(page.bytes);
    page.bytes = bytes;
    page.mappedAt = at;
    frontend.mapped.set(at, page);
    this.mappedPages++;
  }

  #unmap(memory: LinearMemory, at: number, pages: number): void {
    if (at < abi.PERSISTENT) return;
    const frontend = this.#of(memory);
    for (let i = 0; i < pages; i++) {
      const page = frontend.mapped.get(at + i * PAGE_SIZE);
      if (page === undefined) continue;
      insist(!frontend.disk.uses(page.mappedAt), "a page is unmapped under an I/O");
      page.own.set(page.bytes);
      page.bytes.fill(0);
      page.bytes = page.own;
      frontend.mapped.delete(page.mappedAt);
      page.mappedAt = -1;
      this.mappedPages--;
    }
  }

  #copy(memory: LinearMemory, table: number, count: number): void {
    const frontend = this.#of(memory);
    if (this.copyThrows()) {
      frontend.failed = true;
      throw new Error("the kernel refuses");
    }
    const view = new DataView(memory.memory.buffer);
    const copied = this.copied.get(frontend.domid) ?? { segments: 0, bytes: 0 };
    this.copied.set(frontend.domid, copied);
    for (let at = table; at < table + count * abi.COPY_BYTES; at += abi.COPY_BYTES) {
      const toGuest = view.getUint16(at + abi.COPY_FLAGS, true) === abi.COPY_DEST_GREF;
      const [grant, local] = toGuest ? [abi.COPY_DEST, abi.COPY_SOURCE] : [abi.COPY_SOURCE, abi.COPY_DEST];
      const length = view.getUint16(at + abi.COPY_LENGTH, true);
      const from = view.getUint16(at + grant + 4, true);
      const page = frontend.pages.get(view.getUint32(at + grant, true));
      copied.segments++;
      copied.bytes += length;
      insist(view.getUint16(at + grant + 6, true) === frontend.domid, "a page of another domain is copied");
      insist(view.getInt16(at + abi.COPY_STATUS, true) === -1, "a copy is carried out twice");
      view.setInt16(at + abi.COPY_STATUS, page ? Gntst.okay : Gntst.badGntref, true);
      if (!page) continue;
      insist(page.users > 0, "a page is used after its request was answered");
      const offset = Number(view.getBigUint64(at + local, true)) - memory.base;
      const own = memory.u8.subarray(offset, offset + length);
      const theirs = page.bytes.subarray(from, from + length);
      if (toGuest) theirs.set(own);
      else own.set(theirs);
    }
  }
}
