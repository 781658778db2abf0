/** `xbdback change`. */
import { Command } from "commander";
import { formatSize } from "../../storage/size.js";
import { printable } from "../../vbd/diagnostics.js";
import { type VbdId, vbdName } from "../../vbd/name.js";
import { ask } from "../daemon.js";
import { CliError, Exit } from "../errors.js";
import { type CommonOptions, examples, ID_HELP, placeOptions, vbdId } from "../options.js";
import { printJson } from "../output.js";

interface ChangeOptions extends CommonOptions {
  readonly eject: boolean;
}

interface Changed {
  readonly device: string | null;
  readonly size: number;
}

export function changeCommand(): Command {
  const command = placeOptions(
    new Command("change")
      .summary("put another medium into a guest's CD-ROM drive")
      .description(
        "The medium is opened first; if it cannot be, the drive keeps the one that it has. A guest that is connected sees a\n" +
          "pause until what is in flight has ended, and then a disk of another size; unmount the old one there before.",
      )
      .argument("<id>", ID_HELP, vbdId)
      .argument("[target]", "an image or a device, as in a disk specification's target="),
  ).option("--eject", "leave the drive empty", false);
  return examples(
    command,
    "xbdback change 1/hdc /var/lib/xen/drivers.iso",
    "xbdback change 1/hdc --eject",
  ).action(change);
}

async function change(id: VbdId, target: string | undefined, options: ChangeOptions): Promise<void> {
  if (options.eject === (target !== undefined))
    throw new CliError("name either a target or --eject", Exit.usage);
  const name = vbdName(id);
  const request = { command: "change", vbd: name, target: target ?? "" };
  const { device, size } = await ask<Changed>(options, request);
  if (options.json) printJson({ name, ...id, device, size });
  else if (target === undefined) process.stdout.write(`${name}: the drive is empty\n`);
  else
    process.stdout.write(`${name}: ${printable(device ?? target)}, ${formatSize(size)}, is in the drive\n`);
}
