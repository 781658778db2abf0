// blkif-wasi.wasm: a WASI command that reads a session on its standard input and writes what the backend did on its
// standard output. It traps, after a last line that says why, when the backend did something that it must not.
import { errno, fd_read, fd_write } from "@assemblyscript/wasi-shim/assembly/bindings/wasi_snapshot_preview1";
import { enableLog, endLine, field, line, logLength } from "./log";
import { INPUT, INPUT_BYTES, LOG, SHADOW } from "./memory";
import { begin, finish, next } from "./play";
import { onViolation } from "./violation";

// An iovec and a count; the player has not begun, or has ended its use of the shadow, whenever these are used.
const VECTOR = SHADOW;
const COUNT = SHADOW + 8;

function readInput(): u32 {
  let length: u32 = 0;
  while (length < <u32>INPUT_BYTES) {
    store<u32>(VECTOR, INPUT + length);
    store<u32>(VECTOR, INPUT_BYTES - length, 4);
    if (fd_read(0, VECTOR, 1, COUNT) != errno.SUCCESS) unreachable();
    const count = load<u32>(COUNT);
    if (count == 0) break;
    length += count;
  }
  return length;
}

function writeLog(): void {
  const end = LOG + logLength();
  for (let at = LOG; at < end; ) {
    store<u32>(VECTOR, at);
    store<u32>(VECTOR, end - at, 4);
    if (fd_write(1, VECTOR, 1, COUNT) != errno.SUCCESS) unreachable();
    at += load<u32>(COUNT);
  }
}

onViolation((code) => {
  line("violation");
  field(code);
  endLine();
  writeLog();
});
enableLog(true);
begin(readInput());
writeLog();
while (next()) writeLog();
finish();
writeLog();
