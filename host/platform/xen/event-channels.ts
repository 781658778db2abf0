/** Event channels through /dev/xen/evtchn: one open file for all the ports of a reactor. */
import { closeSync, constants, openSync } from "node:fs";
import { ioctl, readNonBlocking, SystemError, writeNonBlocking } from "../libc.js";
import type { EventChannels } from "../ports.js";
import * as abi from "./abi.js";

/**
 * The file is not restricted to one domain (IOCTL_EVTCHN_RESTRICT_DOMID): it serves the rings of all guests that its
 * reactor has.
 */
export class XenEventChannels implements EventChannels {
  readonly fd: number;
  readonly #ports = new Set<number>();
  /** Ports whose events the kernel may have dropped; they are reported as if they had rung. */
  #missed: number[] = [];
  readonly #argument = new Uint32Array(2);
  readonly #argumentBytes = new Uint8Array(this.#argument.buffer);
  readonly #port = new Uint32Array(1);
  readonly #portBytes = new Uint8Array(this.#port.buffer);
  #closed = false;

  /** Throws the error of open(2). */
  constructor() {
    this.fd = openSync(abi.DEVICES.evtchn, constants.O_RDWR | constants.O_NONBLOCK);
  }

  async bindInterdomain(remoteDomid: number, remotePort: number): Promise<number> {
    this.#argument[0] = remoteDomid;
    this.#argument[1] = remotePort;
    return this.#bound(
      ioctl(
        this.fd,
        abi.IOCTL_EVTCHN_BIND_INTERDOMAIN,
        this.#argumentBytes,
        `BIND_INTERDOMAIN event channel ${remotePort} of domain ${remoteDomid}`,
      ),
    );
  }

  async allocUnbound(remoteDomid: number): Promise<number> {
    this.#argument[0] = remoteDomid;
    return this.#bound(
      ioctl(this.fd, abi.IOCTL_EVTCHN_BIND_UNBOUND_PORT, this.#argumentBytes, "BIND_UNBOUND_PORT"),
    );
  }

  async unbind(port: number): Promise<void> {
    if (!this.#ports.delete(port)) return;
    this.#argument[0] = port;
    ioctl(this.fd, abi.IOCTL_EVTCHN_UNBIND, this.#argumentBytes, `UNBIND ${port}`);
  }

  notify(port: number): void {
    if (!this.#ports.has(port)) return;
    this.#argument[0] = port;
    ioctl(this.fd, abi.IOCTL_EVTCHN_NOTIFY, this.#argumentBytes, `NOTIFY ${port}`);
  }

  read(ports: Uint32Array): number {
    if (this.#closed) return 0;
    if (this.#missed.length === 0) {
      const read = this.#read(ports);
      if (read >= 0) return read;
      this.#overflowed();
    }
    const missed = this.#missed.splice(0, ports.length);
    ports.set(missed);
    return missed.length;
  }

  unmask(port: number): void {
    if (!this.#ports.has(port)) return;
    this.#port[0] = port;
    writeNonBlocking(this.fd, this.#portBytes);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#ports.clear();
    // The kernel unbinds what is left.
    closeSync(this.fd);
  }

  #bound(port: number): number {
    this.#ports.add(port);
    return port;
  }

  /** Ports read, or -1 if the kernel's buffer has overflowed. */
  #read(ports: Uint32Array): number {
    const bytes = new Uint8Array(ports.buffer, ports.byteOffset, ports.byteLength);
    try {
      return readNonBlocking(this.fd, bytes) / 4;
    } catch (error) {
      if (error instanceof SystemError && error.code === "EFBIG") return -1;
      throw error;
    }
  }

  /** The buffer is emptied, events and all; what was in it is masked and must be re-armed like a port that rang. */
  #overflowed(): void {
    ioctl(this.fd, abi.IOCTL_EVTCHN_RESET, null, "RESET");
    this.#missed = [...this.#ports];
  }
}
