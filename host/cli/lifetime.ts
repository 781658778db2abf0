/** When a long-running command ends. */
import { exitAtOnce } from "../platform/libc.js";
import { CliError, Exit, signalled } from "./errors.js";

/** Set when standard output failed and a command is stopping, in order, because of that. */
let outputFailure: Error | null = null;

/**
 * Ends the process when nobody reads what it prints, with 0, or when it cannot be written. A command that has to clean up
 * behind itself is stopped as by SIGTERM. Returns what tells why, once it has happened.
 */
export function stopAtOutputError(): () => Error | null {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (outputFailure) return;
    const told = new CliError(`can't write to standard output: ${error.code}`, Exit.failure);
    outputFailure = error.code === "EPIPE" ? error : told;
    process.exitCode = error.code === "EPIPE" ? Exit.ok : Exit.failure;
    if (process.listenerCount("SIGTERM") > 0) process.emit("SIGTERM", "SIGTERM");
    else if (error.code === "EPIPE") process.exit();
    else throw told;
  });
  return () => outputFailure;
}

/**
 * Resolves with the signal at SIGTERM, SIGHUP or SIGINT, or, with `withParent`, when standard input ends: then SIGINT, which a terminal sends
 * to the whole group, is the parent's to handle. A second signal ends the process at once.
 */
export function untilStopped(withParent: boolean): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let signals = 0;
    const stop = (signal: NodeJS.Signals = "SIGTERM"): void => {
      if (++signals > 1) exitAtOnce(signalled(signal));
      resolve(signal);
    };
    process.on("SIGTERM", stop);
    // The terminal is gone; what was started must not stay behind.
    process.on("SIGHUP", stop);
    process.on("SIGINT", withParent ? () => {} : stop);
    if (!withParent) return;
    const ended = (): void => resolve("SIGTERM");
    process.stdin.on("end", ended).on("error", ended).resume();
    process.stdin.unref?.();
  });
}

/** From now on the signal is for this listener alone. There is always one, so that no signal is lost meanwhile. */
export function handleInstead(signal: NodeJS.Signals, listener: () => void): void {
  const before = process.listeners(signal);
  process.on(signal, listener);
  for (const other of before) process.off(signal, other);
}
