/** A scenario that fails, as a vector: ready to be pasted into a document of test/vectors. */
import { checkVector } from "../vectors/check.js";
import { parseVectors } from "../vectors/document.js";
import type { Scenario } from "./scenario.js";
import { Session } from "./session.js";

function failure(play: () => void): string | null {
  try {
    play();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Plays a vector's text on `module`; what is wrong there, or null. */
export function replay(text: string, module?: WebAssembly.Module): string | null {
  return failure(() => {
    for (const vector of parseVectors("counterexample", text.split("\n"))) checkVector(vector, module);
  });
}

/**
 * The vector of a scenario, with the responses that the oracle gives, and a line before it that says what is wrong. Null
 * if nothing is. A vector has no data: where only that is wrong, the line says so.
 */
export function counterexample(scenario: Scenario, module?: WebAssembly.Module): string | null {
  const session = new Session(scenario, module, true);
  const what = failure(() => session.play(scenario.moves));
  if (what === null) return null;
  const vector = session.vector("A counterexample");
  const shows = replay(vector, module) !== null;
  const note = shows ? "" : " (which is not in the responses: the vector does the same, and passes)";
  return `${what.split("\n")[0]}${note}\n\n${vector}`;
}
