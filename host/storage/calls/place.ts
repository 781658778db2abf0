/**
 * Calls that may wait for storage, by the path of the file or device that they are for. There is at most one such call at a
 * time for each path, so that whoever asks again and again of storage that hangs (a toolstack, a look once a second) takes no more
 * of this process than who asks once; and nobody else waits for it.
 */
import type { Outage } from "../device.js";
import type { IoEngine } from "../engine.js";
import { libuvEngine } from "../libuv.js";
import type { FileStats } from "./file-stats.js";
import { LoopEngine } from "./loop-engine.js";
import type { Answer, Arguments, CallName } from "./table.js";
import { inThread } from "./threads.js";

/** A call that takes longer than this is said to hang. */
const HANGS_MS = 1000;

let loopEngine: LoopEngine | null | undefined;

/** Null where io_uring is missing. */
function uring(): LoopEngine | null {
  if (loopEngine === undefined) {
    try {
      loopEngine = new LoopEngine();
    } catch {
      loopEngine = null;
    }
  }
  return loopEngine;
}

/** What I/O on this thread's event loop goes through. */
export function eventLoopEngine(): IoEngine {
  return uring() ?? libuvEngine;
}

/** The calls of one path. Each rejects with a SystemError. */
export class Place {
  readonly path: string;
  #last: Promise<unknown> = Promise.resolve();
  #waiting = 0;
  #name = "";
  /** Of the call under way, in milliseconds since 1970. */
  #since = 0;

  private constructor(path: string) {
    this.path = path;
  }

  /** By path, those with calls under way. */
  static readonly #busy = new Map<string, Place>();

  static of(path: string): Place {
    return Place.#busy.get(path) ?? new Place(path);
  }

  /** What hangs at a path, and since when; null where nothing does. */
  static outageAt(path: string): Outage | null {
    const place = Place.#busy.get(path);
    if (!place || Date.now() - place.#since < HANGS_MS) return null;
    return { reason: `${path} does not answer (${place.#name})`, since: place.#since };
  }

  stat(): Promise<FileStats> {
    return this.#inTurn("stat", () => uring()?.stat(this.path) ?? inThread("stat", this.path));
  }

  fstat(fd: number): Promise<FileStats> {
    return this.#inTurn("stat", () => uring()?.stat(fd) ?? inThread("fstat", fd));
  }

  /** `path` is another one than the place's where a file is made beside it. */
  open(flags: number, { mode = 0, path = this.path } = {}): Promise<number> {
    return this.#inTurn(
      "open",
      () => uring()?.open(path, flags, mode) ?? inThread("open", path, flags, mode),
    );
  }

  close(fd: number): Promise<void> {
    return this.#inTurn("close", () => {
      const engine = uring();
      if (engine === null) return inThread("close", fd);
      return new Promise((resolve) => engine.closeFile(fd, () => resolve()));
    });
  }

  /** pread(2) into bytes that have a buffer of their own; how many there were. */
  read(fd: number, bytes: Uint8Array, position: number): Promise<number> {
    return this.#inTurn("read", async () => {
      const engine = uring();
      if (engine !== null) return engine.read(fd, bytes, position);
      const read = await inThread("read", fd, bytes.byteLength, position);
      bytes.set(read);
      return read.byteLength;
    });
  }

  /** pwrite(2), or write(2) where the position is -1. */
  write(fd: number, bytes: Uint8Array, position: number): Promise<number> {
    return this.#inTurn(
      "write",
      () => uring()?.write(fd, bytes, position) ?? inThread("write", fd, bytes, position),
    );
  }

  /** 0 or the errno. */
  fallocate(fd: number, mode: number, position: number, length: number): Promise<number> {
    return this.#inTurn("fallocate", () => {
      const engine = uring();
      if (engine === null) return inThread("fallocate", fd, mode, position, length);
      return new Promise((resolve) => engine.fallocate(fd, mode, position, length, resolve));
    });
  }

  /** One that io_uring does not have. */
  call<N extends CallName>(name: N, ...args: Arguments<N>): Promise<Answer<N>> {
    return this.#inTurn(name, () => inThread(name, ...args));
  }

  #inTurn<T>(name: string, work: () => Promise<T>): Promise<T> {
    // Of two objects for one path the first counts.
    const place = Place.#busy.get(this.path) ?? this;
    if (place.#waiting++ === 0) {
      place.#since = Date.now();
      Place.#busy.set(this.path, place);
    }
    const begin = (): Promise<T> => {
      place.#name = name;
      place.#since = Date.now();
      return work();
    };
    const call = place.#last.then(begin);
    place.#last = call
      .catch(() => {})
      .then(() => {
        if (--place.#waiting === 0) Place.#busy.delete(this.path);
      });
    return call;
  }
}
