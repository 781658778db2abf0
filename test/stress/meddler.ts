/** What an operator may do to a guest's disk while the guest works. */
import { setTimeout as sleep } from "node:timers/promises";
import { type ControlRequest, control, controlStream } from "../../host/daemon/control.js";

const PAUSE_MS = 50;
const TURN_MS = 200;
/** Requests a second, and bytes; 0: no limit. */
const LIMITS = [
  { iops: 2000, bps: 0, burst: 0.1 },
  { iops: 0, bps: 50 << 20, burst: 0.01 },
  { iops: 20_000, bps: 200 << 20, burst: 1 },
  { iops: 0, bps: 0, burst: 1 },
];

export class Meddler {
  readonly #socket: string;
  readonly #vbds: readonly string[];
  readonly #until: () => boolean;
  /** How often it has changed something. */
  changes = 0;

  /** It goes on until `until` says so, and leaves no limit and no observer behind. */
  constructor(socket: string, vbds: readonly string[], until: () => boolean) {
    this.#socket = socket;
    this.#vbds = vbds;
    this.#until = until;
  }

  /** A disk may be away at the moment: its guest was killed, or connects anew. */
  async #ask(request: ControlRequest): Promise<void> {
    await control(this.#socket, request).then(
      () => {
        this.changes++;
      },
      () => {},
    );
  }

  async limit(): Promise<void> {
    for (let i = 0; !this.#until(); i++) {
      for (const vbd of this.#vbds) {
        await this.#ask({ command: "limit", vbd, limits: LIMITS[i % LIMITS.length] });
        if (i % 3 > 0) continue;
        await this.#ask({ command: "pause", vbd, paused: true });
        await sleep(PAUSE_MS);
        await this.#ask({ command: "pause", vbd, paused: false });
      }
      await sleep(TURN_MS);
    }
    for (const vbd of this.#vbds) await this.#ask({ command: "limit", vbd, limits: LIMITS.at(-1) });
  }

  async observe(): Promise<void> {
    for (let i = 0; !this.#until(); i++) {
      for (const vbd of this.#vbds) {
        const command = i % 2 === 0 ? "trace" : "record";
        await this.#listen({ command, vbd, ring: i % 4 });
      }
      await sleep(PAUSE_MS);
    }
  }

  /** For a moment; to hear no more ends it. */
  async #listen(request: ControlRequest): Promise<void> {
    const end = Date.now() + TURN_MS;
    try {
      for await (const _ of controlStream(this.#socket, request)) {
        this.changes++;
        if (Date.now() > end || this.#until()) break;
      }
    } catch {
      // As above.
    }
  }
}
