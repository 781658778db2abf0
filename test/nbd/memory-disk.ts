/** A GuestDisk in memory, whose operations can be delayed, failed, or held. */
import type { GuestDisk } from "../../host/guest/disk.js";

export type Operation = "read" | "write" | "flush" | "discard";

export interface MemoryDiskOptions {
  size?: number;
  sectorSize?: number;
  physicalSectorSize?: number;
  readOnly?: boolean;
  canFlush?: boolean;
  canDiscard?: boolean;
}

export class MemoryDisk implements GuestDisk {
  readonly size: number;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canDiscard: boolean;
  readonly preferredTransfer = 1 << 20;
  readonly content: Buffer;
  /** What was begun, e.g. "write 512+1024". */
  readonly log: string[] = [];
  logging = true;
  underWay = 0;
  mostUnderWay = 0;
  mostBytes = 0;
  /** Runs before each operation: may wait, may throw. */
  before: ((operation: Operation, position: number, length: number) => Promise<void> | void) | null = null;
  #bytes = 0;

  constructor(options: MemoryDiskOptions = {}) {
    this.size = options.size ?? 1 << 20;
    this.sectorSize = options.sectorSize ?? 512;
    this.physicalSectorSize = options.physicalSectorSize ?? this.sectorSize;
    this.readOnly = options.readOnly ?? false;
    this.canFlush = options.canFlush ?? true;
    this.canDiscard = options.canDiscard ?? true;
    this.content = Buffer.alloc(this.size);
  }

  read(position: number, into: Uint8Array): Promise<void> {
    return this.#run("read", position, into.byteLength, () =>
      into.set(this.content.subarray(position, position + into.byteLength)),
    );
  }

  write(position: number, from: Uint8Array): Promise<void> {
    return this.#run("write", position, from.byteLength, () => this.content.set(from, position));
  }

  flush(): Promise<void> {
    return this.#run("flush", 0, 0, () => {});
  }

  /** Leaves a pattern: discarded blocks may read as anything. */
  discard(position: number, length: number): Promise<void> {
    return this.#run("discard", position, length, () => this.content.fill(0xdd, position, position + length));
  }

  async #run(operation: Operation, position: number, length: number, act: () => void): Promise<void> {
    if (position % this.sectorSize || length % this.sectorSize || position + length > this.size) {
      throw new Error(`the server let ${operation} ${position}+${length} through`);
    }
    if (this.logging) this.log.push(operation === "flush" ? "flush" : `${operation} ${position}+${length}`);
    this.#bytes += length;
    this.underWay++;
    this.mostUnderWay = Math.max(this.mostUnderWay, this.underWay);
    this.mostBytes = Math.max(this.mostBytes, this.#bytes);
    try {
      if (this.before) await this.before(operation, position, length);
      act();
    } finally {
      this.underWay--;
      this.#bytes -= length;
    }
  }
}

export function errorWithCode(code: string): Error {
  return Object.assign(new Error(`injected ${code}`), { code });
}

/** A door that operations wait at until it is opened. */
export function gate(): { readonly wait: Promise<void>; open(): void } {
  let open = () => {};
  const wait = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { wait, open: () => open() };
}
