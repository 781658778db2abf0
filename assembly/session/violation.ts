// A player that finds the backend at fault stops at once: it notes what, tells its host, and traps.

/** BAD_* of format.ts, or 0. */
export let violation: u32 = 0;
let report: ((code: u32) => void) | null = null;

/** `last` is called before the trap. */
export function onViolation(last: (code: u32) => void): void {
  report = last;
}

export function clearViolation(): void {
  violation = 0;
}

export function check(good: bool, code: u32): void {
  if (good) return;
  violation = code;
  const last = report;
  if (last) last(code);
  unreachable();
}
