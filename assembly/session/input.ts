// The session file, read from front to back. Behind its end everything is zero.
import { INPUT } from "./memory";

let at: u32 = 0;
let end: u32 = 0;

export function beginInput(length: u32): void {
  at = INPUT;
  end = INPUT + length;
}

export function atEnd(): bool {
  return at >= end;
}

export function readU8(): u32 {
  return at < end ? load<u8>(at++) : 0;
}

export function readU16(): u32 {
  const low = readU8();
  return low | (readU8() << 8);
}

export function readU32(): u32 {
  const low = readU16();
  return low | (readU16() << 16);
}

export function readU64(): u64 {
  const low = readU32();
  return low | ((<u64>readU32()) << 32);
}
