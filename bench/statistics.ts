/** What several repeats say together. */

export interface Measured {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1];
}

/** The value that a share `q` of all are not above; `q` = 1 is the greatest. */
export function quantile(values: readonly number[], q: number): number {
  return [...values].sort((a, b) => a - b)[Math.max(0, Math.ceil(values.length * q) - 1)];
}

/** Null of no values. */
export function summary(values: readonly number[]): Measured | null {
  if (values.length === 0) return null;
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}
