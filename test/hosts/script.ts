/**
 * The vectors as a script that any host of the core can replay, with neither their Markdown nor the player: what the
 * host and the guest wrote to linear memory, each call, and what the call returned and wrote. A line is one of
 *
 *   vector ring.md:57 A full ring     a new instance; memory stays as it is
 *   host 4096 0a00ff                  bytes (hexadecimal) written at an offset before the next call
 *   host 4096 10*a5                   the same byte ten times
 *   call step 0 13                    an export, its argument (0 where it has none), its result
 *   core 384 01000000                 what the call changed; it changed nothing else of what is compared
 *
 * Memory is zero at first. Compared is all of it but the data and persistent windows, which the core never touches.
 */
import * as abi from "../../assembly/abi.js";
import { checkVector } from "../vectors/check.js";
import { documentNames, parseVectors, readDocument } from "../vectors/document.js";

const COMPARED = [
  [0, abi.DATA],
  [abi.SRING, abi.PERSISTENT],
] as const;

type Export = (argument?: number) => number;

/** Unchanged bytes between two changes that are not worth a line of their own. */
const GAP = 12;
/** Equal bytes that are worth a line of their own. */
const REPEATED = 24;
const CHUNK = 4096;

export interface Script {
  readonly text: string;
  readonly vectors: number;
  readonly calls: number;
}

/** `offset bytes` for each piece of a run of bytes: pieces of one value, and what lies between those. */
function pieces(bytes: Buffer, offset: number): string[] {
  const found: string[] = [];
  let plain = 0;
  for (let at = 0; at < bytes.length; ) {
    let end = at + 1;
    while (end < bytes.length && bytes[end] === bytes[at]) end++;
    if (end - at >= REPEATED) {
      if (plain < at) found.push(`${offset + plain} ${bytes.toString("hex", plain, at)}`);
      found.push(`${offset + at} ${end - at}*${bytes.toString("hex", at, at + 1)}`);
      plain = end;
    }
    at = end;
  }
  if (plain < bytes.length) found.push(`${offset + plain} ${bytes.toString("hex", plain)}`);
  return found;
}

class Recorder {
  readonly lines: string[] = [];
  vectors = 0;
  calls = 0;
  readonly #known = Buffer.alloc(abi.MEMORY_BYTES);

  begin(name: string): void {
    this.vectors++;
    this.lines.push(`vector ${name}`);
  }

  wrap(exports: WebAssembly.Exports, memory: Buffer): Record<string, Export> {
    const wrapped = Object.entries(exports).map(([name, value]) => {
      const call = (argument = 0): number => {
        this.#changes("host", memory);
        const result = (value as Export)(argument);
        this.lines.push(`call ${name} ${argument} ${result}`);
        this.#changes("core", memory);
        this.calls++;
        return result;
      };
      return [name, call];
    });
    return Object.fromEntries(wrapped);
  }

  /** A line for each run of bytes that differ from what is known, which they are from then on. */
  #changes(author: string, memory: Buffer): void {
    for (const [from, to] of COMPARED) {
      let run: { start: number; end: number } | undefined;
      const finish = (): void => {
        if (!run) return;
        const bytes = memory.subarray(run.start, run.end);
        this.#known.set(bytes, run.start);
        for (const piece of pieces(bytes, run.start)) this.lines.push(`${author} ${piece}`);
      };
      for (let chunk = from; chunk < to; chunk += CHUNK) {
        if (memory.compare(this.#known, chunk, chunk + CHUNK, chunk, chunk + CHUNK) === 0) continue;
        for (let at = chunk; at < chunk + CHUNK; at++) {
          if (memory[at] === this.#known[at]) continue;
          if (run && at - run.end < GAP) run.end = at + 1;
          else {
            finish();
            run = { start: at, end: at + 1 };
          }
        }
      }
      finish();
    }
  }
}

/**
 * Plays every vector in this process, on the core that Node runs, and writes down what went into it and came out. Throws an
 * Error where that is not what the document says: what is written down is what the documents say.
 */
export function recordVectors(): Script {
  const recorder = new Recorder();
  const RealInstance = WebAssembly.Instance;
  /** The player makes an instance for each vector; it gets one whose exports are recorded. */
  class Recorded {
    readonly exports: Record<string, Export>;
    constructor(module: WebAssembly.Module, imports: { env: { memory: WebAssembly.Memory } }) {
      const { exports } = new RealInstance(module, imports);
      this.exports = recorder.wrap(exports, Buffer.from(imports.env.memory.buffer));
    }
  }
  Object.assign(WebAssembly, { Instance: Recorded });
  try {
    for (const file of documentNames()) {
      for (const vector of parseVectors(file, readDocument(file))) {
        recorder.begin(`${file}:${vector.line} ${vector.title}`);
        checkVector(vector);
      }
    }
  } finally {
    Object.assign(WebAssembly, { Instance: RealInstance });
  }
  return { text: `${recorder.lines.join("\n")}\n`, vectors: recorder.vectors, calls: recorder.calls };
}
