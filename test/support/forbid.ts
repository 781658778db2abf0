/**
 * `FORBID=N node --import THIS` forbids the process, and what it starts, the system call N as a container's seccomp profile
 * does: EPERM. A filter of classic BPF (linux/include/uapi/linux/filter.h): load the call's number, compare, return.
 */
import koffi from "koffi";

const PR_SET_NO_NEW_PRIVS = 38;
const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2;
const RET_ALLOW = 0x7fff0000;
const RET_EPERM = 0x00050001;

// struct sock_filter: u16 code, u8 jt, u8 jf, u32 k.
const instructions = [
  [0x20, 0, 0, 0],
  [0x15, 0, 1, Number(process.env["FORBID"])],
  [0x06, 0, 0, RET_EPERM],
  [0x06, 0, 0, RET_ALLOW],
];
const filter = Buffer.alloc(instructions.length * 8);
for (const [i, [code, yes, no, value]] of instructions.entries()) {
  filter.writeUInt16LE(code, i * 8);
  filter.writeUInt8(yes, i * 8 + 2);
  filter.writeUInt8(no, i * 8 + 3);
  filter.writeUInt32LE(value, i * 8 + 4);
}
// struct sock_fprog: u16 len, then the filter's address at 8.
const program = Buffer.alloc(16);
program.writeUInt16LE(instructions.length, 0);
program.writeBigUInt64LE(BigInt(koffi.address(filter)), 8);

const libc = koffi.load("libc.so.6");
const prctl = libc.func("int prctl(int option, ulong a, ulong b, ulong c, ulong d)");
if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) !== 0) throw new Error("PR_SET_NO_NEW_PRIVS failed");
if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, Number(koffi.address(program)), 0, 0) !== 0)
  throw new Error("PR_SET_SECCOMP failed");
