/** One execution: a session on the real core, with all checks and the oracle. */
import { coreModule } from "../host/core/load.js";
import type { LinearMemory } from "../host/core/memory.js";
import { decodeSession, playSession, sessionMemory } from "../host/session/index.js";
import { generate } from "./generator.js";
import { Model } from "./model.js";
import { Random } from "./random.js";

export interface Outcome {
  /** Requests that the backend took. */
  readonly requests: number;
  /** What it did wrong; null if nothing. */
  readonly finding: string | null;
}

let memory: LinearMemory | undefined;

/** Plays a session; any exception (a violation, a difference from the oracle, a trap) is a finding. */
export function execute(bytes: Uint8Array, module: WebAssembly.Module = coreModule()): Outcome {
  memory ??= sessionMemory();
  const session = decodeSession(bytes);
  const model = new Model(memory, session.header);
  try {
    playSession(module, memory, session, model, false);
    return { requests: model.requests, finding: null };
  } catch (error) {
    const { name, message } = error as Error;
    return { requests: model.requests, finding: name === "Error" ? message : `${name}: ${message}` };
  }
}

/** The bytes of execution `number` of a run with this seed; now and then mere noise. */
export function sessionOf(seed: number, number: number): Uint8Array {
  const random = new Random((Math.imul(seed, 0x9e3779b1) + number) | 0);
  if (!random.oneIn(50)) return generate(random);
  return Uint8Array.from({ length: random.below(600) }, () => random.below(256));
}
