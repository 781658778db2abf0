/** What a server offers, and what is agreed with it: everything before the first queue. */
import { tooLarge } from "../size.js";
import { bit, CONFIG_BYTES, Config, Feature, Message, Protocol, Request, UNMAP } from "./abi.js";
import { makeArea, SHARED_BASE, SLICE_BYTES } from "./area.js";
import { holdsSector } from "./cut.js";
import type { Session } from "./session.js";
import type { Limits } from "./store.js";
import { mostSegments, type Shape } from "./virtqueue.js";

const SMALLEST_SECTOR = 512;
const LARGEST_SECTOR = 4096;
/** More are of no use: a guest has a ring for each of its queues, and we offer fewer. */
export const MOST_QUEUES = 16;
/** Longer segments than any I/O of a ring. */
const LONGEST_SEGMENT = 2 ** 30;
/** Of one discard, where the server names more. */
const LONGEST_DISCARD = 2 ** 21;

/** Sizes in bytes. */
export interface Offer {
  readonly size: number;
  readonly limits: Limits;
  readonly physicalSectorSize: number;
  readonly discardGranularity: number;
  readonly readOnly: boolean;
  readonly shape: Shape;
  readonly queues: number;
  /** The server says by itself that the disk has another size. */
  readonly announces: boolean;
}

/** Negotiates features, and reads the disk's configuration. Rejects with an Error that says what does not fit. */
export async function negotiate(session: Session): Promise<Offer> {
  const features = await session.askNumber(Message.getFeatures);
  const needed = bit(Feature.version1) | bit(Feature.protocolFeatures);
  if ((features & needed) !== needed)
    throw new Error("the server does not offer VIRTIO 1 and vhost-user's protocol features");
  const offered = await session.askNumber(Message.getProtocolFeatures);
  if ((offered & bit(Protocol.config)) === 0n)
    throw new Error("the server does not offer the CONFIG message; is it a vhost-user-blk server?");
  const { mq, replyAck, backendRequest, config } = Protocol;
  const protocol = offered & (bit(mq) | bit(replyAck) | bit(backendRequest) | bit(config));
  await session.tellNumber(Message.setProtocolFeatures, protocol);
  session.acknowledges = (protocol & bit(replyAck)) !== 0n;
  await session.tell(Message.setOwner);
  const agreed = features & KNOWN;
  await session.tellNumber(Message.setFeatures, agreed);
  const queues = protocol & bit(mq) ? Number(await session.askNumber(Message.getQueueNum)) : 1;
  if (queues === 0) throw new Error("the server offers 0 queues");
  const announces = (protocol & bit(backendRequest)) !== 0n;
  if (announces) await session.listen();
  const has = (feature: number): boolean => (agreed & bit(feature)) !== 0n;
  return { ...describe(await readConfig(session), has), queues: Math.min(queues, MOST_QUEUES), announces };
}

const KNOWN = Object.values(Feature).reduce((bits, feature) => bits | bit(feature), 0n);

/** Why another connection's disk is not the one that the guest was told of; null where it is. */
export function objectionTo(other: Offer, first: Offer, size: number): string | null {
  const [now, before] = [describeDisk(other, other.size), describeDisk(first, size)];
  if (now !== before) return `the server offers a different disk: ${now}, not ${before}`;
  if (other.readOnly && !first.readOnly) return "the server offers its disk read-only now";
  if (other.queues < first.queues)
    return `the server offers fewer queues than before: ${other.queues}, not ${first.queues}`;
  const limits = ({ limits: its, shape, physicalSectorSize, discardGranularity }: Offer): string =>
    JSON.stringify([its, shape, physicalSectorSize, discardGranularity]);
  return limits(other) === limits(first) ? null : "the server offers its disk with other limits than before";
}

function describeDisk({ limits }: Offer, size: number): string {
  return `${size} bytes in sectors of ${limits.sectorSize}`;
}

/** The server's struct virtio_blk_config. */
export async function readConfig(session: Session): Promise<Buffer> {
  const payload = Buffer.alloc(12 + CONFIG_BYTES);
  payload.writeUInt32LE(CONFIG_BYTES, 4);
  const reply = await session.ask(Message.getConfig, payload);
  if (reply.length < 12 + CONFIG_BYTES) throw session.violate("the server does not tell its configuration");
  return reply.subarray(12);
}

