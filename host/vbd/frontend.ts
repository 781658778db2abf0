/**
 * What a frontend published, read and judged. Every value is the guest's: nothing is believed before it is in range,
 * and nothing here decides more than how the ring is laid out (XSA-175, XSA-178).
 */
import { ABI_X86_32, ABI_X86_64, MAX_RING_PAGES } from "../../assembly/abi.js";
import type { Xenstore } from "../platform/ports.js";
import { scanNumber } from "../platform/xenbus-state.js";
import { quote } from "./diagnostics.js";

/** How a frontend connects. */
export interface FrontendConfig {
  /** As the `connected` diagnostic prints it. */
  readonly protocol: string;
  /** There was no `protocol`. */
  readonly assumed: boolean;
  /** ABI_X86_64 or ABI_X86_32. */
  readonly abi: number;
  readonly persistent: boolean;
  /** Pages of each queue's ring. */
  readonly ringPages: number;
  readonly queues: readonly { readonly ringRefs: Uint32Array; readonly eventChannel: number }[];
}

/** The request layout of a frontend that says nothing; native is the loopback platform's. */
export type AssumedProtocol = "native" | "x86_32-abi" | "arm-abi";

/**
 * What a frontend that says nothing means: native, as blkif.h has it, but on x86 what Linux takes it for (docs/xenbus.md).
 * On Arm, native has that name.
 */
export function assumedProtocolOn(platform: "loopback" | "xen", architecture: string): AssumedProtocol {
  if (platform === "loopback") return "native";
  return architecture === "arm64" ? "arm-abi" : "x86_32-abi";
}

/** What a frontend may say. */
export interface Expectation {
  /** What we offered, which bounds what it may ask for. */
  readonly maxQueues: number;
  readonly maxRingPageOrder: number;
  /** Our directory. */
  readonly backend: string;
  readonly assumedProtocol: AssumedProtocol;
}

/** A frontend wrote something that cannot be: the message names the key and the value. */
class FrontendError extends Error {}

const MAX_U32 = 0xffffffff;

/** Not there, or there but blank (GRUB blanks its keys when it hands over). */
function absent(value: string | null): value is null | "" {
  return value === null || value === "";
}

/** A decimal number from 0 to `max`. edk2 prints grant references with %d: a negative one is the u32 it came from. */
function number(key: string, value: string | null, max: number): number {
  if (absent(value)) throw new FrontendError(`${key} is missing`);
  // White space around it, and zeros in front, are a shell's or a sloppy frontend's; Linux reads such a number, too.
  if (!/^\s*-?0*[0-9]{1,10}\s*$/.test(value))
    throw new FrontendError(`${key} is ${quote(value)}, not a number`);
  const n = Number(value);
  const unsigned = n < 0 && max === MAX_U32 && n >= -0x80000000 ? n + 0x100000000 : n;
  if (unsigned < 0 || unsigned > max) throw new FrontendError(`${key} is ${n}, not in the range 0 to ${max}`);
  return unsigned;
}

function protocolOf(value: string | null, assumed: AssumedProtocol): { protocol: string; abi: number } {
  if (absent(value)) return { protocol: assumed, abi: assumed === "x86_32-abi" ? ABI_X86_32 : ABI_X86_64 };
  if (value === "x86_64-abi" || value === "arm-abi") return { protocol: value, abi: ABI_X86_64 };
  if (value === "x86_32-abi") return { protocol: value, abi: ABI_X86_32 };
  throw new FrontendError(`protocol ${quote(value)} is unknown (x86_64-abi, x86_32-abi, arm-abi)`);
}

/**
 * Reads a frontend's directory. Rejects with a {@link FrontendError} for what the guest did wrong. The guest owns its
 * directory, `backend` included, so that key proves nothing; but a frontend that names another backend has granted
 * its ring to that one, and what is left here is an older disk of the same number.
 */
export async function readFrontend(
  xenstore: Xenstore,
  path: string,
  offer: Expectation,
): Promise<FrontendConfig> {
  const read = (key: string): Promise<string | null> => xenstore.read(`${path}/${key}`);
  const backend = await read("backend");
  if (backend !== null && backend !== offer.backend) {
    throw new FrontendError(`backend is ${quote(backend)}, not ${offer.backend}`);
  }
  const protocolKey = await read("protocol");
  const { protocol, abi } = protocolOf(protocolKey, offer.assumedProtocol);
  const persistent = scanNumber(await read("feature-persistent")) === 1;
  const chosen = await readOrder(read, offer.maxRingPageOrder);
  const order = chosen ?? 0;
  const queuesKey = await read("multi-queue-num-queues");
  const queueCount = absent(queuesKey) ? 1 : number("multi-queue-num-queues", queuesKey, offer.maxQueues);
  if (queueCount === 0) throw new FrontendError("multi-queue-num-queues is 0");
  // With one queue the keys are at the top, unless the frontend wrote multi-queue-num-queues = 1 and queue-0.
  const below = queueCount > 1 || (!absent(queuesKey) && absent(await read("event-channel")));
  // All at once: a guest may be waiting, and the keys of four queues of sixteen pages are many.
  const queues = await Promise.all(
    Array.from({ length: queueCount }, (_, q) =>
      readQueue(read, below ? `queue-${q}/` : "", order, chosen !== null),
    ),
  );
  return { protocol, assumed: absent(protocolKey), abi, persistent, ringPages: 1 << order, queues };
}

/**
 * A ring's size, in either scheme of blkif.h (its notes 1 to 3): ring-page-order answers to our max-ring-page-order,
 * num-ring-pages to our max-ring-pages, and FreeBSD and OpenBSD write both. Null where the frontend says neither.
 */
async function readOrder(
  read: (key: string) => Promise<string | null>,
  maxOrder: number,
): Promise<number | null> {
  const [orderKey, pagesKey] = [await read("ring-page-order"), await read("num-ring-pages")];
  const order = absent(orderKey) ? null : number("ring-page-order", orderKey, maxOrder);
  if (order !== null && 1 << order > MAX_RING_PAGES) throw new FrontendError(`ring-page-order is ${order}`);
  if (absent(pagesKey)) return order;
  const pages = number("num-ring-pages", pagesKey, Math.min(1 << maxOrder, MAX_RING_PAGES));
  if (pages === 0 || (pages & (pages - 1)) !== 0)
    throw new FrontendError(`num-ring-pages is ${pages}, not a power of 2`);
  if (order !== null && pages !== 1 << order)
    throw new FrontendError(`num-ring-pages is ${pages}, but ring-page-order ${order} means ${1 << order}`);
  return Math.log2(pages);
}

async function readQueue(
  read: (key: string) => Promise<string | null>,
  prefix: string,
  order: number,
  hasOrder: boolean,
): Promise<FrontendConfig["queues"][number]> {
  const ringRefs = new Uint32Array(1 << order);
  const single = order === 0 ? await read(`${prefix}ring-ref`) : null;
  if (order === 0 && !(hasOrder && absent(single))) {
    // Without a size, a ring-ref0 is a leftover of an earlier frontend.
    ringRefs[0] = number(`${prefix}ring-ref`, single, MAX_U32);
  } else {
    const keys = Array.from(ringRefs, (_, i) => `${prefix}ring-ref${i}`);
    const values = await Promise.all(keys.map(read));
    for (const [i, key] of keys.entries()) ringRefs[i] = number(key, values[i], MAX_U32);
  }
  const eventChannel = number(`${prefix}event-channel`, await read(`${prefix}event-channel`), MAX_U32);
  return { ringRefs, eventChannel };
}
