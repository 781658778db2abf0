/**
 * Linear memories for rings, used again and again: a guest that connects and disconnects all day must not make the
 * process reserve address space faster than the garbage collector finds it.
 */
import { MEMORY_BYTES } from "../../assembly/abi.js";
import { allocateMemory, type LinearMemory } from "../core/memory.js";
import { addressOf, mapAnonymous } from "../platform/libc.js";
import type { RingJournal } from "./journal.js";

const idle: LinearMemory[] = [];
const MAX_IDLE = 16;

/** A memory of MEMORY_BYTES in which every byte is zero, but for the journal's, if there is one. */
export function takeMemory(journal: RingJournal | null): LinearMemory {
  const memory = idle.pop() ?? allocateMemory(MEMORY_BYTES, addressOf);
  try {
    journal?.map(memory);
    return memory;
  } catch (error) {
    returnMemory(memory, journal);
    throw error;
  }
}

/** Takes a memory back; nothing may use it any more, and no I/O may be on its way into it. Its journal is released. */
export function returnMemory(memory: LinearMemory, journal: RingJournal | null): void {
  journal?.release();
  // Also where it is not kept: the garbage collector may find it late.
  mapAnonymous(memory.base, memory.memory.buffer.byteLength);
  if (idle.length < MAX_IDLE) idle.push(memory);
}

/** Memories that wait to be used again. */
export function idleMemories(): number {
  return idle.length;
}
