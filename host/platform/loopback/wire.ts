/**
 * What a process says to the loopback hypervisor, one JSON object a line: `{id, op, …}` is answered with
 * `{id, result}` or `{id, error: {code, message}}`. Codes are those of Xen's hypercalls (ESRCH, EINVAL, ENOSPC, …).
 *
 * | op | arguments | result |
 * | -- | --------- | ------ |
 * | hello | domid: whose process this is; first of all | |
 * | openEvtchn, closeEvtchn | – / handle | handle |
 * | allocUnbound | handle, domid | port |
 * | bindInterdomain | handle, domid, port | port |
 * | unbind | handle, port | |
 * | openGntdev, closeGntdev | – / slot | slot |
 * | openPages, closePages | | |
 */
export interface Request {
  id: number;
  op: string;
  [argument: string]: unknown;
}

export type Result = Record<string, unknown>;

export interface Reply {
  id: number;
  result?: Result;
  error?: { code: string; message: string };
}

/** A request that the hypervisor refused; `code` is an errno's name. */
export class HypervisorError extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

const LONGEST_LINE = 4096;

/** Cuts what comes from a socket into lines. Throws when a line is longer than any that is meant. */
export class Lines {
  #rest = "";

  push(chunk: string): string[] {
    const lines = (this.#rest + chunk).split("\n");
    this.#rest = lines.pop() as string;
    if (this.#rest.length > LONGEST_LINE) throw new HypervisorError("EMSGSIZE", "a line without a newline");
    return lines;
  }
}

/** A Unix socket's address has 108 bytes, with a zero at the end. */
const LONGEST_PATH = 107;

/** Throws when a path is too long for a Unix socket. */
export function checkSocketPath(path: string): void {
  const bytes = Buffer.byteLength(path);
  if (bytes <= LONGEST_PATH) return;
  throw new HypervisorError(
    "ENAMETOOLONG",
    `${path} has ${bytes} bytes, and a Unix socket's path may have ${LONGEST_PATH}: choose a shorter directory`,
  );
}
