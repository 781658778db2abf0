/** A queue of the thread that has the socket, with copies of the data. */
import { pollReadable } from "../../platform/libc.js";
import { drainEventFd, ring } from "../../platform/sharing.js";
import { CONTROL_BYTES, type Mapping, mapArea, sliceAt } from "./area.js";
import { CopyPath, PLACES_BYTES } from "./data-path.js";
import { Follower } from "./follower.js";
import { QueueDisk } from "./queue-disk.js";
import { Fault, type VhostStore } from "./store.js";

export interface OwnQueue {
  readonly index: number;
  readonly disk: QueueDisk;
  readonly path: CopyPath;
  /** To be called when nothing is under way, before the queue is stopped. */
  close(): void;
}

export function ownQueue(store: VhostStore): OwnQueue {
  const { index, limits, callFd, kickFd, toldFd } = store;
  const path = new CopyPath(index, limits);
  let maps: Mapping[] = [];
  const unmap = (): void => {
    for (const map of maps.splice(0)) map.close();
  };
  const disk = new QueueDisk({
    store,
    path,
    kick: () => ring(kickFd),
    soon: queueMicrotask,
    onViolation: () => follower.report(Fault.ring),
  });
  const follower = new Follower({
    store,
    disk,
    connect(memoryFd) {
      unmap();
      const control = mapArea(memoryFd, sliceAt(index), CONTROL_BYTES);
      const places = mapArea(memoryFd, sliceAt(index) + CONTROL_BYTES, PLACES_BYTES);
      maps = [control, places];
      path.places = places.bytes;
      return control.bytes;
    },
  });
  const calls = pollReadable(callFd, () => {
    drainEventFd(callFd);
    do {
      disk.takeAnswers();
      disk.askForSignal();
    } while (disk.hasAnswers);
  });
  const orders = pollReadable(toldFd, () => {
    drainEventFd(toldFd);
    follower.obey();
  });
  return {
    index,
    disk,
    path,
    close() {
      calls.close();
      orders.close();
      unmap();
    },
  };
}
