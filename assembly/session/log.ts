// What the backend did, as text: one line for each thing, words and decimal numbers.
import { LOG, LOG_BYTES } from "./memory";

let length: u32 = 0;
let enabled: bool = false;

export function enableLog(on: bool): void {
  enabled = on;
  length = 0;
}

export function clearLog(): void {
  length = 0;
}

export function logLength(): u32 {
  return length;
}

function put(code: u32): void {
  if (length < <u32>LOG_BYTES) store<u8>(LOG + length++, code);
}

/** Begins a line. Words are ASCII. */
export function line(word: string): void {
  if (enabled) for (let i = 0; i < word.length; i++) put(word.charCodeAt(i));
}

export function field(value: u64): void {
  if (!enabled) return;
  put(0x20);
  let unit: u64 = 1;
  while (value / unit >= 10) unit *= 10;
  for (; unit != 0; unit /= 10) put(0x30 + <u32>((value / unit) % 10));
}

export function signedField(value: i32): void {
  if (!enabled) return;
  if (value >= 0) {
    field(value);
    return;
  }
  put(0x20);
  put(0x2d);
  // Statuses are small: three digits would do.
  let unit = 1;
  while (-value / unit >= 10) unit *= 10;
  for (; unit != 0; unit /= 10) put(0x30 + ((-value / unit) % 10));
}

export function endLine(): void {
  if (enabled) put(0x0a);
}
