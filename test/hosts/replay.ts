/** Replays the vectors as script.ts wrote them down, in any host of JavaScript. Nothing here knows Node. */
import * as abi from "../../assembly/abi.js";

type Export = (argument?: number) => number;

class Replay {
  vectors = 0;
  calls = 0;
  readonly #module: WebAssembly.Module;
  readonly #memory: WebAssembly.Memory;
  readonly #found: Uint8Array;
  /** What memory must be. */
  readonly #expected = new Uint8Array(abi.MEMORY_BYTES);
  #exports: Record<string, Export> = {};
  #vector = "";
  #lastCall = "";

  constructor(module: WebAssembly.Module, shared: boolean) {
    const pages = abi.MEMORY_BYTES / 65536;
    this.#module = module;
    this.#memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
    this.#found = new Uint8Array(this.#memory.buffer);
  }

  play(line: string): void {
    const [kind, ...words] = line.split(" ");
    if (kind === "host") this.#found.set(this.#write(words), Number(words[0]));
    else if (kind === "core") this.#write(words);
    else if (kind === "call") this.#call(words);
    else if (kind === "vector") {
      this.#vector = words.join(" ");
      const instance = new WebAssembly.Instance(this.#module, { env: { memory: this.#memory } });
      this.#exports = instance.exports as Record<string, Export>;
      this.vectors++;
    } else throw new Error(`"${line}" is not understood`);
  }

  #write([offset, text]: readonly string[]): Uint8Array {
    const at = Number(offset);
    const [count, value] = text.split("*");
    if (value !== undefined)
      return this.#expected.subarray(at, at + Number(count)).fill(Number.parseInt(value, 16));
    const bytes = this.#expected.subarray(at, at + text.length / 2);
    for (let i = 0; i < bytes.length; i++) bytes[i] = Number.parseInt(text.slice(2 * i, 2 * i + 2), 16);
    return bytes;
  }

  #call(words: readonly string[]): void {
    this.#lastCall = words.join(" ");
    this.calls++;
    const result = this.#exports[words[0]](Number(words[1]));
    if (result !== Number(words[2])) throw new Error(`${this.#where()} it returned ${result}`);
  }

  /** Compares what the core may write, or all there is. */
  compare(everything: boolean): void {
    this.#compareRange(0, everything ? abi.MEMORY_BYTES : abi.DATA);
    this.#compareRange(abi.SRING, abi.PERSISTENT);
  }

  #compareRange(from: number, to: number): void {
    const found = new Int32Array(this.#memory.buffer, from, (to - from) / 4);
    const expected = new Int32Array(this.#expected.buffer, from, (to - from) / 4);
    for (let i = 0; i < expected.length; i++) {
      if (found[i] !== expected[i])
        throw new Error(`${this.#where()} other than expected are the four bytes at ${from + i * 4}`);
    }
  }

  #where(): string {
    return `${this.#vector}: after "${this.#lastCall}":`;
  }
}

/**
 * Plays a whole script on new memory. Returns how many vectors and calls there were; throws an Error that names the
 * vector and the call at the first difference.
 */
export function replay(module: WebAssembly.Module, shared: boolean, script: string): string {
  const player = new Replay(module, shared);
  let called = false;
  for (const line of script.trimEnd().split("\n")) {
    if (called && !line.startsWith("core ")) player.compare(false);
    if (!line.startsWith("core ")) called = line.startsWith("call ");
    player.play(line);
  }
  player.compare(true);
  return `${player.vectors} vectors, ${player.calls} calls`;
}
