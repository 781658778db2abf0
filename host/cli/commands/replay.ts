/** `xbdback replay`. */
import { Command } from "commander";
import { coreModule } from "../../core/load.js";
import { playSession, readSession, sessionMemory, Violation } from "../../session/index.js";
import { CliError, readNamed } from "../errors.js";
import { examples } from "../options.js";
import { printJson } from "../output.js";

export function replayCommand(): Command {
  const command = new Command("replay")
    .summary("play a ring session on the core")
    .description(
      "Plays a file of what a guest and its host did to one ring (docs/session.md), as the fuzzers and the WASI build\n" +
        "write and read them, and prints what the core did. Fails when the core violates a rule.",
    )
    .argument("<file>", "a session file")
    .option("--json", "print JSON", false);
  return examples(
    command,
    "xbdback replay finding.session",
    "xbdback replay finding.session --json | jq .log",
  ).action(replay);
}

function replay(file: string, { json }: { json: boolean }): void {
  const session = readSession(file, readNamed(file));
  let log: readonly string[] = [];
  let violation: string | null = null;
  try {
    log = playSession(coreModule(), sessionMemory(), session);
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    violation = error.message;
  }
  if (json) printJson({ file, records: session.records.length, violation, log });
  else process.stdout.write(log.map((line) => `${line}\n`).join(""));
  if (violation !== null) throw new CliError(`${file}: the core did what it must not: ${violation}`);
}
