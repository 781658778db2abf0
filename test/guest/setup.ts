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

/** A body that takes longer hangs. Shorter than the tests' own time-out, after which nothing would be closed. */
const BODY_MS = 6000;

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
  let timer: NodeJS.Timeout | undefined;
  try {
    await backend.start();
    const connect = async (front: Partial<BlkfrontOptions> = {}) =>
      (disk = await connectBlkfront({ pages, events, xenstore }, DEVID, { timeoutMs: 1000, ...front }));
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`nothing happened for ${BODY_MS} ms`)), BODY_MS);
    });
    await Promise.race([body({ pages, events, xenstore, backend, connect }), late]);
  } finally {
    clearTimeout(timer);
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
