/** From loaded requests to as few I/Os as their sectors allow, in the plain JavaScript peer: assembly/coalesce.ts. */
import * as abi from "../../assembly/abi.js";
import type { PlainConfig } from "./javascript.js";
import type { Grants } from "./javascript-grants.js";
import { Flag, type Request, State } from "./javascript-request.js";

const TWO_TO_32 = 4294967296;
const NONE = -1;

export class Ios {
  /** I/Os of this pass. */
  count = 0;
  readonly #view: DataView;
  readonly #config: PlainConfig;
  readonly #requests: Request[];
  readonly #grants: Grants;
  readonly #counters: number[];
  #openRead = NONE;
  #openWrite = NONE;

  constructor(view: DataView, config: PlainConfig, requests: Request[], grants: Grants, counters: number[]) {
    this.#view = view;
    this.#config = config;
    this.#requests = requests;
    this.#grants = grants;
    this.#counters = counters;
  }

  begin(): void {
    this.count = 0;
    this.#openRead = this.#openWrite = NONE;
  }

  plan(request: Request): void {
    const reads = request.operation === abi.BLKIF_OP_READ;
    const joins = (reads || request.operation === abi.BLKIF_OP_WRITE) && !(request.flags & Flag.Alone);
    const open = reads ? this.#openRead : this.#openWrite;
    request.state = State.Busy;
    if (joins && open !== NONE && this.#join(this.#requests[open], request)) return;
    this.#openIo(request);
    if (!joins) return;
    if (reads) this.#openRead = request.slot;
    else this.#openWrite = request.slot;
  }

  #openIo(request: Request): void {
    const { slot, segments } = request;
    request.ioSector = request.sector;
    request.ioSectors = request.sectors;
    request.ioLast = slot;
    request.ioRequests = 1;
    request.ioIovecs = segments > 0 ? this.#grants.addIovecs(slot, 0, request) : 0;
    const at = abi.IOS + slot * abi.IO_BYTES;
    this.#view.setUint8(at + abi.IO_OPERATION, ioOperation(request));
    this.#view.setUint8(at + abi.IO_FLAGS, ioFlags(request));
    this.#setU64(at + abi.IO_SECTOR, request.sector);
    this.#writeIo(request);
    this.#view.setUint16(abi.IO_LIST + this.count++ * 2, slot, true);
    this.#counters[abi.COUNT_IOS]++;
  }

  #writeIo(lead: Request): void {
    const at = abi.IOS + lead.slot * abi.IO_BYTES;
    this.#view.setUint16(at + abi.IO_IOVECS, lead.ioIovecs, true);
    this.#view.setUint32(at + abi.IO_LENGTH, lead.segments > 0 ? lead.ioSectors * 512 : 0, true);
    this.#setU64(at + abi.IO_SECTORS, lead.ioSectors);
  }

  #setU64(at: number, value: number): void {
    this.#view.setUint32(at, value, true);
    this.#view.setUint32(at + 4, value / TWO_TO_32, true);
  }

  #join(lead: Request, request: Request): boolean {
    if (lead.ioSector + lead.ioSectors !== request.sector) return false;
    if ((lead.ioSectors + request.sectors) * 512 > this.#config.maxIo) return false;
    const needed = request.flags & Flag.Mapped ? request.segments : 1;
    if (lead.ioIovecs + needed > abi.IOVECS_PER_SLOT) return false;
    lead.ioIovecs = this.#grants.addIovecs(lead.slot, lead.ioIovecs, request);
    lead.ioSectors += request.sectors;
    request.ioRequests = 0;
    this.#requests[lead.ioLast].next = request.slot;
    lead.ioLast = request.slot;
    lead.ioRequests++;
    this.#writeIo(lead);
    this.#counters[abi.COUNT_MERGED]++;
    return true;
  }
}

function ioOperation(request: Request): number {
  if (request.operation === abi.BLKIF_OP_READ) return abi.IO_READ;
  if (request.operation === abi.BLKIF_OP_DISCARD) return abi.IO_DISCARD;
  return request.segments > 0 ? abi.IO_WRITE : abi.IO_FLUSH;
}

function ioFlags(request: Request): number {
  if (request.operation === abi.BLKIF_OP_DISCARD) return request.flags & Flag.Secure ? abi.IO_SECURE : 0;
  if (request.segments === 0) return 0;
  if (request.operation === abi.BLKIF_OP_FLUSH_DISKCACHE) return abi.IO_PREFLUSH;
  return request.operation === abi.BLKIF_OP_WRITE_BARRIER ? abi.IO_PREFLUSH | abi.IO_FUA : 0;
}
