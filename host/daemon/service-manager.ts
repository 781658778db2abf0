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
  /** Resolves when every thread that must be at work has answered. */
  alive: () => Promise<void> = async () => {};
  /** An answer is waited for. */
  #asking = false;
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

  #send(message: string): void {
    if (this.#socket === undefined) return;
    try {
      sendDatagram(this.#socket, Buffer.from(message));
    } catch (error) {
      this.#log(`xbdback: the service manager cannot be notified: ${(error as Error).message}`);
    }
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
