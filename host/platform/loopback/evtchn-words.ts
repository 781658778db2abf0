/**
 * Event channels as words that processes share: four u32 a port, in `domains/<N>/evtchn`.
 *
 * | word | meaning |
 * | ---- | ------- |
 * | 0 | bit 0 pending, bit 1 masked, above them the port's generation, which changes when the port is closed |
 * | 1 | the peer: domid * 4096 + port, or 0 when there is none |
 * | 2 | the peer's generation, as it stands in word 0 |
 * | 3 | the event-channel handle that owns the port, or 0 |
 *
 * Words 1 to 3 are written by the hypervisor only. Port 0 is no port: its word 0 becomes 1 when the domain is
 * destroyed.
 *
 * **No event is lost.** While a port is pending and not masked, its number is in its owner's FIFO, or the one that
 * made it so is about to write it there. Whoever makes that state (`raise` when not masked, `unmask` when
 * pending) is told so, and writes the number; whoever finds it made writes nothing; `take` ends it. So a port is
 * in the FIFO at most once, and a FIFO, which holds 16384 numbers, cannot overflow with 4095 ports.
 *
 * If a process is killed after it raised a port and before it wrote the number, the hypervisor, which then closes
 * that process' ports, writes the number of every peer that is pending and not masked (`isQueued`). Where the
 * number was there already, the second one finds nothing to take and is dropped. A process that is killed within
 * `unmask` owned the port, and nobody is left to miss the event.
 *
 * **No event goes astray.** A port that is closed while its number is in the FIFO stays pending, and is not given
 * out again before its owner has read the number. One that raises a port through a link that it read before the
 * port was closed fails on the generation.
 */

export const EVTCHN_PORTS = 4096;
export const WORDS_PER_PORT = 4;
export const EVTCHN_BYTES = EVTCHN_PORTS * WORDS_PER_PORT * 4;

const FLAGS = 0;
const LINK = 1;
const LINK_GENERATION = 2;
const HANDLE = 3;

const PENDING = 1;
const MASKED = 2;
const STATE = PENDING | MASKED;
const ONE_GENERATION = 4;

/** What a port is bound to. `generation` is what {@link raise} wants. */
export interface Link {
  domid: number;
  port: number;
  generation: number;
}

/** Marks a port pending, if it is still of this generation. True: the caller must queue it. */
export function raise(words: Int32Array, port: number, generation: number): boolean {
  const at = port * WORDS_PER_PORT + FLAGS;
  for (;;) {
    const flags = Atomics.load(words, at);
    if ((flags & ~STATE) !== generation || flags & PENDING) return false;
    if (Atomics.compareExchange(words, at, flags, flags | PENDING) === flags) return !(flags & MASKED);
  }
}

/** Whether the port's number is, or ought to be, in its owner's FIFO. */
export function isQueued(words: Int32Array, port: number): boolean {
  return (Atomics.load(words, port * WORDS_PER_PORT + FLAGS) & STATE) === PENDING;
}

/**
 * Takes the event of a port whose number was read from the FIFO of `handle`, and masks the port. False: the
 * number was a leftover and means nothing.
 */
export function take(words: Int32Array, port: number, handle: number): boolean {
  const at = port * WORDS_PER_PORT + FLAGS;
  for (;;) {
    const flags = Atomics.load(words, at);
    if ((flags & STATE) !== PENDING) return false;
    const owner = ownerOf(words, port);
    if (owner !== handle && owner !== 0) return false;
    const taken = owner === 0 ? flags & ~STATE : (flags & ~STATE) | MASKED;
    if (Atomics.compareExchange(words, at, flags, taken) === flags) return owner === handle;
  }
}

/** Lets a port of `handle` be queued again. True: an event came meanwhile, and the caller must queue it now. */
export function unmask(words: Int32Array, port: number, handle: number): boolean {
  const at = port * WORDS_PER_PORT + FLAGS;
  for (;;) {
    const flags = Atomics.load(words, at);
    if (!(flags & MASKED) || ownerOf(words, port) !== handle) return false;
    if (Atomics.compareExchange(words, at, flags, flags & ~MASKED) === flags) return (flags & PENDING) !== 0;
  }
}

export function ownerOf(words: Int32Array, port: number): number {
  return Atomics.load(words, port * WORDS_PER_PORT + HANDLE);
}

export function generationOf(words: Int32Array, port: number): number {
  return Atomics.load(words, port * WORDS_PER_PORT + FLAGS) & ~STATE;
}

/** Reads what the port is bound to into `link`. False when it has no peer. */
export function readLink(words: Int32Array, port: number, link: Link): boolean {
  const at = port * WORDS_PER_PORT;
  for (;;) {
    const peer = Atomics.load(words, at + LINK);
    if (peer === 0) return false;
    link.generation = Atomics.load(words, at + LINK_GENERATION);
    link.domid = Math.floor(peer / EVTCHN_PORTS);
    link.port = peer % EVTCHN_PORTS;
    if (Atomics.load(words, at + LINK) === peer) return true;
  }
}

/** Hypervisor: binds one direction. */
export function writeLink(words: Int32Array, port: number, link: Link): void {
  const at = port * WORDS_PER_PORT;
  Atomics.store(words, at + LINK, 0);
  Atomics.store(words, at + LINK_GENERATION, link.generation);
  Atomics.store(words, at + LINK, link.domid * EVTCHN_PORTS + link.port);
}

/** Hypervisor: the peer went. */
export function clearLink(words: Int32Array, port: number): void {
  Atomics.store(words, port * WORDS_PER_PORT + LINK, 0);
}

/** Hypervisor: gives a free port to a handle. */
export function open(words: Int32Array, port: number, handle: number): void {
  Atomics.store(words, port * WORDS_PER_PORT + HANDLE, handle);
}

/** Hypervisor: closes a port. It stays queued when it was: see {@link isQueued}. */
export function close(words: Int32Array, port: number): void {
  const at = port * WORDS_PER_PORT + FLAGS;
  clearLink(words, port);
  // The owner goes first: see `take`, which must not mask a port that nobody will unmask.
  Atomics.store(words, port * WORDS_PER_PORT + HANDLE, 0);
  for (;;) {
    const flags = Atomics.load(words, at);
    const queued = (flags & STATE) === PENDING ? PENDING : 0;
    const closed = ((flags & ~STATE) + ONE_GENERATION) | queued;
    if (Atomics.compareExchange(words, at, flags, closed) === flags) return;
  }
}

/** Hypervisor: forgets the event of a closed port, because the FIFO that its number was in is gone. */
export function forget(words: Int32Array, port: number): void {
  Atomics.and(words, port * WORDS_PER_PORT + FLAGS, ~STATE);
}

/** Hypervisor: the domain is destroyed; whoever has the file open must look for the domain again. */
export function markDead(words: Int32Array): void {
  Atomics.store(words, FLAGS, 1);
}

export function isDead(words: Int32Array): boolean {
  return Atomics.load(words, FLAGS) !== 0;
}
