/** log:FILE:TARGET. Appends a line to a file for each operation that has ended. */
import {
  closeSync,
  createWriteStream,
  existsSync,
  constants as flags,
  fstatSync,
  openSync,
  type WriteStream,
} from "node:fs";
import { constants } from "node:os";
import { tryLock } from "../../platform/libc.js";
import { type BlockDevice, type Done, Result } from "../device.js";
import { SECTOR } from "../geometry.js";
import { DeviceError } from "../open.js";
import { pathOf, type WrapperKind } from "./kind.js";
import { type Operation, Wrapper } from "./wrapper.js";

const { EBUSY, EINVAL, EIO } = constants.errno;
/** Bytes that may wait for the file. Lines that come while it is slower than the guest are left out, and counted. */
const MOST_WAITING = 1 << 20;

const what = (path: string): string => `log in ${path}`;

class Logged extends Wrapper {
  readonly #stream: WriteStream;
  #leftOut = 0;
  #broken = false;

  constructor(name: string, inner: BlockDevice, path: string, fd: number, warn: (line: string) => void) {
    super(name, what(path), inner);
    this.#stream = createWriteStream(path, { fd });
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

/** A descriptor of a regular file that is nobody's disk. Throws a DeviceError. */
function openLog(path: string): number {
  let fd = -1;
  try {
    fd = openSync(path, flags.O_WRONLY | flags.O_APPEND | flags.O_CREAT | flags.O_NONBLOCK, 0o600);
    if (!fstatSync(fd).isFile()) throw new DeviceError(EINVAL, path, "is not a regular file");
    // Whoever writes a disk has the lock for himself.
    if (!tryLock(fd, false)) throw new DeviceError(EBUSY, path, "in use as a disk; log to another file");
    return fd;
  } catch (error) {
    if (fd >= 0) closeSync(fd);
    if (error instanceof DeviceError) throw error;
    const { errno = EIO, code } = error as NodeJS.ErrnoException;
    throw new DeviceError(Math.abs(errno), path, `cannot be logged to (${code})`);
  }
}

export const log: WrapperKind = {
  usage: "log:FILE:TARGET",
  hasArgument: true,
  parse(argument) {
    const path = pathOf(argument);
    return {
      open(inner, { name, warn = console.warn, create = true }) {
        if (create) return new Logged(name, inner, path, openLog(path), warn);
        if (existsSync(path)) closeSync(openLog(path));
        return new Wrapper(name, what(path), inner);
      },
    };
  },
};
