/** The virtqueues of a disk that are set up, from the thread that has the socket: they live on when the connection is lost. */
import { closeSync } from "node:fs";
import { eventFd, type Poll, pollReadable, signalEventFd } from "../../platform/libc.js";
import { drainEventFd, socketPair, waitingEventFd } from "../../platform/sharing.js";
import { Message } from "./abi.js";
import { CONTROL_BYTES, Control, mapArea, SHARED_BASE, sliceAt } from "./area.js";
import type { Session } from "./session.js";
import { FAULTS, Order, QueueState, type VhostStore } from "./store.js";
import { clearRing, ringSize, type Shape } from "./virtqueue.js";

interface Queue {
  readonly store: VhostStore;
  readonly state: QueueState;
  /** Ours, and what the server is given of them to read kicks from. */
  readonly descriptors: readonly number[];
  readonly theirKick: number;
  /** Whose session knows the queue. */
  announced: Session | null;
  /** Answers when they were looked at last, and since when there are no more of them. */
  answers: number;
  since: number;
}

/** What all queues of a disk have in common. */
type Common = Omit<
  VhostStore,
  "kind" | "index" | "kickFd" | "callFd" | "toldFd" | "reportFd" | "state" | "bytes"
>;

export class Queues {
  readonly #common: Common;
  readonly #queues: (Queue | null)[];
  readonly #reportFd = eventFd();
  readonly #poll: Poll;
  readonly #onFault: (why: string) => void;
  /** Memfds of connections that are lost, until no queue uses them. */
  readonly #retired: number[] = [];
  #memoryFd: number;
  #order: Order = Order.run;
  #waiting: (() => void)[] = [];
  #stopped = false;
  /** The last message about a queue, which the next one waits for. */
  #turn: Promise<unknown> = Promise.resolve();

  /** `memoryFd` is its to close. `onFault` is called when a queue has found that the server cannot be believed. */
  constructor(count: number, common: Common, memoryFd: number, onFault: (why: string) => void) {
    this.#common = common;
    this.#queues = new Array<Queue | null>(count).fill(null);
    this.#memoryFd = memoryFd;
    this.#onFault = onFault;
    this.#poll = pollReadable(this.#reportFd, () => this.#reported());
  }

  get count(): number {
    return this.#queues.length;
  }

  /** The first number that is free, or the last; -1 where all are in use. */
  free(from: "first" | "last"): number {
    return from === "first" ? this.#queues.indexOf(null) : this.#queues.lastIndexOf(null);
  }

  /** Requests that have not ended. */
  get out(): number {
    return this.#set.reduce((sum, { state }) => sum + state.out, 0);
  }

  /** Of those, the ones that the server has failed because it cannot reach its data. */
  get cutOff(): number {
    return this.#set.reduce((sum, { state }) => sum + state.cutOff, 0);
  }

  /** Answers, counted without end. */
  get answers(): number {
    return this.#set.reduce((sum, { state }) => sum + state.answers, 0);
  }

