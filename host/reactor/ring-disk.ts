/** A ring's disk in its reactor thread, whatever it is: a store that was opened, or a queue of a server. */
import type { BlkifCore } from "../core/blkif.js";
import type { IoEngine } from "../storage/engine.js";
import type { Store } from "../storage/raw.js";
import { UringEngine } from "../storage/uring/engine.js";
import type { VhostStore } from "../storage/vhost-user/store.js";
import type { Activity } from "./activity.js";
import { DeviceQueue } from "./device-queue.js";
import type { Disks } from "./disks.js";
import type { IoOwner, IoQueue } from "./io-queue.js";
import { UringQueue } from "./uring-queue.js";
import { VhostQueue } from "./vhost-queue.js";

export interface RingDisk {
  /** The same for all rings of the disk in a thread; the queues of a server are apart. */
  readonly identity: object;
  /** Of a flush that failed, or 0. */
  readonly flushErrno: number;
  makeQueue(core: BlkifCore, owner: IoOwner): IoQueue;
  noteSize(bytes: number): void;
  /** Resolves when the thread has let go of it; the queue must be closed. */
  release(): Promise<void>;
}

/** Rejects with what open(2) says. */
export async function ringDisk(
  store: Store | VhostStore,
  disks: Disks,
  engine: IoEngine,
  activity: Activity,
): Promise<RingDisk> {
  return store.kind === "vhost-user" ? vhostDisk(store, engine) : rawDisk(store, disks, engine, activity);
}

async function rawDisk(store: Store, disks: Disks, engine: IoEngine, activity: Activity): Promise<RingDisk> {
  const device = await disks.take(store);
  return {
    identity: device,
    get flushErrno() {
      return device.flushErrno;
    },
    makeQueue: (core, owner) =>
      engine instanceof UringEngine
        ? new UringQueue(engine, device, core, owner, activity)
        : new DeviceQueue(device, core, owner),
    noteSize: (bytes) => device.noteSize(bytes),
    release: () => disks.release(device),
  };
}

function vhostDisk(store: VhostStore, engine: IoEngine): RingDisk {
  if (!(engine instanceof UringEngine)) throw new Error("a virtqueue needs io_uring");
  let queue: VhostQueue | null = null;
  return {
    identity: store,
    get flushErrno() {
      return queue?.flushErrno ?? 0;
    },
    makeQueue: (core, owner) => (queue = new VhostQueue(engine, store, core, owner)),
    noteSize: (bytes) => queue?.noteSize(bytes),
    release: async () => queue?.finish(),
  };
}
