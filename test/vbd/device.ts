/** A store that fails, and holds what it has done, as a test wants. */
import type { BlockDevice, Done, IoVector, Result } from "../../host/storage/device.js";
import { type OpenOptions, openDevice } from "../../host/storage/open.js";

type Operation = "read" | "write" | "flush" | "discard";

export class TestDevice implements BlockDevice {
  readonly #device: BlockDevice;
  /** What comes out of an operation in place of doing it. */
  fault: ((operation: Operation, position: number) => Result | null) | null = null;
  /** Instead of the store's. */
  sectorSize: number;
  canDiscard: boolean;
  holding = false;
  closed = false;
  readonly #held: (() => void)[] = [];

  constructor(device: BlockDevice) {
    this.#device = device;
    this.sectorSize = device.sectorSize;
    this.canDiscard = device.canDiscard;
  }

  /** Ends what was held. */
  release(): void {
    this.holding = false;
    for (const end of this.#held.splice(0)) end();
  }

  get held(): number {
    return this.#held.length;
  }

  get name() {
    return this.#device.name;
  }
  get size() {
    return this.#device.size;
  }
  get physicalSectorSize() {
    return Math.max(this.#device.physicalSectorSize, this.sectorSize);
  }
  get readOnly() {
    return this.#device.readOnly;
  }
  get canSecureDiscard() {
    return this.#device.canSecureDiscard;
  }
  get discardGranularity() {
    return this.#device.discardGranularity;
  }
  get discardAlignment() {
    return this.#device.discardAlignment;
  }

  read(position: number, to: IoVector, done: Done): void {
    this.#run("read", position, done, (ended) => this.#device.read(position, to, ended));
  }
  write(position: number, from: IoVector, done: Done): void {
    this.#run("write", position, done, (ended) => this.#device.write(position, from, ended));
  }
  flush(done: Done): void {
    this.#run("flush", 0, done, (ended) => this.#device.flush(ended));
  }
  discard(position: number, length: number, secure: boolean, done: Done): void {
    this.#run("discard", position, done, (ended) => this.#device.discard(position, length, secure, ended));
  }
  refreshSize(): Promise<boolean> {
    return this.#device.refreshSize();
  }
  async close(): Promise<void> {
    await this.#device.close();
    this.closed = true;
  }

  #run(operation: Operation, position: number, done: Done, start: (ended: Done) => void): void {
    const fault = this.fault?.(operation, position) ?? null;
    const ended: Done = (result, error) => {
      if (this.holding) this.#held.push(() => done(result, error));
      else done(result, error);
    };
    if (fault === null) start(ended);
    else queueMicrotask(() => ended(fault, new Error(`no luck at ${position}`)));
  }
}

/** An `open` whose devices the test keeps in its hands, by path. */
export function testDevices(prepare: (device: TestDevice) => void = () => {}): {
  devices: Map<string, TestDevice>;
  open: (path: string, options: OpenOptions) => Promise<BlockDevice>;
} {
  const devices = new Map<string, TestDevice>();
  return {
    devices,
    async open(path, options) {
      const device = new TestDevice(await openDevice(path, options));
      prepare(device);
      devices.set(path, device);
      return device;
    },
  };
}
