/**
 * The loop of `npm run fuzz`, in a thread of its own so that the main one notices when an execution does not end.
 * It stops at the first finding.
 */
import { parentPort, workerData } from "node:worker_threads";
import { execute, sessionOf } from "./run.js";

export interface WorkerInput {
  readonly seed: number;
  /** Number of the first execution. */
  readonly first: number;
  readonly seconds: number;
  /** blkif.wasm. */
  readonly module: WebAssembly.Module;
  /** Two words: executions begun, requests taken. */
  readonly progress: Int32Array;
}

export interface WorkerResult {
  readonly executions: number;
  readonly requests: number;
  /** Number of the execution, and what it found. */
  readonly finding: { readonly number: number; readonly what: string } | null;
}

const { seed, first, seconds, module, progress } = workerData as WorkerInput;
const deadline = Date.now() + seconds * 1000;
let executions = 0;
let requests = 0;
let finding: WorkerResult["finding"] = null;
while (!finding && Date.now() < deadline) {
  const number = first + executions++;
  Atomics.store(progress, 0, executions);
  const outcome = execute(sessionOf(seed, number), module);
  requests += outcome.requests;
  Atomics.store(progress, 1, requests);
  if (outcome.finding) finding = { number, what: outcome.finding };
}
parentPort?.postMessage({ executions, requests, finding } satisfies WorkerResult);
