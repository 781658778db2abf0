/** The hypervisor's end of one process: what the process asks for, and what is undone when it ends. */
import type { Socket } from "node:net";
import type { Handle, Port } from "./arbiter.js";
import type { HostedDomain } from "./hosted-domain.js";
import type { Machine } from "./machine.js";
import { HypervisorError, Lines, type Request, type Result } from "./wire.js";

export class Session {
  readonly handles = new Map<number, Handle>();
  readonly #machine: Machine;
  readonly #socket: Socket;
  readonly #slots = new Set<number>();
  #domain: HostedDomain | null = null;
  #hasPages = false;
  #ended = false;

  /** `ended` is called once, when everything is undone. */
  constructor(machine: Machine, socket: Socket, ended: (session: Session) => void) {
    this.#machine = machine;
    this.#socket = socket;
    const lines = new Lines();
    const end = () => this.#end(ended);
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => this.#received(lines, chunk));
    // At the end of the stream already: the dead process' successor may be connecting in the same instant.
    socket.on("end", end);
    socket.on("error", end);
    socket.on("close", end);
  }

  close(): void {
    this.#socket.destroy();
  }

  #received(lines: Lines, chunk: string): void {
    try {
      for (const line of lines.push(chunk)) this.#answer(JSON.parse(line) as Request);
    } catch {
      // Not one of ours: it gets no answer.
      this.#socket.destroy();
    }
  }

  #answer(request: Request): void {
    let reply: Result;
    try {
      reply = { id: request.id, result: this.#carryOut(request) };
    } catch (error) {
      const { code = "EIO", message } = error as HypervisorError;
      reply = { id: request.id, error: { code, message } };
    }
    this.#socket.write(`${JSON.stringify(reply)}\n`);
  }

  #carryOut(request: Request): Result {
    if (request.op === "hello") {
      this.#domain = this.#machine.domain(request["domid"] as number);
      return {};
    }
    const domain = this.#alive();
    switch (request.op) {
      case "openEvtchn":
        return this.#openHandle(domain);
      case "closeEvtchn":
        return this.#closeHandle(this.#handle(request));
      case "allocUnbound":
        return this.#portOf(
          this.#machine.arbiter.allocUnbound(this.#handle(request), request["domid"] as number),
        );
      case "bindInterdomain":
        return this.#bind(request);
      case "unbind":
        return this.#unbind(this.#handle(request), request["port"] as number);
      case "openGntdev":
        return this.#openSlot();
      case "closeGntdev":
        return this.#closeSlot(request["slot"] as number);
      case "isSuspended":
        return { suspended: this.#machine.domains.get(request["domid"] as number)?.suspended ?? false };
      case "openPages":
        return this.#claimPages(domain);
      case "closePages":
        return this.#dropPages();
      default:
        throw new HypervisorError("ENOSYS", `there is no request "${request.op}"`);
    }
  }

  #alive(): HostedDomain {
    const domain = this.#domain;
    if (domain === null) throw new HypervisorError("EPROTO", "the first request must be hello");
    if (this.#machine.domains.get(domain.domid) === domain) return domain;
    throw new HypervisorError("ESRCH", `domain ${domain.domid} was destroyed`);
  }

  #handle(request: Request): Handle {
    const handle = this.handles.get(request["handle"] as number);
    if (handle === undefined) throw new HypervisorError("EBADF", "this event-channel handle is closed");
    return handle;
  }

  #openHandle(domain: HostedDomain): Result {
    const handle = this.#machine.openHandle(domain);
    this.handles.set(handle.id, handle);
    return { handle: handle.id };
  }

  #closeHandle(handle: Handle): Result {
    this.handles.delete(handle.id);
    this.#machine.closeHandle(handle);
    return {};
  }

  #bind(request: Request): Result {
    const remote = this.#machine.domain(request["domid"] as number);
    const remotePort = request["port"] as number;
    return this.#portOf(this.#machine.arbiter.bindInterdomain(this.#handle(request), remote, remotePort));
  }

  #unbind(handle: Handle, number: number): Result {
    const port = handle.space.ports.get(number);
    if (port === undefined || port.handle !== handle.id) {
      throw new HypervisorError("ENOTCONN", `port ${number} is not this handle's`);
    }
    this.#machine.arbiter.close(handle, port);
    return {};
  }

  #portOf(port: Port): Result {
    return { port: port.number };
  }

  #openSlot(): Result {
    const slot = this.#machine.takeSlot();
    this.#slots.add(slot);
    return { slot };
  }

  #closeSlot(slot: number): Result {
    if (this.#slots.delete(slot)) this.#machine.returnSlot(slot);
    return {};
  }

  #claimPages(domain: HostedDomain): Result {
    if (domain.pagesInUse) {
      throw new HypervisorError(
        "EBUSY",
        `another process is the guest of domain ${domain.domid}: end it first`,
      );
    }
    domain.pagesInUse = this.#hasPages = true;
    return {};
  }

  #dropPages(): Result {
    if (this.#hasPages && this.#domain) this.#domain.pagesInUse = false;
    this.#hasPages = false;
    return {};
  }

  #end(ended: (session: Session) => void): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const handle of this.handles.values()) this.#machine.closeHandle(handle);
    this.handles.clear();
    for (const slot of this.#slots) this.#machine.returnSlot(slot);
    this.#dropPages();
    this.#socket.end();
    ended(this);
  }
}
