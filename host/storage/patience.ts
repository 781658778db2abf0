/** How long is waited for a server. */
export interface Patience {
  /** Milliseconds that a request waits for another connection after it has lost its own; then it fails with EIO. */
  readonly reconnectMs: number;
  /** Milliseconds after which a server that owes a reply and says nothing is given up; Infinity for never. */
  readonly silenceMs: number;
}

export const DEFAULT_PATIENCE: Patience = { reconnectMs: 60_000, silenceMs: 120_000 };
