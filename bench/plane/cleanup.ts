/** What must not stay behind when a benchmark is interrupted. */

const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

const actions = new Set<() => void>();

/** Runs `action` when the process exits, unless the returned function is called before; what was added last comes first. */
export function atExit(action: () => void): () => void {
  actions.add(action);
  return () => void actions.delete(action);
}

/** From now on a signal ends the process by way of its exit, with the status that a shell shows. */
export function exitOnSignals(): void {
  process.on("exit", () => {
    for (const action of [...actions].reverse()) action();
  });
  for (const [name, number] of Object.entries(SIGNALS)) process.on(name, () => process.exit(128 + number));
}
