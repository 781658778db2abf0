/**
 * The loopback hypervisor: domains without Xen, on one machine, for the processes of one user. It keeps files,
 * decides who has which port, and cleans up after processes that end. It does not see events or data pass.
 * It is no security boundary: whoever can open the directory can write to every domain.
 */
import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeSync,
} from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tryLock } from "../libc.js";
import type { Handle } from "./arbiter.js";
import { makeDirectory, refuseForeign } from "./directory.js";
import { HostedDomain } from "./hosted-domain.js";
import { paths } from "./layout.js";
import { Machine } from "./machine.js";
import { Session } from "./session.js";
import { checkSocketPath, HypervisorError } from "./wire.js";

const DOM0_MEMORY = 16 << 20;

export class Hypervisor {
  readonly directory: string;
  readonly #machine: Machine;
  readonly #server: Server;
  readonly #lock: number;
  readonly #sessions = new Set<Session>();

  /**
   * Makes `directory` (0700) or takes over that of a hypervisor that is dead, and creates domain 0. Rejects with
   * a {@link HypervisorError}: EBUSY when a hypervisor lives there, ENOTEMPTY when it holds anything else.
   */
  static async start(directory: string): Promise<Hypervisor> {
    checkSocketPath(paths.socket(directory));
    const lock = claim(directory);
    try {
      clear(directory);
      mkdirSync(paths.domains(directory), { mode: 0o700 });
      mkdirSync(paths.doorbells(directory), { mode: 0o700 });
      const hypervisor = new Hypervisor(directory, lock);
      await hypervisor.createDomain(0, DOM0_MEMORY);
      await hypervisor.#listen();
      return hypervisor;
    } catch (error) {
      closeSync(lock);
      throw error;
    }
  }

  private constructor(directory: string, lock: number) {
    this.directory = directory;
    this.#lock = lock;
    this.#machine = new Machine(directory);
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#connected(socket));
  }

  /** Memory is rounded up to 64 KiB and costs nothing until it is touched. */
  async createDomain(domid: number, memoryBytes: number): Promise<void> {
    const { domains } = this.#machine;
    if (domains.has(domid)) throw new HypervisorError("EEXIST", `domain ${domid} exists already`);
    domains.set(domid, new HostedDomain(this.directory, domid, memoryBytes));
  }

  /** Its peers' ports become unbound. Pages of it that are mapped stay until they are unmapped. */
  async destroyDomain(domid: number): Promise<void> {
    this.#machine.destroy(this.#machine.domain(domid), this.#handles());
  }

  /** A domain has stopped to be saved or migrated, or goes on. */
  setSuspended(domid: number, suspended: boolean): void {
    this.#machine.domain(domid).suspended = suspended;
  }

  /** Ends every session and removes the directory. */
  async close(): Promise<void> {
    this.#machine.stop();
    for (const session of this.#sessions) session.close();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const domain of [...this.#machine.domains.values()]) this.#machine.destroy(domain, []);
    rmSync(this.directory, { recursive: true, force: true });
    closeSync(this.#lock);
  }

  /** Ports of a domain that are in use. */
  portsInUse(domid: number): number {
    return this.#machine.domain(domid).ports.size;
  }

  /** Grants in use over all domains, each counted once for each grant table that uses it. */
  grantsInUse(): number {
    let count = 0;
    for (const { track } of this.#machine.domains.values()) count += track.count();
    return count;
  }

  /** Processes that are connected. */
  get sessions(): number {
    return this.#sessions.size;
  }

  *#handles(): Iterable<Handle> {
    for (const session of this.#sessions) yield* session.handles.values();
  }

  #connected(socket: Socket): void {
    this.#sessions.add(new Session(this.#machine, socket, (session) => this.#sessions.delete(session)));
  }

  async #listen(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(paths.socket(this.directory), resolve);
    });
  }
}

/** Locks the directory for as long as this process lives. Returns the lock's descriptor. */
function claim(directory: string): number {
  makeDirectory(directory);
  refuseForeign(directory);
  if (readdirSync(directory).length > 0 && !existsSync(paths.lock(directory))) {
    const message = `${directory} is not empty and not a hypervisor's: choose another directory`;
    throw new HypervisorError("ENOTEMPTY", message);
  }
  chmodSync(directory, 0o700);
  const lock = openLock(paths.lock(directory));
  if (!tryLock(lock, true)) {
    closeSync(lock);
    const pid = readFileSync(paths.lock(directory), "utf8").trim();
    const message = `${directory} is in use by the hypervisor of process ${pid}: stop it, or choose another directory`;
    throw new HypervisorError("EBUSY", message);
  }
  ftruncateSync(lock);
  writeSync(lock, `${process.pid}\n`);
  return lock;
}

function openLock(path: string): number {
  const { O_CREAT, O_RDWR, O_APPEND, O_NOFOLLOW, O_NONBLOCK } = constants;
  let lock = -1;
  try {
    lock = openSync(path, O_CREAT | O_RDWR | O_APPEND | O_NOFOLLOW | O_NONBLOCK, 0o600);
    const stats = fstatSync(lock);
    if (stats.isFile() && stats.nlink === 1 && stats.uid === process.geteuid?.()) return lock;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ELOOP") throw error;
  }
  if (lock >= 0) closeSync(lock);
  throw new HypervisorError("EPERM", `${path} is not a file of a hypervisor: choose another directory`);
}

/** Removes what a dead hypervisor left. */
function clear(directory: string): void {
  for (const path of [paths.domains, paths.doorbells, paths.journals, paths.socket]) {
    rmSync(path(directory), { recursive: true, force: true });
  }
}
