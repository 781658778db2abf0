/** `xbdback commit`. */
import { Command } from "commander";
import type { CommitLine } from "../../daemon/streams.js";
import { printable } from "../../vbd/diagnostics.js";
import { type VbdId, vbdName } from "../../vbd/name.js";
import { askOnAndOn } from "../daemon.js";
import { CliError } from "../errors.js";
import { type CommonOptions, examples, ID_HELP, placeOptions, vbdId } from "../options.js";
import { printJson } from "../output.js";

export function commitCommand(): Command {
  const command = placeOptions(
    new Command("commit")
      .summary("write a guest's overlay back into the image below it")
      .description(
        "What the guest has written since the snapshot goes into the image, while the guest goes on; a guest that is connected\n" +
          "sees two pauses. The disk is that image from then on, and the overlay is not used any more. To interrupt the command\n" +
          "gives it up, and the disk is as it was.",
      )
      .argument("<id>", ID_HELP, vbdId),
  );
  return examples(command, "xbdback commit 1/xvda").action(commit);
}

async function commit(id: VbdId, options: CommonOptions): Promise<void> {
  const name = vbdName(id);
  const { target, size, overlay = "" } = await last(options, name);
  if (target === undefined)
    throw new CliError(
      "the daemon has ended meanwhile: `xbdback show` of the next one says what the disk is",
    );
  if (options.json) return printJson({ name, ...id, target, size, overlay });
  const unused = `${printable(overlay)} is not used any more`;
  process.stdout.write(`${name}: the disk is ${printable(target)} from now on, and ${unused}\n`);
}

/** What the daemon says last. */
async function last(options: CommonOptions, name: string): Promise<CommitLine> {
  try {
    for await (const line of askOnAndOn<CommitLine>(options, { command: "commit", vbd: name })) {
      if (line.target !== undefined) return line;
      showProgress(line);
    }
    return {};
  } finally {
    endProgress();
  }
}

const MIB = 1 << 20;
let shown = false;

/** On one line of a terminal. */
function showProgress({ copied = 0, total = 0 }: CommitLine): void {
  if (!process.stderr.isTTY || total === 0) return;
  const percent = Math.floor((100 * copied) / total);
  process.stderr.write(`\r${percent} %, ${Math.floor(copied / MIB)} of ${Math.floor(total / MIB)} MiB `);
  shown = true;
}

function endProgress(): void {
  if (shown) process.stderr.write("\n");
  shown = false;
}
