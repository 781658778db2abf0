/**
 * What the hypervisor says of other domains: whether one is suspended. xenstored tells that a domain has shut down, and not
 * why. The answer is a domctl's (xen/include/public/domctl.h), which Xen gives to privileged domains, in a version that each
 * release has of its own; the words used here are at the same place in all of them.
 */
import { closeSync, constants, openSync } from "node:fs";
import { ioctl, mapBuffer, unmapBuffer } from "../libc.js";
import {
  CONTROL_DEVICES,
  HYPERCALL_ARGUMENT,
  HYPERCALL_BYTES,
  HYPERCALL_OP,
  IOCTL_PRIVCMD_HYPERCALL,
} from "./abi.js";

const HYPERVISOR_DOMCTL = 36;
const GETDOMAININFO = 5;
/** Of Xen 4.10 and of what may come. */
const OLDEST_INTERFACE = 0x0f;
const NEWEST_INTERFACE = 0x40;

/** struct xen_domctl: u32 cmd @0, u32 interface version @4, u16 domid @8, the union @16: u16 domid @16, u32 flags @20. */
const COMMAND = 0;
const VERSION = 4;
const DOMID = 8;
const ANSWERED_DOMID = 16;
const FLAGS = 20;
const BUFFER_BYTES = 4096;

const DYING = 1 << 0;
const SHUT_DOWN = 1 << 2;
const REASON_SHIFT = 16;
const REASON_MASK = 0xff;
const SUSPEND = 2;

interface Way {
  readonly fd: number;
  readonly address: number;
  readonly words: DataView;
  version: number | null;
}

export class DomainStates {
  #way: Way | null = null;
  #none = false;

  /** Null where this process may not ask; false, too, of a domain that is not there. */
  isSuspended(domid: number): boolean | null {
    if (this.#none) return null;
    try {
      this.#way ??= open();
      const flags = ask(this.#way, domid);
      return flags !== null && suspended(flags);
    } catch {
      this.close();
      this.#none = true;
      return null;
    }
  }

  close(): void {
    const way = this.#way;
    this.#way = null;
    if (way === null) return;
    unmapBuffer(way.address, BUFFER_BYTES);
    closeSync(way.fd);
  }
}

/** Of XEN_DOMINF_*. */
export function suspended(flags: number): boolean {
  const stopped = (flags & SHUT_DOWN) !== 0 && (flags & DYING) === 0;
  return stopped && ((flags >>> REASON_SHIFT) & REASON_MASK) === SUSPEND;
}

/** Throws where this process was not given the devices. */
function open(): Way {
  const fd = openSync(CONTROL_DEVICES.privcmd, constants.O_RDWR);
  let memory = -1;
  try {
    // Pages that the kernel does not move while the hypervisor writes to them.
    memory = openSync(CONTROL_DEVICES.hypercall, constants.O_RDWR);
    const { address, bytes } = mapBuffer(memory, 0, BUFFER_BYTES);
    return { fd, address, words: new DataView(bytes), version: null };
  } catch (error) {
    closeSync(fd);
    throw error;
  } finally {
    if (memory >= 0) closeSync(memory);
  }
}

/** XEN_DOMINF_* of a domain; null where there is none. Throws where Xen does not answer us. */
function ask(way: Way, domid: number): number | null {
  if (way.version !== null) return info(way, way.version, domid);
  for (let version = OLDEST_INTERFACE; ; version++) {
    try {
      // Of our own control domain, which is there in any case.
      info(way, version, 0);
      way.version = version;
      return info(way, version, domid);
    } catch (error) {
      // Xen's word for another version.
      if ((error as NodeJS.ErrnoException).code !== "EACCES" || version === NEWEST_INTERFACE) throw error;
    }
  }
}

function info({ fd, address, words }: Way, version: number, domid: number): number | null {
  new Uint8Array(words.buffer, words.byteOffset, BUFFER_BYTES).fill(0);
  words.setUint32(COMMAND, GETDOMAININFO, true);
  words.setUint32(VERSION, version, true);
  words.setUint16(DOMID, domid, true);
  const call = new DataView(new ArrayBuffer(HYPERCALL_BYTES));
  call.setBigUint64(HYPERCALL_OP, BigInt(HYPERVISOR_DOMCTL), true);
  call.setBigUint64(HYPERCALL_ARGUMENT, BigInt(address), true);
  try {
    ioctl(fd, IOCTL_PRIVCMD_HYPERCALL, new Uint8Array(call.buffer), "PRIVCMD_HYPERCALL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return null;
    throw error;
  }
  // Some releases answer with the next domain.
  return words.getUint16(ANSWERED_DOMID, true) === domid ? words.getUint32(FLAGS, true) : null;
}
