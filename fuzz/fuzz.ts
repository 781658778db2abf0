/** Runs the fuzzer for a time, watches that it goes on, and makes a finding small. */
import { Worker } from "node:worker_threads";
import { coreModule } from "../host/core/load.js";
import { execute, sessionOf } from "./run.js";
import { shrink } from "./shrink.js";
import type { WorkerInput, WorkerResult } from "./worker.js";

export interface Report {
  readonly executions: number;
  readonly requests: number;
  /** What was found, by which execution, and a session that shows it. */
  readonly finding: { readonly number: number; readonly what: string; readonly session: Uint8Array } | null;
}

/** An execution takes milliseconds. */
const HANG_MS = 20000;
const SHRINK_MS = 10000;

/** Fuzzes `module` (default: the built core) until something is found or the time is over. */
export async function fuzz(
  seed: number,
  seconds: number,
  module = coreModule(),
  hangMs = HANG_MS,
): Promise<Report> {
  const progress = new Int32Array(new SharedArrayBuffer(8));
  const input: WorkerInput = { seed, first: 0, seconds, module, progress };
  const worker = new Worker(new URL("./worker.js", import.meta.url), { workerData: input });
  const result = await new Promise<WorkerResult>((resolve, reject) => {
    let seen = 0;
    const watch = setInterval(() => {
      const executions = Atomics.load(progress, 0);
      if (executions === seen) {
        const finding = { number: Math.max(executions - 1, 0), what: "an execution does not end" };
        resolve({ executions, requests: Atomics.load(progress, 1), finding });
      }
      seen = executions;
    }, hangMs);
    worker.once("message", resolve);
    worker.once("error", reject);
    worker.once("exit", () => clearInterval(watch));
  });
  await worker.terminate();
  const { executions, requests, finding } = result;
  if (!finding) return { executions, requests, finding };
  const bytes = sessionOf(seed, finding.number);
  const hangs = finding.what === "an execution does not end";
  const session = hangs ? bytes : shrink(bytes, (b) => execute(b, module).finding, SHRINK_MS);
  return { executions, requests, finding: { ...finding, session } };
}
