/**
 * What a daemon tells the service manager that has started it: sd_notify(3). Without one, every call does nothing.
 *
 * The datagrams go out through libc: Node has no Unix datagram sockets, and a program like systemd-notify, started anew
 * for each message, is not the main process that the unit's NotifyAccess wants to hear.
 */
import { sendDatagram } from "../platform/libc.js";

export class ServiceManager {
  readonly #socket: string | undefined;
  readonly #log: (line: string) => void;
  readonly #watchdog: NodeJS.Timeout | null;
  #status = "";

  /** Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and takes them out of `environment`: they are not for children. */
  constructor(log: (line: string) => void, environment: NodeJS.ProcessEnv = process.env) {
    const { NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID = String(process.pid) } = environment;
    for (const name of ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]) delete environment[name];
    this.#socket = NOTIFY_SOCKET;
    this.#log = log;
    const microseconds = WATCHDOG_PID === String(process.pid) ? Number(WATCHDOG_USEC ?? 0) : 0;
    this.#watchdog = microseconds > 0 ? this.#startWatchdog(microseconds / 1000) : null;
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

  /** Half the time allowed, as sd_watchdog_enabled(3) advises. It is this thread's word, and not the reactors'. */
  #startWatchdog(allowedMs: number): NodeJS.Timeout {
    return setInterval(() => this.#send("WATCHDOG=1"), allowedMs / 2).unref();
  }

  #send(message: string): void {
    if (this.#socket === undefined) return;
    try {
      sendDatagram(this.#socket, Buffer.from(message));
    } catch (error) {
      this.#log(`xbdback: the service manager does not hear: ${(error as Error).message}`);
    }
  }
}

/** For {@link ServiceManager.status}. */
export function summary(kind: string, vbds: readonly { waitsFor: string | null }[]): string {
  const working = vbds.filter((vbd) => vbd.waitsFor === null).length;
  const disks = vbds.length === 1 ? "1 disk" : `${vbds.length} disks`;
  return `serving backend/${kind}: ${disks}, ${working} connected`;
}
