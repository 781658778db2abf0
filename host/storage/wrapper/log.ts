/** log:FILE:TARGET. Appends a line to a file for each operation that has ended. */
import { constants as flags } from "node:fs";
import { constants } from "node:os";
import { Writable } from "node:stream";
import { isType } from "../calls/file-stats.js";
import { FileLocks } from "../calls/locks.js";
import { Place } from "../calls/place.js";
import { type BlockDevice, type Done, Result } from "../device.js";
import { SECTOR } from "../geometry.js";
import { DeviceError, errnoOf } from "../open.js";
import { pathOf, type WrapperKind } from "./kind.js";
import { type Operation, Wrapper } from "./wrapper.js";

const { EBUSY, EINVAL } = constants.errno;
/** Bytes that may wait for the file. Lines that come while it is slower than the guest are left out, and counted. */
const MOST_WAITING = 1 << 20;

const what = (path: string): string => `log in ${path}`;

class Logged extends Wrapper {
  readonly #stream: Writable;
  #leftOut = 0;
  #broken = false;

  constructor(name: string, inner: BlockDevice, path: string, fd: number, warn: (line: string) => void) {
    super(name, what(path), inner);
    this.#stream = fileStream(Place.of(path), fd);
    // The guest goes on.
    this.#stream.on("error", ({ message }) => {
      if (!this.#broken) warn(`${path}: nothing more is logged: ${message}`);
      this.#broken = true;
    });
  }

  protected override operate(operation: Operation, start: (done: Done) => void, done: Done): void {
    const began = performance.now();
    start((result, error) => {
      const outcome = result === Result.Success ? "done" : `failed (${error?.message ?? "unknown error"})`;
      this.#say(`${describe(operation)}: ${outcome} after ${(performance.now() - began).toFixed(3)} ms`);
      done(result, error);
    });
  }

  protected override async letGo(): Promise<void> {
    await super.letGo();
    await new Promise<void>((resolve) => {
      this.#stream.once("close", resolve);
      if (this.#stream.closed) resolve();
      this.#stream.end();
    });
  }

  #say(line: string): void {
    if (this.#broken) return;
    if (this.#stream.writableLength > MOST_WAITING) {
      this.#leftOut++;
      return;
    }
    const now = new Date().toISOString();
    if (this.#leftOut > 0) this.#stream.write(`${now} ${this.#leftOut} lines are left out here\n`);
    this.#leftOut = 0;
    this.#stream.write(`${now} ${line}\n`);
  }
}

function describe({ name, position, length }: Operation): string {
  return name === "flush" ? name : `${name} of ${length} bytes at sector ${position / SECTOR}`;
}

/** Appends to an open file; a file server that hangs keeps nothing waiting but this. It closes the file in the end. */
function fileStream(place: Place, fd: number): Writable {
  return new Writable({
    write(chunk: Buffer, _, done) {
      append(place, fd, chunk).then(() => done(), done);
    },
    writev(chunks, done) {
      append(place, fd, Buffer.concat(chunks.map(({ chunk }) => chunk))).then(() => done(), done);
    },
    destroy(error, done) {
      place.close(fd).then(() => done(error), done);
    },
  });
}

async function append(place: Place, fd: number, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.byteLength; ) at += await place.write(fd, bytes.subarray(at), -1);
}

/** A descriptor of a regular file that is nobody's disk. Rejects with a DeviceError. */
async function openLog(path: string): Promise<number> {
  const place = Place.of(path);
  let fd = -1;
  try {
    const how = flags.O_WRONLY | flags.O_APPEND | flags.O_CREAT | flags.O_NONBLOCK;
    fd = await place.open(how, { mode: 0o600 });
    if (!isType(await place.fstat(fd), "file")) throw new DeviceError(EINVAL, path, "is not a regular file");
    // Whoever writes a disk has the lock for himself.
    if (!(await new FileLocks(fd, place).tryLock(false)))
      throw new DeviceError(EBUSY, path, "in use as a disk; log to another file");
    return fd;
  } catch (error) {
    if (fd >= 0) await place.close(fd);
    if (error instanceof DeviceError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new DeviceError(errnoOf(error), path, `cannot be logged to (${code})`);
  }
}

/** For a trial that leaves nothing behind. */
async function tryLog(path: string): Promise<void> {
  const place = Place.of(path);
  const there = await place.stat().then(
    () => true,
    () => false,
  );
  if (there) await place.close(await openLog(path));
}

export const log: WrapperKind = {
  usage: "log:FILE:TARGET",
  hasArgument: true,
  parse(argument) {
    const path = pathOf(argument);
    return {
      async open(inner, { name, warn = console.warn, create = true }) {
        if (create) return new Logged(name, inner, path, await openLog(path), warn);
        await tryLog(path);
        return new Wrapper(name, what(path), inner);
      },
    };
  },
};
