/** Event channels through /dev/xen/evtchn: one open file for all the ports of a reactor. */
import { closeSync, constants, openSync } from "node:fs";
import { constants as os } from "node:os";
import { ioctl, readNonBlocking, SystemError, writeNonBlocking } from "../libc.js";
import type { EventChannels } from "../ports.js";
import * as abi from "./abi.js";

const MAX_READ_BYTES = 256;

/**
 * The file is not restricted to one domain (IOCTL_EVTCHN_RESTRICT_DOMID): it serves the rings of all guests that its
 * reactor has.
 */
export class XenEventChannels implements EventChannels {
  readonly fd: number;
  readonly inbox = new Uint32Array(new ArrayBuffer(MAX_READ_BYTES));
  readonly #ports = new Set<number>();
  /** Ports whose events the kernel may have dropped; they are reported as if they had rung. */
  #missed: number[] = [];
  readonly #argument = new Uint32Array(2);
  readonly #argumentBytes = new Uint8Array(this.#argument.buffer);
  readonly #port = new Uint32Array(1);
  readonly #portBytes = new Uint8Array(this.#port.buffer);
  #write: (fd: number, port: number) => void = (fd, port) => {
    this.#port[0] = port;
    writeNonBlocking(fd, this.#portBytes);
  };
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
    ioctl(this.fd, abi.IOCTL_EVTCHN_NOTIFY, this.#argumentBytes, "NOTIFY");
  }

  read(ports: Uint32Array): number {
    if (this.#closed) return 0;
    if (this.#missed.length === 0) return this.received(this.#read(ports.length), ports);
    return this.#takeMissed(ports);
  }

  received(result: number, ports: Uint32Array): number {
    if (result === -os.errno.EFBIG) {
      this.#overflowed();
      return this.#takeMissed(ports);
    }
    if (result < 0) throw new SystemError("read", -result, "event channels");
    const count = result / 4;
    for (let i = 0; i < count; i++) ports[i] = this.inbox[i];
    return count;
  }

  unmask(port: number): void {
    if (this.#ports.has(port)) this.#write(this.fd, port);
  }

  unmaskBy(write: (fd: number, port: number) => void): void {
    this.#write = write;
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

  /** Bytes read into the inbox, or a negative errno. */
  #read(count: number): number {
    const bytes = new Uint8Array(this.inbox.buffer, 0, Math.min(4 * count, MAX_READ_BYTES));
    try {
      return readNonBlocking(this.fd, bytes);
    } catch (error) {
      return -(error as SystemError).errno;
    }
  }

  #takeMissed(ports: Uint32Array): number {
    const missed = this.#missed.splice(0, ports.length);
    ports.set(missed);
    return missed.length;
  }

  /** The buffer is emptied, events and all; what was in it is masked and must be re-armed like a port that rang. */
  #overflowed(): void {
    ioctl(this.fd, abi.IOCTL_EVTCHN_RESET, null, "RESET");
    this.#missed = [...this.#ports];
  }
}
