/** Writes again, one by one and in their order, what the last server may have lost, before anything else is asked. */
import { closeSync } from "node:fs";
import { socketPair, waitingEventFd } from "../../platform/sharing.js";
import { Result } from "../device.js";
import type { KeptWrite, KeptWrites } from "../kept-writes.js";
import { Message } from "./abi.js";
import { clearSlice } from "./area.js";
import { type OwnQueue, ownQueue } from "./own-queue.js";
import { announceQueue, pair } from "./queues.js";
import type { Session } from "./session.js";
import { FAULTS, Order, QueueState, type VhostStore } from "./store.js";

/** The first queue: it is this one's until it is made known again. */
const INDEX = 0;

export interface RestoreOptions {
  readonly session: Session;
  /** The session's, in which all is zero before and after. */
  readonly memoryFd: number;
  readonly kept: KeptWrites;
  readonly store: Pick<
    VhostStore,
    "name" | "limits" | "shape" | "reconnectMs" | "connectionFd" | "failureMeans"
  >;
  /** Of the disk. */
  readonly bytes: number;
}

/** False where the server refuses one. Rejects where the session is lost meanwhile. */
export async function restore({ session, memoryFd, kept, store, bytes }: RestoreOptions): Promise<boolean> {
  if (kept.count === 0) return true;
  for (const { position, length } of kept.writes()) if (position + length > bytes) return false;
  const state = QueueState.make();
  state.order(Order.run, memoryFd);
  const [callFd, toldFd, reportFd] = [waitingEventFd(), waitingEventFd(), waitingEventFd()];
  const [kickFd, theirKick] = socketPair();
  try {
    await announceQueue(session, INDEX, store.shape, callFd, theirKick);
    const queue = ownQueue({
      ...store,
      ...{ kind: "vhost-user", readOnly: false, bytes: 0, index: INDEX, kept: null },
      ...{ kickFd, callFd, toldFd, reportFd, state: state.buffer, flushErrno: new SharedArrayBuffer(4) },
    });
    const outer = session.onLost;
    session.onLost = (why, violated) => {
      queue.disk.lose(why);
      outer(why, violated);
    };
    try {
      for (const write of kept.writes()) {
        const written = await repeat(write, queue, session, store.reconnectMs);
        if (state.fault !== 0) session.violate(FAULTS[state.fault]);
        if (session.lost !== null) throw new Error(session.lost);
        if (!written) return false;
      }
      return true;
    } finally {
      session.onLost = outer;
      await queue.disk.close();
      queue.close();
    }
  } finally {
    await session.ask(Message.getVringBase, pair(INDEX, 0)).catch(() => {});
    for (const fd of [callFd, toldFd, reportFd, kickFd, theirKick]) closeSync(fd);
    clearSlice(memoryFd, INDEX);
  }
}

/** It may take long, but each write must be answered in a time; else the session is lost. */
async function repeat(
  { position, length, views }: KeptWrite,
  { disk, path }: OwnQueue,
  session: Session,
  milliseconds: number,
): Promise<boolean> {
  const timer = setTimeout(
    () => session.lose("the server does not answer while writes are repeated"),
    milliseconds,
  );
  const result = await new Promise<Result>((resolve) =>
    disk.writeParts(position, length, path.partsOf(views, length), resolve),
  );
  clearTimeout(timer);
  return result === Result.Success;
}
