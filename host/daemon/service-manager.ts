/**
 * What a daemon tells the service manager that has started it: sd_notify(3), and which descriptors it leaves there for the
 * next process: sd_listen_fds(3). Without one, every call does nothing.
 *
 * The datagrams go out through libc: Node has no Unix datagram sockets, and a program like systemd-notify, started anew
 * for each message, is not the main process that the unit's NotifyAccess wants to hear.
 */
import { readlinkSync } from "node:fs";
import { sendDatagram } from "../platform/datagram.js";
import { OWN_VARIABLES } from "../platform/service-variables.js";

/** A descriptor that an earlier process has left with the service manager. */
export interface Inherited {
  readonly name: string;
  readonly fd: number;
}

/** SD_LISTEN_FDS_START. */
const FIRST_FD = 3;

export class ServiceManager {
  readonly inherited: readonly Inherited[];
  readonly #socket: string | undefined;
  readonly #log: (line: string) => void;
  readonly #watchdog: NodeJS.Timeout | null;
  /** Resolves when every thread that must be at work has answered. */
  alive: () => Promise<void> = async () => {};
  /** An answer is waited for. */
  #asking = false;
  #status = "";

  /** Reads {@link OWN_VARIABLES} and takes them out of `environment`. */
  constructor(log: (line: string) => void, environment: NodeJS.ProcessEnv = process.env) {
    const { NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID = String(process.pid) } = environment;
    this.inherited = inheritedBy(environment);
    for (const name of OWN_VARIABLES) delete environment[name];
    this.#socket = NOTIFY_SOCKET;
    this.#log = log;
    const microseconds = WATCHDOG_PID === String(process.pid) ? Number(WATCHDOG_USEC ?? 0) : 0;
    this.#watchdog = microseconds > 0 ? this.#startWatchdog(microseconds / 1000) : null;
  }

  /** Whether there is one. */
  get present(): boolean {
    return this.#socket !== undefined;
  }

  /** Leaves an open file with the service manager until it is removed or the unit stops; a kill and a restart keep it. */
  storeDescriptor(name: string, fd: number): void {
    this.#send(`FDSTORE=1\nFDNAME=${name}`, fd);
  }

  /** Removes all descriptors of this name. */
  removeDescriptors(name: string): void {
    this.#send(`FDSTOREREMOVE=1\nFDNAME=${name}`);
  }

  /** The daemon serves. Also after {@link reloading}. */
  ready(): void {
    this.#send("READY=1");
  }

  /** One line for `systemctl status`; sent when it is news. */
  status(line: string): void {
    if (line === this.#status) return;
    this.#status = line;
    this.#send(`STATUS=${line.replaceAll("\n", " ")}`);
  }

  reloading(): void {
    // systemd compares the time with that of its signal, by the same clock.
    this.#send(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  }

  /** The last that is said. */
  stopping(): void {
    if (this.#watchdog) clearInterval(this.#watchdog);
    this.#send("STOPPING=1");
  }

  /** Half the time allowed, as sd_watchdog_enabled(3) advises. */
  #startWatchdog(allowedMs: number): NodeJS.Timeout {
    return setInterval(() => void this.#feed(), allowedMs / 2).unref();
  }

  /** A thread that does not answer has us killed, in the end: guests wait then for the next process, and not for ever. */
  async #feed(): Promise<void> {
    if (this.#asking) {
      this.#log("xbdback: a thread does not answer; the watchdog is not notified");
      return;
    }
    this.#asking = true;
    try {
      await this.alive();
      this.#send("WATCHDOG=1");
    } catch {
      // Its end is told elsewhere.
    } finally {
      this.#asking = false;
    }
  }

  #send(message: string, descriptor: number | null = null): void {
    if (this.#socket === undefined) return;
    try {
      sendDatagram(this.#socket, Buffer.from(message), descriptor);
    } catch (error) {
      this.#log(`xbdback: the service manager cannot be notified: ${(error as Error).message}`);
    }
  }
}

function inheritedBy({ LISTEN_FDS = "0", LISTEN_FDNAMES = "", LISTEN_PID }: NodeJS.ProcessEnv): Inherited[] {
  if (LISTEN_PID !== String(process.pid)) return [];
  const names = LISTEN_FDNAMES.split(":");
  const inherited: Inherited[] = [];
  // The number is not taken on trust: what is above belongs to this process.
  for (let fd = FIRST_FD; fd < FIRST_FD + Number(LISTEN_FDS) && isFile(fd); fd++)
    inherited.push({ name: names[fd - FIRST_FD] ?? "", fd });
  return inherited;
}

/** An open file, and not what this process has opened itself. Told by the kernel: the file's own file system may hang. */
function isFile(fd: number): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).startsWith("/");
  } catch {
    return false;
  }
}

/** For {@link ServiceManager.status}. */
export function summary(
  kind: string,
  vbds: readonly { waitsFor: string | null }[],
  problems: readonly string[] = [],
): string {
  const working = vbds.filter((vbd) => vbd.waitsFor === null).length;
  const disks = vbds.length === 1 ? "1 disk" : `${vbds.length} disks`;
  const state = `serving backend/${kind}: ${disks}, ${working} connected`;
  return [state, ...problems].join("; ");
}