/** Bytes. */
export function sizeIn(config: Buffer, sectorSize: number): number {
  const sectors = config.readBigUInt64LE(Config.capacity);
  if (sectors > BigInt(Number.MAX_SAFE_INTEGER) / 512n) throw new Error(tooLarge(sectors * 512n));
  const bytes = Number(sectors) * 512;
  return bytes - (bytes % sectorSize);
}

function describe(config: Buffer, has: (feature: number) => boolean): Omit<Offer, "queues" | "announces"> {
  const u32 = (at: number): number => config.readUInt32LE(at);
  const sectorSize = has(Feature.blockSize) ? u32(Config.blockSize) : SMALLEST_SECTOR;
  const power = (sectorSize & (sectorSize - 1)) === 0;
  if (!power || sectorSize < SMALLEST_SECTOR || sectorSize > LARGEST_SECTOR)
    throw new Error(`has sectors of ${sectorSize} bytes; only 512 to 4096 can be served`);
  const shape = { indirect: has(Feature.indirect), eventIndex: has(Feature.eventIndex) };
  const segments = Math.min(
    has(Feature.segMax) ? u32(Config.segMax) : Number.POSITIVE_INFINITY,
    mostSegments(shape),
  );
  // qemu-storage-daemon 7.2 offers the limit, and leaves it at 0.
  const sizeMax = (has(Feature.sizeMax) && u32(Config.sizeMax)) || LONGEST_SEGMENT;
  const segmentBytes = Math.min(sizeMax - (sizeMax % sectorSize), LONGEST_SEGMENT);
  if (segmentBytes === 0 || segments === 0 || !holdsSector({ segments, sectorSize }))
    throw new Error(
      `the server's limits, ${segments} segments of ${sizeMax} bytes, do not allow requests of ${sectorSize} bytes`,
    );
  const readOnly = has(Feature.readOnly);
  const exponent = has(Feature.topology) ? config.readUInt8(Config.physicalExponent) : 0;
  const physicalSectorSize = Math.max(sectorSize, Math.min(sectorSize * 2 ** exponent, LARGEST_SECTOR));
  const discard = readOnly ? null : discardIn(config, has, sectorSize);
  const alignment = discard?.type === Request.discard ? u32(Config.discardAlignment) * 512 : 0;
  // What is no granularity that a guest could use is not told.
  const aligned = alignment <= LONGEST_SEGMENT && Number.isInteger(Math.log2(alignment)) ? alignment : 0;
  return {
    size: sizeIn(config, sectorSize),
    limits: { sectorSize, segments, segmentBytes, flush: has(Feature.flush), discard },
    physicalSectorSize,
    discardGranularity: Math.max(physicalSectorSize, aligned),
    readOnly,
    shape,
  };
}

/** DISCARD; where there is none, WRITE_ZEROES, if that frees space. */
function discardIn(config: Buffer, has: (feature: number) => boolean, sectorSize: number): Limits["discard"] {
  const whole = (sectors: number): number => {
    const most = Math.min(sectors, LONGEST_DISCARD);
    return most - (most % (sectorSize / 512));
  };
  const discards = has(Feature.discard) ? whole(config.readUInt32LE(Config.maxDiscardSectors)) : 0;
  if (discards > 0) return { type: Request.discard, sectors: discards, flags: 0 };
  if (!has(Feature.writeZeroes) || config.readUInt8(Config.writeZeroesMayUnmap) === 0) return null;
  const zeroes = whole(config.readUInt32LE(Config.maxWriteZeroesSectors));
  return zeroes > 0 ? { type: Request.writeZeroes, sectors: zeroes, flags: UNMAP } : null;
}

/** Makes the memory for so many queues, and shares it as one region. The memfd is the caller's to close. */
export async function share(session: Session, queues: number, keep: (fd: number) => void): Promise<void> {
  const fd = makeArea(queues);
  keep(fd);
  const payload = Buffer.alloc(8 + 32);
  payload.writeUInt32LE(1, 0);
  // Guest physical address, size, the client's own address, offset in the memfd.
  payload.writeBigUInt64LE(BigInt(SHARED_BASE), 8);
  payload.writeBigUInt64LE(BigInt(queues * SLICE_BYTES), 16);
  payload.writeBigUInt64LE(BigInt(SHARED_BASE), 24);
  await session.tell(Message.setMemTable, payload, [fd]);
}
