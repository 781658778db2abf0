/** When a long-running command ends. */

/**
 * Resolves at SIGTERM, SIGHUP or SIGINT, or, with `withParent`, when standard input ends: then SIGINT, which a terminal sends
 * to the whole group, is the parent's to handle. A second signal ends the process at once.
 */
export function untilStopped(withParent: boolean): Promise<void> {
  return new Promise((resolve) => {
    let signals = 0;
    const stop = (): void => {
      if (++signals > 1) process.exit(1);
      resolve();
    };
    process.on("SIGTERM", stop);
    // The terminal is gone; what was started must not stay behind.
    process.on("SIGHUP", stop);
    process.on("SIGINT", withParent ? () => {} : stop);
    if (!withParent) return;
    process.stdin.on("end", resolve).on("error", resolve).resume();
    process.stdin.unref?.();
  });
}

/** From now on the signal is for this listener alone. There is always one, so that no signal is lost meanwhile. */
export function handleInstead(signal: NodeJS.Signals, listener: () => void): void {
  const before = process.listeners(signal);
  process.on(signal, listener);
  for (const other of before) process.off(signal, other);
}
