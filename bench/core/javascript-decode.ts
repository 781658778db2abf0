/** From the private copy of a ring entry to a checked request, in the plain JavaScript peer: assembly/decode.ts. */
import * as abi from "../../assembly/abi.js";
import type { PlainConfig } from "./javascript.js";
import { Flag, type Request, State } from "./javascript-request.js";

const TWO_TO_32 = 4294967296;

export class Decoder {
  readonly #view: DataView;
  readonly #u8: Uint8Array;
  readonly #journal: Uint8Array;
  readonly #journalView: DataView;
  readonly #config: PlainConfig;
  readonly #counters: number[];

  constructor(view: DataView, journal: Uint8Array, config: PlainConfig, counters: number[]) {
    this.#view = view;
    this.#u8 = new Uint8Array(view.buffer);
    this.#journal = journal;
    this.#journalView = new DataView(journal.buffer);
    this.#config = config;
    this.#counters = counters;
  }

  #refuse(request: Request, status: number, reason: number): boolean {
    request.status = status;
    request.state = State.Done;
    this.#counters[reason]++;
    return false;
  }

  decode(request: Request, copy: number): boolean {
    const view = this.#journalView;
    const operation = this.#journal[copy];
    request.flags = 0;
    request.operation = operation;
    request.idLow = view.getUint32(copy + 8, true);
    request.idHigh = view.getUint32(copy + 12, true);
    // Exact below 2^53; whatever is above is past the end of any disk.
    request.sector = view.getUint32(copy + 16, true) + view.getUint32(copy + 20, true) * TWO_TO_32;
    request.sectors = 0;
    request.segments = 0;
    request.status = 0;
    if (operation === abi.BLKIF_OP_INDIRECT) return this.#decodeIndirect(request, copy);
    if (operation === abi.BLKIF_OP_DISCARD) return this.#decodeDiscard(request, copy);
    if (operation > abi.BLKIF_OP_FLUSH_DISKCACHE)
      return this.#refuse(request, abi.BLKIF_RSP_EOPNOTSUPP, abi.COUNT_BAD_OPERATION);
    let needed = 0;
    if (operation === abi.BLKIF_OP_WRITE_BARRIER) needed = abi.FEATURE_BARRIER;
    else if (operation === abi.BLKIF_OP_FLUSH_DISKCACHE) needed = abi.FEATURE_FLUSH;
    if ((this.#config.features & needed) !== needed)
      return this.#refuse(request, abi.BLKIF_RSP_EOPNOTSUPP, abi.COUNT_BAD_OPERATION);
    const segments = this.#journal[copy + 1];
    if (segments > abi.MAX_DIRECT_SEGMENTS || (segments === 0 && needed === 0))
      return this.#refuse(request, abi.BLKIF_RSP_ERROR, abi.COUNT_BAD_SEGMENTS);
    request.segments = segments;
    const to = request.table;
    for (let i = 0; i < segments * 8; i += 4)
      this.#view.setUint32(to + i, view.getUint32(copy + 24 + i, true), true);
    return true;
  }

  #decodeIndirect(request: Request, copy: number): boolean {
    request.operation = this.#journal[copy + 1];
    if (this.#config.maxIndirect === 0)
      return this.#refuse(request, abi.BLKIF_RSP_EOPNOTSUPP, abi.COUNT_BAD_OPERATION);
    if (request.operation > abi.BLKIF_OP_WRITE)
      return this.#refuse(request, abi.BLKIF_RSP_ERROR, abi.COUNT_BAD_OPERATION);
    const segments = this.#journalView.getUint16(copy + 2, true);
    if (segments === 0 || segments > this.#config.maxIndirect)
      return this.#refuse(request, abi.BLKIF_RSP_ERROR, abi.COUNT_BAD_SEGMENTS);
    request.segments = segments;
    request.flags = Flag.Indirect;
    return true;
  }

  #decodeDiscard(request: Request, copy: number): boolean {
    const { features } = this.#config;
    if (!(features & (abi.FEATURE_DISCARD | abi.FEATURE_READ_ONLY)))
      return this.#refuse(request, abi.BLKIF_RSP_EOPNOTSUPP, abi.COUNT_BAD_OPERATION);
    const view = this.#journalView;
    request.sectors = view.getUint32(copy + 24, true) + view.getUint32(copy + 28, true) * TWO_TO_32;
    if (features & abi.FEATURE_SECURE_DISCARD && this.#journal[copy + 1] & abi.BLKIF_DISCARD_SECURE)
      request.flags = Flag.Secure;
    return true;
  }

  #sumSegments(request: Request): number {
    const alignment = this.#config.sectorUnits - 1;
    const end = request.table + request.segments * 8;
    let total = 0;
    for (let at = request.table; at < end; at += 8) {
      const first = this.#u8[at + 4];
      const last = this.#u8[at + 5];
      if (last > 7 || first > last || (first | (last + 1)) & alignment) return 0;
      total += last - first + 1;
    }
    return total;
  }

  validate(request: Request): boolean {
    const { features, sectors, sectorUnits } = this.#config;
    const { operation } = request;
    if (request.segments > 0) {
      request.sectors = this.#sumSegments(request);
      if (request.sectors === 0) return this.#refuse(request, abi.BLKIF_RSP_ERROR, abi.COUNT_BAD_SEGMENTS);
    }
    const writes = operation === abi.BLKIF_OP_WRITE || operation === abi.BLKIF_OP_DISCARD;
    if (
      features & abi.FEATURE_READ_ONLY &&
      operation !== abi.BLKIF_OP_READ &&
      (writes || request.sectors > 0)
    )
      return this.#refuse(request, abi.BLKIF_RSP_ERROR, abi.COUNT_READ_ONLY);
    if (request.sectors === 0 && operation !== abi.BLKIF_OP_DISCARD) return true;
    if (request.sector > sectors || request.sectors > sectors - request.sector)
      return this.#refuse(request, abi.BLKIF_RSP_ERROR, abi.COUNT_BAD_RANGE);
    if (request.sector % sectorUnits !== 0 || request.sectors % sectorUnits !== 0)
      return this.#refuse(request, abi.BLKIF_RSP_ERROR, abi.COUNT_BAD_RANGE);
    this.#counters[abi.COUNT_SEGMENTS] += request.segments;
    if (operation === abi.BLKIF_OP_READ) this.#counters[abi.COUNT_SECTORS_READ] += request.sectors;
    else if (operation !== abi.BLKIF_OP_DISCARD) this.#counters[abi.COUNT_SECTORS_WRITTEN] += request.sectors;
    return true;
  }
}
