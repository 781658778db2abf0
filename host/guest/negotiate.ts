/** What a frontend reads and writes in xenstore to get its disk (xen/include/public/io/blkif.h). */
import type { Xenstore, XenstoreTransaction } from "../platform/ports.js";
import type { RingPages } from "./grants.js";
import { SECTOR } from "./layout.js";
import type { FrontRing } from "./ring.js";

/** What a disk of a backend may have: powers of 2 up to a page, to which segments are limited. */
const SECTOR_SIZES = [512, 1024, 2048, 4096];

/** VDISK_READONLY in `info`. */
const VDISK_READONLY = 4;

/** Where a disk's two ends are in xenstore. */
export interface Device {
  readonly devid: number;
  readonly frontend: string;
  readonly backend: string;
  readonly backendDomid: number;
}

/** What a backend offers before it knows the frontend. */
export interface Offer {
  readonly maxRingPageOrder: number;
  readonly maxQueues: number;
}

/** What a backend says of its disk when it is connected. */
export interface DiskDescription {
  /** 512-byte units, whatever `sectorSize` is. */
  readonly sectors: number;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  /** VDISK_* bits. */
  readonly info: number;
  readonly readOnly: boolean;
  readonly flushCache: boolean;
  readonly barrier: boolean;
  readonly discard: boolean;
  readonly secureDiscard: boolean;
  /** Bytes. */
  readonly discardGranularity: number;
  readonly discardAlignment: number;
  readonly persistent: boolean;
  /** Segments of one indirect request; 0 where there are none. */
  readonly maxIndirectSegments: number;
}

/** One ring and its event channel, ready to be offered to the backend. */
export interface Channel {
  readonly port: number;
  readonly ringPages: RingPages;
  readonly ring: FrontRing;
}

/** A key's number; `absent` where there is no key. Throws for what is not a decimal number. */
async function readNumber(xenstore: Xenstore, path: string, absent?: number): Promise<number> {
  const text = await xenstore.read(path);
  if (text === null && absent !== undefined) return absent;
  if (text === null) throw new Error(`${path} does not exist: the backend has not published its disk`);
  const value = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(value)) return value;
  throw new Error(`${path} is "${text}": a decimal number was expected`);
}

/** Finds a virtual device of a guest. Throws when the toolstack has not attached it. */
export async function findDevice(
  xenstore: Xenstore,
  domid: number,
  devid: number,
  backendDomid?: number,
): Promise<Device> {
  const frontend = `/local/domain/${domid}/device/vbd/${devid}`;
  const backend = await xenstore.read(`${frontend}/backend`);
  if (!backend)
    throw new Error(`domain ${domid} has no disk ${devid} (${frontend}/backend): attach it first`);
  const peer = backendDomid ?? (await readNumber(xenstore, `${frontend}/backend-id`));
  return { devid, frontend, backend, backendDomid: peer };
}

export async function readOffer(xenstore: Xenstore, backend: string): Promise<Offer> {
  const order = await readNumber(xenstore, `${backend}/max-ring-page-order`, 0);
  const pages = await readNumber(xenstore, `${backend}/max-ring-pages`, 1);
  const maxQueues = await readNumber(xenstore, `${backend}/multi-queue-max-queues`, 1);
  return { maxRingPageOrder: Math.max(order, Math.floor(Math.log2(pages || 1))), maxQueues };
}

/** Keys that describe rings. Those of an earlier connection must not be left beside ours. */
const RING_KEY =
  /^(ring-ref\d*|ring-page-order|num-ring-pages|event-channel|multi-queue-num-queues|queue-\d+)$/;

async function writeChannel(
  t: XenstoreTransaction,
  directory: string,
  channel: Channel,
  order: number,
): Promise<void> {
  const { refs } = channel.ringPages;
  if (order === 0) await t.write(`${directory}/ring-ref`, String(refs[0]));
  else for (const [i, ref] of refs.entries()) await t.write(`${directory}/ring-ref${i}`, String(ref));
  await t.write(`${directory}/event-channel`, String(channel.port));
}

/** Tells the backend everything about our rings, in one transaction. `protocol` null leaves that key out. */
export function publish(
  xenstore: Xenstore,
  frontend: string,
  channels: readonly Channel[],
  order: number,
  protocol: string | null,
  persistent: boolean,
): Promise<void> {
  return xenstore.transaction(async (t) => {
    const outdated = (key: string) => RING_KEY.test(key) || (key === "protocol" && protocol === null);
    for (const key of ((await t.directory(frontend)) ?? []).filter(outdated)) {
      await t.remove(`${frontend}/${key}`);
    }
    if (order > 0) await t.write(`${frontend}/ring-page-order`, String(order));
    if (channels.length === 1) await writeChannel(t, frontend, channels[0], order);
    else {
      await t.write(`${frontend}/multi-queue-num-queues`, String(channels.length));
      for (const [i, channel] of channels.entries())
        await writeChannel(t, `${frontend}/queue-${i}`, channel, order);
    }
    if (protocol !== null) await t.write(`${frontend}/protocol`, protocol);
    await t.write(`${frontend}/feature-persistent`, persistent ? "1" : "0");
  });
}

/** The disk's size in 512-byte units. */
export function readSectors(xenstore: Xenstore, backend: string): Promise<number> {
  return readNumber(xenstore, `${backend}/sectors`);
}

/** Reads what a connected backend says. Throws when something is missing or cannot be. */
export async function readDisk(xenstore: Xenstore, backend: string): Promise<DiskDescription> {
  const number = (key: string, absent?: number) => readNumber(xenstore, `${backend}/${key}`, absent);
  const feature = async (key: string) => (await number(key, 0)) !== 0;

  const sectors = await readSectors(xenstore, backend);
  const info = await number("info");
  const sectorSize = await number("sector-size");
  if (!SECTOR_SIZES.includes(sectorSize)) {
    throw new Error(`${backend}/sector-size is ${sectorSize}: it can be ${SECTOR_SIZES.join(", ")}`);
  }
  if ((sectors * SECTOR) % sectorSize !== 0) {
    throw new Error(`${backend}/sectors is ${sectors}: not a whole number of ${sectorSize}-byte sectors`);
  }
  return {
    sectors,
    sectorSize,
    physicalSectorSize: await number("physical-sector-size", sectorSize),
    info,
    readOnly: (info & VDISK_READONLY) !== 0,
    flushCache: await feature("feature-flush-cache"),
    barrier: await feature("feature-barrier"),
    discard: await feature("feature-discard"),
    secureDiscard: await feature("discard-secure"),
    discardGranularity: await number("discard-granularity", sectorSize),
    discardAlignment: await number("discard-alignment", 0),
    persistent: await feature("feature-persistent"),
    maxIndirectSegments: await number("feature-max-indirect-segments", 0),
  };
}

/** What a backend that gave up has to say (xenbus_dev_fatal), or null where it says nothing that we may read. */
export async function readBackendError(xenstore: Xenstore, backend: string): Promise<string | null> {
  const path = backend.replace(/^(\/local\/domain\/\d+)\//, "$1/error/");
  return xenstore.read(`${path}/error`).catch(() => null);
}
