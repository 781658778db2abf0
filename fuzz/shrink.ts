/** Makes a session that fails smaller, simply: leaves out records while it still fails in the same way. */
import { decodeSession, encodeSession } from "../host/session/index.js";

/**
 * `fails` says how a session fails, or null. Tries ever smaller groups of records until nothing can be left out any
 * more or `milliseconds` have passed; returns the smallest session that fails as the first did.
 */
export function shrink(
  bytes: Uint8Array,
  fails: (bytes: Uint8Array) => string | null,
  milliseconds: number,
): Uint8Array {
  const wanted = fails(bytes);
  const deadline = Date.now() + milliseconds;
  const { header, records } = decodeSession(bytes);
  let kept = [...records];
  let best = encodeSession({ header, records: kept });
  // What only a damaged file can say (a record cut short) is gone by now.
  if (wanted === null || !sameKind(fails(best), wanted)) return bytes;
  for (let size = Math.ceil(kept.length / 2); size >= 1 && Date.now() < deadline; ) {
    let smaller = false;
    for (let at = 0; at < kept.length && Date.now() < deadline; ) {
      const rest = [...kept.slice(0, at), ...kept.slice(at + size)];
      const candidate = encodeSession({ header, records: rest });
      if (sameKind(fails(candidate), wanted)) {
        kept = rest;
        best = candidate;
        smaller = true;
      } else at += size;
    }
    if (!smaller || size > 1) size = size === 1 ? 0 : Math.ceil(size / 2);
  }
  return best;
}

/** Numbers in a message differ from one session to the next. */
function sameKind(a: string | null, b: string): boolean {
  return a !== null && a.replace(/-?\d+/g, "#") === b.replace(/-?\d+/g, "#");
}
