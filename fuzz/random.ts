/** Small, fast and seeded: xorshift128 (Marsaglia, "Xorshift RNGs", 2003), so that a run can be repeated anywhere. */
export class Random {
  #x: number;
  #y = 362436069;
  #z = 521288629;
  #w = 88675123;

  constructor(seed: number) {
    this.#x = (seed ^ 0x9e3779b9) | 0 || 1;
    for (let i = 0; i < 16; i++) this.u32();
  }

  u32(): number {
    const t = this.#x ^ (this.#x << 11);
    this.#x = this.#y;
    this.#y = this.#z;
    this.#z = this.#w;
    this.#w = this.#w ^ (this.#w >>> 19) ^ t ^ (t >>> 8);
    return this.#w >>> 0;
  }

  /** 0 to limit - 1. */
  below(limit: number): number {
    return this.u32() % limit;
  }

  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)];
  }

  /** Numbers where mistakes live: small ones, powers of two and their neighbours, and anything. */
  awkward(): number {
    const power = 2 ** this.below(33);
    return (
      this.pick([this.below(16), power, power - 1, power + 1, this.u32(), 2 ** 32 - 1 - this.below(16)]) %
      2 ** 32
    );
  }
}
