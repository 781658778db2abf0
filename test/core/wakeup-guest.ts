/** The guest of wakeup.test.ts: a thread that pushes requests and sleeps whenever the ring's event indices allow it. */
import { parentPort, workerData } from "node:worker_threads";
import * as abi from "../../assembly/abi.js";
import { BACKEND, DONE, GUEST, raise, sleep, type WakeupData } from "./wakeup-events.js";

const { buffer, events, total, entries } = workerData as WakeupData;
const ring = new Uint32Array(buffer);
const view = new DataView(buffer);
const STRIDE = 112;
const [REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT] = [0, 4, 8, 12].map((at) => (abi.SRING + at) >> 2);

let seed = 42;
const random = (n: number): number => (seed = (seed * 48271) % 0x7fffffff) % n;

const start = ring[REQ_PROD];
let produced = start;
let consumed = start;

function produce(count: number): void {
  const old = produced;
  for (let i = 0; i < count; i++, produced = (produced + 1) >>> 0) {
    const at = abi.SRING_ENTRIES + (produced & (entries - 1)) * STRIDE;
    view.setUint8(at, 4);
    view.setBigUint64(at + 8, BigInt(produced), true);
  }
  Atomics.store(ring, REQ_PROD, produced);
  const event = Atomics.load(ring, REQ_EVENT);
  if ((produced - event) >>> 0 < (produced - old) >>> 0) raise(events, BACKEND);
}

/** Takes what is there. False if a response is not the one that must come next. */
function consume(): boolean {
  const published = Atomics.load(ring, RSP_PROD);
  for (; consumed !== published; consumed = (consumed + 1) >>> 0) {
    const at = abi.SRING_ENTRIES + (consumed & (entries - 1)) * STRIDE;
    if (view.getBigUint64(at, true) !== BigInt(consumed) || view.getInt16(at + 10, true) !== -2) return false;
  }
  return true;
}

function outcome(): string {
  while ((consumed - start) >>> 0 < total) {
    const free = Math.min(entries - ((produced - consumed) >>> 0), total - ((produced - start) >>> 0));
    if (free > 0) produce(random(8) === 0 ? random(free) + 1 : 1);
    // One by one and at any moment: some come just when the backend decides whether to sleep.
    for (let delay = random(200); delay > 0; delay--) Atomics.load(ring, RSP_PROD);
    if (!consume()) return `a wrong response at ${consumed}`;
    if (produced === consumed || (free > 1 && random(16) !== 0)) continue;
    Atomics.store(ring, RSP_EVENT, consumed + 1);
    if (Atomics.load(ring, RSP_PROD) !== consumed) continue;
    if (!sleep(events, GUEST)) return `nobody woke the guest at ${consumed} of ${produced}`;
  }
  return "done";
}

parentPort?.once("message", () => {
  const result = outcome();
  Atomics.store(events, DONE, 1);
  raise(events, BACKEND);
  parentPort?.postMessage(result);
});
parentPort?.postMessage("ready");
