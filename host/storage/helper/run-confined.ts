/** Running a program that tells something of an image, confined to what it has to read. */
import { execFile } from "node:child_process";
import { constants } from "node:os";
import { promisify } from "node:util";
import { DeviceError } from "../open.js";
import { findProgram } from "./command.js";
import { confined } from "./confined.js";
import type { Reach } from "./reach.js";

const run = promisify(execFile);
/** An image on slow storage, with thousands of snapshots in its header, is still read. */
const ANSWER_MS = 20_000;
const MAX_OUTPUT_BYTES = 16 << 20;

export interface Told {
  readonly name: string;
  /** Debian's. */
  readonly package: string;
  readonly timeoutMs?: number;
}

/**
 * Resolves with what it has printed. Rejects with a {@link DeviceError} about an image where it is not installed, and else with
 * an Error that says why it failed, in its words if it has said something.
 */
export async function runConfined(
  image: string,
  { name, package: from, timeoutMs = ANSWER_MS }: Told,
  args: readonly string[],
  reach: Reach,
): Promise<string> {
  const path = findProgram(name);
  if (path === null) {
    const why = `needs ${name}, which is not installed: \`apt install ${from}\``;
    throw new DeviceError(constants.errno.ENOENT, image, why);
  }
  const command = confined(path, args, reach);
  try {
    const { stdout } = await run(command.program, command.args, {
      env: command.env,
      timeout: timeoutMs,
      killSignal: "SIGKILL",
      maxBuffer: MAX_OUTPUT_BYTES,
    });
    return stdout;
  } catch (error) {
    throw new Error(whyNot(error, name, timeoutMs), { cause: error });
  }
}

function whyNot(error: unknown, name: string, timeoutMs: number): string {
  const { code, killed, stderr = "" } = error as { code?: unknown; killed?: boolean; stderr?: string };
  if (code === "ERR_CHILD_PROCESS_STDIO_MAXBUFFER")
    return `it describes more than ${MAX_OUTPUT_BYTES >> 20} MiB`;
  if (killed) return `no answer within ${timeoutMs / 1000} s; check the storage below it`;
  const said = stderr
    .trim()
    .split("\n")[0]
    .replace(/\p{Cc}/gu, "?");
  return said === "" ? "it exited without any output" : said.replace(`${name}: `, "");
}
