/** A guest with one disk on the reference backend. */
import { type Blkfront, type BlkfrontOptions, connectBlkfront } from "../../host/guest/blkfront.js";
import { type BackendOptions, ReferenceBackend } from "./backend.js";
import { FakeEvents, FakePages, FakeXenstore } from "./fakes.js";

export const DEVID = 51712;

export interface Rig {
  pages: FakePages;
  events: FakeEvents;
  xenstore: FakeXenstore;
  backend: ReferenceBackend;
  connect(options?: Partial<BlkfrontOptions>): Promise<Blkfront>;
}

/** Runs `body` with a backend that waits for a frontend. */
export async function withBackend(
  options: BackendOptions,
  body: (rig: Rig) => Promise<void>,
  guestPages = 4096,
): Promise<void> {
  const pages = new FakePages(guestPages);
  const events = new FakeEvents();
  const xenstore = new FakeXenstore();
  const backend = new ReferenceBackend(pages, events, xenstore, options);
  let disk: Blkfront | null = null;
  try {
    await backend.start();
    const connect = async (front: Partial<BlkfrontOptions> = {}) =>
      (disk = await connectBlkfront({ pages, events, xenstore }, DEVID, { timeoutMs: 2000, ...front }));
    await body({ pages, events, xenstore, backend, connect });
  } finally {
    await (disk as Blkfront | null)?.close().catch(() => {});
    await events.close();
  }
}

/** Bytes that tell where they belong. */
export function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = seed | 1;
  for (let i = 0; i < length; i++) bytes[i] = (state = (Math.imul(state, 1103515245) + 12345) | 0) >>> 16;
  return bytes;
}
