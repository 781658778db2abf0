// blkif-session.wasm: a player of sessions with the core inside, for fuzzers and hosts without shared memory.
// A host writes a session to input(), calls begin(), next() until it returns false, and finish(). Where the backend
// does something that it must not, the call traps, and violated() says what (BAD_* in format.ts).
import { enableLog, logLength } from "./log";
import { INPUT, INPUT_BYTES, LOG, STATICS } from "./memory";
import { violation } from "./violation";

export { begin, finish, next } from "./play";
/** Whether each call leaves its text at log(). */
export { enableLog, logLength };

export function input(): u32 {
  return INPUT;
}

/** Longest session, in bytes. */
export function inputBytes(): u32 {
  return INPUT_BYTES;
}

export function log(): u32 {
  return LOG;
}

export function violated(): u32 {
  return violation;
}

/** Where the compiler must put static data, at the earliest. */
export function statics(): u32 {
  return STATICS;
}