  get #set(): Queue[] {
    return this.#queues.filter((queue) => queue !== null);
  }

  /** Makes a queue, and tells the server where there is one. `here`: this thread, which must never wait, kicks it. */
  async setUp(index: number, here: boolean, bytes: number, session: Session | null): Promise<VhostStore> {
    const callFd = waitingEventFd();
    const toldFd = waitingEventFd();
    const [kickFd, theirKick] = here ? socketPair() : twice(eventFd());
    const state = QueueState.make();
    state.order(this.#order, this.#memoryFd);
    const own = { index, kickFd, callFd, toldFd, reportFd: this.#reportFd, state: state.buffer, bytes };
    const store: VhostStore = { kind: "vhost-user", ...this.#common, ...own };
    const queue: Queue = {
      store,
      state,
      descriptors: [...new Set([callFd, toldFd, kickFd, theirKick])],
      theirKick,
      announced: null,
      answers: 0,
      since: performance.now(),
    };
    this.#queues[index] = queue;
    try {
      const control = mapArea(this.#memoryFd, sliceAt(index), CONTROL_BYTES);
      clearRing(control.bytes);
      control.close();
      if (session !== null) await this.#announce(queue, session);
    } catch (error) {
      // Of a session that is lost: the next one is told of all queues.
      if (session?.lost === null || this.#order === Order.lose) {
        this.#forget(index, queue);
        throw error;
      }
    }
    return store;
  }

  /** Makes all known to the server of a session. */
  async announce(session: Session): Promise<void> {
    for (;;) {
      const queue = this.#set.find(({ announced }) => announced !== session);
      if (!queue) return;
      await this.#announce(queue, session);
    }
  }

  /** Whether the session's server knows all of them. */
  complete(session: Session): boolean {
    return this.#set.every(({ announced }) => announced === session);
  }

  #announce(queue: Queue, session: Session): Promise<void> {
    return this.#inTurn(async () => {
      const { index, callFd, shape } = queue.store;
      if (this.#queues[index] !== queue || queue.announced === session) return;
      await announceQueue(session, index, shape, callFd, queue.theirKick);
      queue.announced = session;
    });
  }

  /** Whoever had the queue is done with it. */
  async stop(index: number): Promise<void> {
    const queue = this.#queues[index];
    if (!queue) return;
    await this.#inTurn(async () => {
      await queue.announced?.ask(Message.getVringBase, pair(index, 0)).catch(() => {
        // It is lost: no server has the queue any more.
      });
      this.#forget(index, queue);
    });
  }

  #forget(index: number, queue: Queue): void {
    this.#queues[index] = null;
    for (const fd of queue.descriptors) closeSync(fd);
    this.#look();
  }

  /** Gives an order to all, and to those that come; `memoryFd` is the new connection's, its to close. */
  order(order: Order, memoryFd = this.#memoryFd): void {
    if (memoryFd !== this.#memoryFd) this.#retired.push(this.#memoryFd);
    this.#memoryFd = memoryFd;
    this.#order = order;
    for (const queue of this.#set) {
      queue.state.order(order, memoryFd);
      queue.since = performance.now();
      signalEventFd(queue.store.toldFd);
    }
    this.#look();
  }

  /** Resolves when all queues have carried out the last order, or {@link stopWaiting} was called. */
  async obeyed(): Promise<void> {
    while (!this.#stopped && !this.#set.every(({ state }) => state.obeyed))
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  stopWaiting(): void {
    this.#stopped = true;
    this.#look();
  }

  /** Whether a queue waits for an answer, and has had none for so long. */
  silent(milliseconds: number): boolean {
    const now = performance.now();
    for (const queue of this.#set) {
      const { out, answers } = queue.state;
      if (out === 0 || answers !== queue.answers) {
        queue.answers = answers;
        queue.since = now;
      } else if (now - queue.since >= milliseconds) return true;
    }
    return false;
  }

  /** When no queue is used any more. */
  close(): void {
    this.#poll.close();
    for (const fd of this.#set.flatMap(({ descriptors }) => descriptors)) closeSync(fd);
    for (const fd of [this.#reportFd, this.#memoryFd, ...this.#retired]) closeSync(fd);
  }

  #reported(): void {
    drainEventFd(this.#reportFd);
    const fault = this.#set.map(({ state }) => state.fault).find((code) => code !== 0);
    if (fault) this.#onFault(FAULTS[fault]);
    this.#look();
  }

  #look(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
    const queues = this.#set;
    // One that has not carried out its order may be about to use the memory that was there before.
    if (!queues.every(({ state }) => state.obeyed)) return;
    for (const fd of this.#retired.splice(0)) {
      if (queues.some(({ state }) => state.usedFd === fd)) this.#retired.push(fd);
      else closeSync(fd);
    }
  }

  #inTurn(action: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(action);
    this.#turn = turn.catch(() => {});
    return turn;
  }
}

/** Makes a queue, whose ring is empty, known to the server. */
export async function announceQueue(
  session: Session,
  index: number,
  shape: Shape,
  callFd: number,
  kickFd: number,
): Promise<void> {
  const control = SHARED_BASE + sliceAt(index);
  await session.tell(Message.setVringNum, pair(index, ringSize(shape)));
  await session.tell(Message.setVringBase, pair(index, 0));
  // Index, flags; descriptors, used ring, available ring, log.
  const address = Buffer.alloc(40);
  address.writeUInt32LE(index, 0);
  address.writeBigUInt64LE(BigInt(control + Control.descriptors), 8);
  address.writeBigUInt64LE(BigInt(control + Control.used), 16);
  address.writeBigUInt64LE(BigInt(control + Control.available), 24);
  await session.tell(Message.setVringAddr, address);
  await session.tell(Message.setVringCall, pair(index, 0), [callFd]);
  await session.tell(Message.setVringKick, pair(index, 0), [kickFd]);
  await session.tell(Message.setVringEnable, pair(index, 1));
}

function twice(fd: number): [number, number] {
  return [fd, fd];
}

export function pair(index: number, value: number): Buffer {
  const payload = Buffer.alloc(8);
  payload.writeUInt32LE(index, 0);
  payload.writeUInt32LE(value, 4);
  return payload;
}
