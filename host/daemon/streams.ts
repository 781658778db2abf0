/** What is read from the control socket item by item, one a line: traces and recordings, until the asker goes, and commits. */
import { setTimeout as sleep } from "node:timers/promises";
import { decodeTrace, TRACE_EVENT_BYTES } from "../reactor/tracer.js";
import type { Observation } from "../vbd/observation.js";
import type { Vbd } from "../vbd/vbd.js";
import { ControlError, sayBusy } from "./control.js";

/** How often the rings' queues are looked at, and an item is sent even if there is nothing to tell. */
const INTERVAL_MS = 25;
const HEARTBEAT_MS = 1000;
/** Events of a ring that are passed on at a time. This thread has other things to do; the rest is dropped, and counted. */
const MAX_EVENTS = 250;
/** A line of base64 stays well below what the other end takes. */
const MAX_BYTES = 1 << 22;
/** What is in flight may take as long as this to end before a recording begins. The guest waits meanwhile. */
const REST_MS = 5000;

/** A request as {@link TraceEvent} has it, fit for JSON: `request` in hexadecimal. */
export interface TraceItem {
  readonly time: number;
  readonly ring: number;
  readonly latency: number | null;
  readonly sectors: number;
  readonly status: number;
  readonly abi: "x86_64" | "x86_32";
  readonly request: string;
}

/** Of a trace. */
export interface TraceLine {
  readonly events?: readonly TraceItem[];
  /** Requests that are not told: there were too many. */
  readonly dropped?: number;
  /** Why there will be no more; the last line. */
  readonly ended?: string;
}

/** Of a recording. */
export interface RecordLine {
  /** Of the session file, in base64. */
  readonly data?: string;
  readonly ended?: string;
}

/** Of a commit: how much is copied, and at its end what the disk is. */
export interface CommitLine {
  /** Bytes, of so many; that grows with what the guest writes. */
  readonly copied?: number;
  readonly total?: number;
  /** The disk from now on, its bytes, and the file that is not used any more; the last line. */
  readonly target?: string;
  readonly size?: number;
  readonly overlay?: string;
}

/** Writes a vbd's overlay back; that is given up when the signal comes. */
export async function* commit(vbd: Vbd, signal: AbortSignal): AsyncGenerator<CommitLine> {
  let line: CommitLine = {};
  const committing = vbd.commit(signal, ({ copied, total }) => {
    line = { copied, total };
  });
  const ended = committing.then(
    (made) => ({ made }),
    (error: unknown) => ({ error }),
  );
  for (;;) {
    const end = await Promise.race([ended, sleep(HEARTBEAT_MS, null, { ref: false })]);
    if (end === null) yield line;
    else if ("error" in end) sayBusy(end.error);
    else return yield { ...end.made, size: vbd.status().size };
  }
}

/** Yields what `look` finds until it has told of an end or the signal comes, and nothing now and then. */
async function* watch<T extends { readonly ended?: string }>(
  observations: readonly Observation[],
  signal: AbortSignal,
  look: () => T,
): AsyncGenerator<T | object> {
  try {
    for (let told = performance.now(); !signal.aborted; ) {
      const found = look();
      const now = performance.now();
      if (Object.keys(found).length > 0 || now - told >= HEARTBEAT_MS) {
        told = now;
        yield found;
        if (found.ended !== undefined) return;
      }
      await sleep(INTERVAL_MS, undefined, { signal }).catch(() => {});
    }
  } finally {
    await Promise.all(observations.map((observation) => observation.close()));
  }
}

/** Every request of a vbd, or of one of its rings, as it is answered. */
export async function* trace(
  vbd: Vbd,
  ring: number | undefined,
  signal: AbortSignal,
): AsyncGenerator<TraceLine> {
  const observations = await vbd.observe("trace", ring);
  yield* watch(observations, signal, () => {
    let dropped = 0;
    const ends: string[] = [];
    const events = observations.flatMap(({ ring, queue }) => {
      const { ended } = queue;
      const bytes = queue.read(MAX_EVENTS * TRACE_EVENT_BYTES);
      dropped += queue.takeDropped();
      if (ended !== null && bytes.length === 0) ends.push(ended);
      return decodeTrace(bytes).map(({ request, ...event }) => ({
        ...event,
        ring,
        request: Buffer.from(request).toString("hex"),
      }));
    });
    events.sort((a, b) => a.time - b.time);
    return {
      ...(events.length > 0 ? { events } : {}),
      ...(dropped > 0 ? { dropped } : {}),
      ...(ends.length === observations.length ? { ended: ends[0] } : {}),
    };
  });
}

/** The session of a ring, from a moment on at which nothing is in flight. */
export async function* record(vbd: Vbd, ring: number, signal: AbortSignal): AsyncGenerator<RecordLine> {
  const observations = await vbd.observe("record", ring);
  const [{ queue }] = observations;
  const since = performance.now();
  yield* watch(observations, signal, () => {
    if (queue.waits && performance.now() - since > REST_MS) {
      throw new ControlError(
        `requests in flight have not completed in ${REST_MS / 1000} s, so the recording cannot begin: ` +
          "`xbdback show` shows what is stuck",
        "busy",
      );
    }
    const { ended } = queue;
    const bytes = queue.read(MAX_BYTES);
    if (bytes.length > 0) return { data: Buffer.from(bytes).toString("base64") };
    return ended === null ? {} : { ended };
  });
}
