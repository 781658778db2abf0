/**
 * What the backend and the frontend need of a hypervisor. Two platforms stand behind these ports: `loopback`
 * (no Xen; everything in files and sockets of one directory) and `xen` (/dev/xen/*).
 */
import type { LinearMemory } from "../core/memory.js";

/** GNTST_* of xen/include/public/grant_table.h. */
export const Gntst = {
  okay: 0,
  generalError: -1,
  badDomain: -2,
  badGntref: -3,
  badHandle: -4,
  badVirtAddr: -5,
  badDevAddr: -6,
  noDeviceSpace: -7,
  permissionDenied: -8,
  badPage: -9,
  badCopyArg: -10,
  addressTooBig: -11,
  eagain: -12,
  noSpace: -13,
} as const;

/** The backend's way to pages that other domains granted to it. */
export interface GrantTable {
  /**
   * Maps `refs.length` pages of `domid` at consecutive pages of linear memory from byte offset `at` (a multiple of
   * 4096), in as few system calls as possible. `status[i]` becomes the GNTST_* of `refs[i]`. A page whose status is
   * not 0 is an anonymous zero page afterwards, never a hole. Never throws for what a guest can cause.
   */
  map(
    memory: LinearMemory,
    at: number,
    domid: number,
    refs: Uint32Array,
    writable: boolean,
    status: Int16Array,
  ): void;

  /** Unmaps what `map` mapped at these pages (in any grouping) and leaves anonymous zero pages. */
  unmap(memory: LinearMemory, at: number, pages: number): void;

  /**
   * Carries out a table of `count` grant copies that lies at byte offset `table` of linear memory, in the layout of
   * `struct gntdev_grant_copy_segment` (linux/include/uapi/xen/gntdev.h), 24 bytes each: source @0 and
   * destination @8, either {u64 native address} or {u32 ref, u16 offset, u16 domid}; u16 len @16; u16 flags @18
   * (1 the source is a grant, 2 the destination is); s16 status @20, which is written for each, 0 included.
   */
  copy(memory: LinearMemory, table: number, count: number): void;

  /** Pages that are mapped now, over all memories: 0 when nothing leaks. */
  readonly mappedPages: number;

  close(): void;
}

/** A guest's own pages and its own side of the grant table: what a frontend needs of its domain. */
export interface GuestPages {
  readonly domid: number;
  /** All pages of the guest; frame n lies at byte offset n * 4096. */
  readonly memory: LinearMemory;
  /** The same bytes, for copies of data: V8 copies to and from shared memory a word at a time. */
  readonly bytes: Uint8Array;

  /** Takes `count` consecutive frames and returns the first. Throws when the guest is out of memory. */
  allocate(count: number): number;
  free(frame: number, count: number): void;

  /** Lets `domid` use a frame; returns the grant reference. Throws when the table is full. */
  grant(domid: number, frame: number, readOnly: boolean): number;

  /** Takes a grant back. False, and nothing done, while the other domain still has it mapped ("g.e. still in use"). */
  endAccess(ref: number): boolean;

  close(): Promise<void>;
}

/** One handle on event channels, as an open /dev/xen/evtchn is. Ports are the caller's domain's local ports. */
export interface EventChannels {
  /** A descriptor that polls readable when `read` has something. */
  readonly fd: number;

  /** Binds to a remote domain's unbound port. The new local port is pending at once (as in Xen). */
  bindInterdomain(remoteDomid: number, remotePort: number): Promise<number>;

  /** A new local port that `remoteDomid` may bind to. */
  allocUnbound(remoteDomid: number): Promise<number>;

  /** Closes a local port; the peer's goes back to unbound. */
  unbind(port: number): Promise<void>;

  /** Raises the peer's port. Costs nothing when it is already pending; no effect when there is no peer. */
  notify(port: number): void;

  /** Fills `ports` with pending local ports and returns how many. Each stays masked until `unmask`. Never blocks. */
  read(ports: Uint32Array): number;

  /** Where somebody else who reads `fd` (an io_uring) has its bytes put; this memory does not move. */
  readonly inbox: Uint32Array<ArrayBuffer>;
  /** As `read`, after read(2) of `fd` into `inbox`: `result` is the bytes that it got, or a negative errno. */
  received(result: number, ports: Uint32Array): number;

  /** Re-arms a port that was returned; an event that came meanwhile is delivered again. */
  unmask(port: number): void;
  /** Where a port is re-armed by writing its number to `fd`, `write` does that from now on; it may do so later. */
  unmaskBy(write: (fd: number, port: number) => void): void;

  close(): Promise<void>;
}

/**
 * A process' way into its hypervisor, as one of the processes of a domain. Each call opens a handle of its own; what is
 * open when the process ends, however it ends, is closed.
 */
export interface Domain {
  readonly domid: number;
  /** A handle on event channels, which gets the events of its own ports only. */
  eventChannels(): Promise<EventChannels>;
  /** Access to what other domains grant to this one. */
  grantTable(): Promise<GrantTable>;
  /**
   * Whether another domain is suspended: it has stopped to be saved or migrated, and may go on, here or elsewhere. Null where
   * this process is not told.
   */
  isSuspended(domid: number): Promise<boolean | null>;
  /** To be called when the handles are closed. */
  close(): Promise<void>;
}

/** Identifies a transaction that is open; obtained in {@link Xenstore.transaction} only. */
export interface XenstoreTransaction {
  read(path: string): Promise<string | null>;
  write(path: string, value: string): Promise<void>;
  directory(path: string): Promise<string[] | null>;
  mkdir(path: string): Promise<void>;
  remove(path: string): Promise<void>;
  setPermissions(path: string, permissions: readonly string[]): Promise<void>;
}

/** A watch that is registered. After `remove` resolves, the callback is not called any more. */
export interface XenstoreWatch {
  remove(): Promise<void>;
}

/**
 * A connection to xenstored. Methods reject with a {@link XenstoreError}, whose `code` is xenstore's own word
 * ("EACCES"), except that a missing node is `null`.
 */
export interface Xenstore extends XenstoreTransaction {
  permissions(path: string): Promise<string[] | null>;

  /**
   * Calls `changed` with the path that changed, at least once after registration, spuriously at times. Events that
   * wait to be delivered are merged by path, so that a storm cannot fill memory (XSA-349).
   */
  watch(path: string, changed: (path: string) => void): Promise<XenstoreWatch>;

  /** Whether xenstored knows a domain, as it does until the domain has died. Null where we may not ask. */
  isDomainIntroduced(domid: number): Promise<boolean | null>;

  /** Runs `body` in a transaction and again, a bounded number of times, while xenstored answers EAGAIN. */
  transaction<T>(body: (t: XenstoreTransaction) => Promise<T>): Promise<T>;

  /** Called once if the connection is lost. */
  onClose: ((error: Error) => void) | null;

  close(): void;
}

export class XenstoreError extends Error {
  readonly code: string;
  constructor(code: string, what: string) {
    super(`xenstore: ${what}: ${code}`);
    this.code = code;
  }
}
