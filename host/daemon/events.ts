/** What happens to disks, for toolstacks and hooks that want to hear of it: each event to everyone who follows, as it comes. */
import { setTimeout as sleep } from "node:timers/promises";
import { type VbdId, vbdName } from "../vbd/name.js";
import type { VbdEventName } from "../vbd/vbd-log.js";

export interface VbdEvent extends VbdId {
  /** ISO 8601. */
  readonly time: string;
  readonly event: VbdEventName;
  readonly name: string;
  /** For people. */
  readonly message: string;
}

/** What one who follows is told at a time; nothing, now and then, as a sign of life. */
export interface EventLine {
  readonly events?: readonly VbdEvent[];
  /** Events that are not told: there were too many since the last line. */
  readonly dropped?: number;
}

/** For one who does not read. */
const MOST_WAITING = 1000;
const HEARTBEAT_MS = 1000;

interface Follower {
  waiting: VbdEvent[];
  dropped: number;
  wake: () => void;
}

export class Events {
  readonly #followers = new Set<Follower>();

  tell(vbd: VbdId, event: VbdEventName, message: string): void {
    if (this.#followers.size === 0) return;
    const { domid, devid } = vbd;
    const time = new Date().toISOString();
    const told: VbdEvent = { time, event, name: vbdName(vbd), domid, devid, message };
    for (const follower of this.#followers) {
      if (follower.waiting.length < MOST_WAITING) follower.waiting.push(told);
      else follower.dropped++;
      follower.wake();
    }
  }

  /** Events from now on, until the signal comes. The first line is empty: it says that none is missed any more. */
  async *follow(signal: AbortSignal): AsyncGenerator<EventLine> {
    const follower: Follower = { waiting: [], dropped: 0, wake: () => {} };
    this.#followers.add(follower);
    try {
      yield {};
      while (!signal.aborted) {
        if (follower.waiting.length === 0) await nextOf(follower, signal);
        const { waiting, dropped } = follower;
        follower.waiting = [];
        follower.dropped = 0;
        yield { ...(waiting.length > 0 && { events: waiting }), ...(dropped > 0 && { dropped }) };
      }
    } finally {
      this.#followers.delete(follower);
    }
  }
}

/** Resolves with an event, after a while without one, or with the signal. */
async function nextOf(follower: Follower, signal: AbortSignal): Promise<void> {
  const heard = new AbortController();
  follower.wake = () => heard.abort();
  await sleep(HEARTBEAT_MS, undefined, { signal: AbortSignal.any([signal, heard.signal]) }).catch(() => {});
  follower.wake = () => {};
}
