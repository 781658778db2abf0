/** A disk as a guest's programs see it: what the frontend offers and what the NBD server exports. */
export interface GuestDisk {
  /** Bytes. */
  readonly size: number;
  /** Logical sector size in bytes; every position and length below is a multiple of it. */
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canDiscard: boolean;
  /** Bytes that one call moves best, at most. Longer transfers are allowed: they are split. */
  readonly preferredTransfer: number;

  /** Fills `into`. Rejects with an Error whose `code` is "EIO", "EINVAL", … when the backend refuses. */
  read(position: number, into: Uint8Array): Promise<void>;
  write(position: number, from: Uint8Array): Promise<void>;
  /** Resolves when every write that resolved before it was called is durable. */
  flush(): Promise<void>;
  discard(position: number, length: number): Promise<void>;
}
