/** Writes a vector: what a guest and its host do, as it happens, in the blocks that README.md here describes. */
import * as abi from "../../assembly/abi.js";
import type { BlockKind } from "./document.js";
import { DEFAULT_CONFIG, FEATURES, FILLER, type INDICES, NUMBERS, type VectorConfig } from "./statements.js";

const RESULT_NAMES = ["success", "failure", "read-only", "unsupported"];

interface Completion {
  readonly slot: number;
  readonly result: number;
}

function hexLines(bytes: Uint8Array, perLine: number): string[] {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += perLine)
    lines.push(Buffer.from(bytes.subarray(at, at + perLine)).toString("hex"));
  return lines;
}

function configLines(config: VectorConfig): string[] {
  const lines: string[] = [];
  if (config.abi !== DEFAULT_CONFIG.abi) lines.push("abi x86_32");
  if (config.features !== DEFAULT_CONFIG.features) {
    const names = Object.keys(FEATURES).filter((name) => config.features & FEATURES[name]);
    lines.push(`features ${names.join(" ") || "none"}`);
  }
  for (const [key, field] of Object.entries(NUMBERS))
    if (config[field] !== DEFAULT_CONFIG[field]) lines.push(`${key} ${config[field]}`);
  return lines;
}

export class VectorWriter {
  readonly #blocks: { fence: string; lines: string[] }[] = [];
  readonly #body: number;
  readonly #responses: string[] = [];
  /** What each call of the step that is being written was told. */
  #calls: Completion[][] = [];

  constructor(config: Partial<VectorConfig>) {
    const whole = { ...DEFAULT_CONFIG, ...config };
    this.#body = whole.abi === abi.ABI_X86_32 ? 20 : 24;
    const lines = configLines(whole);
    if (lines.length > 0) this.#add("config", lines);
  }

  #add(kind: BlockKind | `page ${number}`, lines: readonly string[]): void {
    const last = this.#blocks.at(-1);
    if (last?.fence === kind) last.lines.push(...lines);
    else this.#blocks.push({ fence: kind, lines: [...lines] });
  }

  /** The guest writes the entry of a free-running index. */
  entry(index: number, bytes: Uint8Array): void {
    let length = bytes.length;
    while (length > 0 && bytes[length - 1] === FILLER) length--;
    const head = hexLines(bytes.subarray(0, Math.min(length, this.#body)), this.#body);
    const segments = hexLines(bytes.subarray(this.#body, length), 4 * abi.SEGMENT_BYTES);
    this.#add("ring", [`request ${index}`, ...head, ...segments]);
  }

  index(name: (typeof INDICES)[number], value: number): void {
    this.#add("ring", [`${name} ${value >>> 0}`]);
  }

  page(gref: number, bytes: Uint8Array): void {
    this.#add(`page ${gref}`, hexLines(bytes, 4 * abi.SEGMENT_BYTES));
  }

  host(line: string): void {
    this.#add("host", [line]);
  }

  // ---- Steps ----

  call(completions: readonly Completion[]): void {
    this.#calls.push([...completions]);
  }

  /** The calls since the last step were one pass: a `step`, or, where some came with completions, `step once` each. */
  endStep(): void {
    const calls = this.#calls.splice(0);
    const last = calls.findLastIndex((completions, i) => i === 0 || completions.length > 0);
    calls.slice(0, last + 1).forEach((completions, i) => {
      for (const { slot, result } of completions) this.host(`complete ${slot} ${RESULT_NAMES[result]}`);
      this.host(i === last ? "step" : "step once");
    });
  }

  // ---- The end ----

  /** A response that the guest must get, as describe.ts has it. */
  response(text: string): void {
    this.#responses.push(text);
  }

  /** The vector: a heading and its blocks. */
  text(title: string): string {
    const blocks = [...this.#blocks, { fence: "responses", lines: [...this.#responses].sort() }];
    const parts = blocks.map(({ fence, lines }) => ["", `\`\`\`${fence}`, ...lines, "```"].join("\n"));
    return `## ${title}\n${parts.join("\n")}\n`;
  }
}
