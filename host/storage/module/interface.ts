/**
 * The interface by which a package outside this repository supplies a disk: an ES module whose default export is a
 * {@link DeviceModule}. docs/disks.md says how it is given to a guest, and examples/device is one.
 */

/** The version of this interface. It changes when a module that was made for the one before would not do. */
export const DEVICE_API = 1;

export interface DeviceModule {
  /** The version that the module was made for. */
  readonly api: typeof DEVICE_API;
  /** Opens one disk. A promise that rejects, or what is thrown, says why it cannot be opened. */
  open(how: HowToOpen): Device | Promise<Device>;
}

export interface HowToOpen {
  /** What stands behind the "?" of the target: {size: "64M"} of device:/my-device.js?size=64M. */
  readonly parameters: Readonly<Record<string, string>>;
  /** The guest may not write: `write` and `discard` are not going to be called. */
  readonly readOnly: boolean;
}

/**
 * An open disk. Positions and lengths are bytes, multiples of the sector and within the disk. Operations may be under way
 * at once, in any order; `flush` covers the writes that had ended before it was called.
 *
 * An operation ends when its promise resolves. When it rejects, or something is thrown, the guest gets an I/O error and the
 * operator the error's message.
 */
export interface Device {
  /** Bytes. What is behind the last whole sector is not served. */
  readonly size: number;
  /** Bytes: 512 (the default), 1024, 2048 or 4096. */
  readonly sectorSize?: number;
  /**
   * What becomes of written data when the daemon ends. Left out: they end with it, and a guest's disk with them. "stop": they
   * are kept when it is stopped, after `close`. "kill": also when it is killed, and then nothing that was begun before can
   * happen after the next `open`.
   */
  readonly survives?: "stop" | "kill";
  /** How long an operation may take before the disk counts as broken. Default: 60. */
  readonly timeoutSeconds?: number;
  /** Fills `to`, which is not to be used after it has ended. */
  read(position: number, to: Uint8Array): void | Promise<void>;
  /** `from` is the device's to keep. Left out: the disk is read-only. */
  write?(position: number, from: Uint8Array): void | Promise<void>;
  /** Resolves when what was written is on stable storage. Left out: what was written is there, or never will be. */
  flush?(): void | Promise<void>;
  /** The range may read as anything afterwards. */
  discard?(position: number, length: number): void | Promise<void>;
  /** The last call of all; nothing is under way. */
  close?(): void | Promise<void>;
}
