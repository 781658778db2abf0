/** Exit codes, and errors that are told in one line. */
import { constants } from "node:os";

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
  return (error as { errno?: number }).errno === EBUSY ? Exit.busy : Exit.failure;
}

/** There is no vbd of that name. */
export function noVbd(name: string): CliError {
  return new CliError(`no such vbd: ${name}: \`xbdback list\` shows all`, Exit.notFound);
}
