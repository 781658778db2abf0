/** Files that are mapped into linear memories of their own, so that JavaScript and WebAssembly reach them alike. */
import { closeSync, fstatSync, openSync } from "node:fs";
import { allocateMemory, type LinearMemory } from "../core/memory.js";
import { addressOf, mapAnonymous, mapFixed } from "./libc.js";

export interface MappedFile {
  readonly memory: LinearMemory;
  /** The file's size; linear memory beyond it is anonymous. */
  readonly bytes: number;
  readonly fd: number;
  /** Puts anonymous pages in the file's place and closes it. */
  close(): void;
}

/**
 * Maps an existing file, shared and writable. `bytes` is the size that it must have: an access beyond the end of
 * a mapped file kills the process. Throws the error of open(2) or mmap(2), or one that names both sizes.
 */
export function mapFile(path: string, bytes: number): MappedFile {
  const fd = openSync(path, "r+");
  try {
    const { size } = fstatSync(fd);
    if (size !== bytes)
      throw new Error(`${path} has ${size} bytes where ${bytes} are expected: it is damaged`);
    const memory = allocateMemory(bytes, addressOf);
    mapFixed(memory.base, bytes, fd, 0, true);
    return { memory, bytes, fd, close: () => unmapFile(memory, bytes, fd) };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function unmapFile(memory: LinearMemory, bytes: number, fd: number): void {
  mapAnonymous(memory.base, bytes);
  closeSync(fd);
}
