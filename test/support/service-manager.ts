/** A service manager as systemd is to a daemon: it is notified, and keeps descriptors for the next process. */
import { closeSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import koffi from "koffi";
import { addressOf, datagramSocket, type Poll, pollReadable } from "../../host/platform/libc.js";

const libc = koffi.load("libc.so.6");
const bind = libc.func("int bind(int fd, const void *address, uint32 length)");
const recvmsg = libc.func("long recvmsg(int fd, void *message, int flags)");
const MSG_DONTWAIT = 0x40;
const MSG_CMSG_CLOEXEC = 0x40000000;
/** Of a message's parts, in one piece of memory: see host/platform/datagram.ts. */
const VECTOR = 56;
const CONTROL = VECTOR + 16;
const DATA = CONTROL + 24;
const DATA_BYTES = 4096;

export class FakeServiceManager {
  readonly messages: string[] = [];
  /** The descriptor store. */
  readonly stored = new Map<string, number[]>();
  /** It is slow, and has not yet closed what it was told to remove. */
  slow = false;
  readonly #late: number[] = [];
  readonly #directory = mkdtempSync(join(tmpdir(), "xbdback-notify-"));
  readonly #socket = datagramSocket();
  readonly #poll: Poll;

  constructor() {
    const path = Buffer.from(`${this.#address}\0`);
    const address = Buffer.concat([Buffer.from([1, 0]), path]);
    if (bind(this.#socket, address, address.length) !== 0) throw new Error(`bind ${path}`);
    this.#poll = pollReadable(this.#socket, () => this.#receive());
  }

  get #address(): string {
    return join(this.#directory, "notify");
  }

  /** How it starts a command: with these arguments of `spawn`, and these descriptors after the first three. */
  start(program: string, args: readonly string[]) {
    const all = [...this.stored].flatMap(([name, fds]) => fds.map((fd) => ({ name, fd })));
    const environment = {
      NOTIFY_SOCKET: this.#address,
      LISTEN_FDS: String(all.length),
      LISTEN_FDNAMES: all.map(({ name }) => name).join(":"),
    };
    return {
      program: "sh",
      args: ["-c", 'LISTEN_PID=$$ exec "$0" "$@"', program, ...args],
      environment,
      descriptors: all.map(({ fd }) => fd),
    };
  }

  /** Closes what it was told to remove. */
  catchUp(): void {
    for (const fd of this.#late.splice(0)) closed(fd);
  }

  close(): void {
    this.#poll.close();
    closeSync(this.#socket);
    this.catchUp();
    for (const fds of this.stored.values()) for (const fd of fds) closed(fd);
    this.stored.clear();
    rmSync(this.#directory, { recursive: true });
  }

  #receive(): void {
    for (;;) {
      const memory = Buffer.alloc(DATA + DATA_BYTES);
      const start = addressOf(memory);
      const set = (offset: number, value: number): void =>
        void memory.writeBigUInt64LE(BigInt(value), offset);
      set(16, start + VECTOR);
      set(24, 1);
      set(VECTOR, start + DATA);
      set(VECTOR + 8, DATA_BYTES);
      set(32, start + CONTROL);
      set(40, 24);
      const bytes = recvmsg(this.#socket, memory, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
      if (bytes < 0) return;
      const hasDescriptor = memory.readBigUInt64LE(40) > 0n;
      this.#take(
        memory.toString("utf8", DATA, DATA + Number(bytes)),
        hasDescriptor ? memory.readInt32LE(CONTROL + 16) : null,
      );
    }
  }

  #take(message: string, fd: number | null): void {
    this.messages.push(message);
    const name = /^FDNAME=(.*)$/m.exec(message)?.[1] ?? "stored";
    if (/^FDSTORE=1$/m.test(message) && fd !== null) {
      this.stored.set(name, [...(this.stored.get(name) ?? []), fd]);
    } else if (fd !== null) {
      closeSync(fd);
    }
    if (!/^FDSTOREREMOVE=1$/m.test(message)) return;
    this.#late.push(...(this.stored.get(name) ?? []));
    this.stored.delete(name);
    if (!this.slow) this.catchUp();
  }
}

/** Its file system may have an error to report, as when its server is gone; the descriptor is closed all the same. */
function closed(fd: number): void {
  try {
    closeSync(fd);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EBADF") throw error;
  }
}
