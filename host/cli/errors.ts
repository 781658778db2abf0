/** Exit codes, and errors that are told in one line. */
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { getSystemErrorMap } from "node:util";

export const Exit = {
  ok: 0,
  failure: 1,
  usage: 2,
  noXen: 3,
  notFound: 4,
  busy: 5,
} as const;

/** Something the user can do something about: printed as one line, without a stack. */
export class CliError extends Error {
  readonly exitCode: number;
  constructor(message: string, exitCode: number = Exit.failure) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** As a shell shows that a signal ended a command. */
export function signalled(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}

const EBUSY = 16;

/** The exit code of any error. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CliError) return error.exitCode;
  const { errno, code } = error as Partial<NodeJS.ErrnoException>;
  // A domain that does not exist, and a name that more than one has.
  if (code === "ESRCH" || code === "ENOTUNIQ") return Exit.notFound;
  return errno === EBUSY ? Exit.busy : Exit.failure;
}

/** Why a file that the command line names cannot be read or written. */
export function fileError(file: string, error: unknown): unknown {
  const { errno, code } = error as NodeJS.ErrnoException;
  if (errno === undefined || code === undefined) return error;
  return new CliError(`${file}: ${getSystemErrorMap().get(errno)?.[1] ?? code}`);
}

/** The contents of a file that the command line names. */
export function readNamed(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw fileError(file, error);
  }
}

/** There is no vbd of that name. */
export function noVbd(name: string): CliError {
  return new CliError(`no such vbd: ${name}: \`xbdback list\` shows all`, Exit.notFound);
}
