/**
 * A file system in FUSE that hangs when it is told to: `node fuse-server.js DIRECTORY`, as root. Each name in it that is a
 * number is a file of 1 MiB, in memory. From SIGUSR1 on it takes requests and answers none, until SIGUSR2. SIGTERM ends it, and
 * the mount. It says what it does, a line each.
 */
import { openSync, read, writeSync } from "node:fs";
import koffi from "koffi";

const FILE_BYTES = 1 << 20;
const ENOENT = 2;
const ENOSYS = 38;
const MS_NOSUID_NODEV = 6;
const MNT_DETACH = 2;
const ROOT = 1n;

/** linux/fuse.h. */
const Op = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  setattr: 4,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  flush: 25,
  init: 26,
  opendir: 27,
  releasedir: 29,
  interrupt: 36,
  batchForget: 42,
  fallocate: 43,
} as const;

const libc = koffi.load("libc.so.6");
const mount = libc.func(
  "int mount(const char *source, const char *target, const char *type, ulong flags, const char *data)",
);
const umount = libc.func("int umount2(const char *target, int flags)");

/** struct fuse_attr, 88 bytes: the root is a directory, and all else is a file. */
function attributes(node: bigint): Buffer {
  const attr = Buffer.alloc(88);
  attr.writeBigUInt64LE(node, 0);
  attr.writeBigUInt64LE(BigInt(node === ROOT ? 4096 : FILE_BYTES), 8);
  attr.writeUInt32LE(node === ROOT ? 0o040755 : 0o100600, 60);
  attr.writeUInt32LE(1, 64);
  attr.writeUInt32LE(4096, 80);
  return attr;
}

const files = new Map<bigint, Buffer>();

function contents(node: bigint): Buffer {
  const bytes = files.get(node) ?? Buffer.alloc(FILE_BYTES);
  files.set(node, bytes);
  return bytes;
}

/** The answer's body, or an errno. Nothing may be kept: each look at a file asks again. */
function answer(op: number, node: bigint, body: Buffer): Buffer | number {
  switch (op) {
    case Op.init: {
      const out = Buffer.alloc(64);
      out.writeUInt32LE(7, 0);
      out.writeUInt32LE(31, 4);
      out.writeUInt32LE(128 << 10, 8);
      out.writeUInt16LE(64, 16);
      out.writeUInt16LE(48, 18);
      out.writeUInt32LE(128 << 10, 20);
      return out;
    }
    case Op.lookup: {
      const name = body.toString("latin1", 0, body.indexOf(0));
      if (!/^[0-9]{1,4}$/.test(name)) return ENOENT;
      const out = Buffer.alloc(128);
      out.writeBigUInt64LE(BigInt(name) + 2n, 0);
      attributes(BigInt(name) + 2n).copy(out, 40);
      return out;
    }
    case Op.getattr:
    case Op.setattr:
      return Buffer.concat([Buffer.alloc(16), attributes(node)]);
    case Op.open:
    case Op.opendir:
      return Buffer.alloc(16);
    case Op.read: {
      const at = Number(body.readBigUInt64LE(8));
      return contents(node).subarray(at, at + body.readUInt32LE(16));
    }
    case Op.write: {
      const out = Buffer.alloc(8);
      body.copy(contents(node), Number(body.readBigUInt64LE(8)), 40, 40 + body.readUInt32LE(16));
      out.writeUInt32LE(body.readUInt32LE(16), 0);
      return out;
    }
    case Op.statfs:
      return Buffer.alloc(80);
    case Op.release:
    case Op.releasedir:
    case Op.fsync:
    case Op.flush:
    case Op.fallocate:
      return Buffer.alloc(0);
    default:
      return ENOSYS;
  }
}

const directory = process.argv[2];
const fd = openSync("/dev/fuse", "r+");
if (
  mount("fuse-server", directory, "fuse", MS_NOSUID_NODEV, `fd=${fd},rootmode=40000,user_id=0,group_id=0`) !==
  0
)
  throw new Error(`mount: errno ${koffi.errno()}`);

let hangs = false;
const held: Buffer[] = [];

function reply(request: Buffer): void {
  const op = request.readUInt32LE(4);
  if (op === Op.forget || op === Op.batchForget || op === Op.interrupt) return;
  const said = answer(op, request.readBigUInt64LE(16), request.subarray(40));
  const body = typeof said === "number" ? Buffer.alloc(0) : said;
  const header = Buffer.alloc(16);
  header.writeUInt32LE(16 + body.length, 0);
  header.writeInt32LE(typeof said === "number" ? -said : 0, 4);
  header.writeBigUInt64LE(request.readBigUInt64LE(8), 8);
  try {
    writeSync(fd, Buffer.concat([header, body]));
  } catch {
    // Who asked has been interrupted.
  }
}

function next(): void {
  read(fd, Buffer.alloc(1 << 18), 0, 1 << 18, null, (error, length, buffer) => {
    // Unmounted.
    if (error) process.exit();
    const request = buffer.subarray(0, length);
    if (hangs) held.push(request);
    else reply(request);
    next();
  });
}

process.on("SIGUSR1", () => {
  hangs = true;
  process.stdout.write("hangs\n");
});
process.on("SIGUSR2", () => {
  hangs = false;
  for (const request of held.splice(0)) reply(request);
  process.stdout.write("answers\n");
});
process.on("SIGTERM", () => {
  umount(directory, MNT_DETACH);
  // An orderly end would wait for the thread that reads.
  process.kill(process.pid, "SIGKILL");
});
next();
process.stdout.write("mounted\n");
