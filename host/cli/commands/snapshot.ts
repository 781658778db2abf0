/** `xbdback snapshot`. */
import { resolve } from "node:path";
import { Command } from "commander";
import { printable } from "../../vbd/diagnostics.js";
import { type VbdId, vbdName } from "../../vbd/name.js";
import { ask } from "../daemon.js";
import { type CommonOptions, examples, ID_HELP, placeOptions, vbdId } from "../options.js";
import { printJson } from "../output.js";

interface Made {
  readonly target: string;
  readonly size: number;
}

export function snapshotCommand(): Command {
  const command = placeOptions(
    new Command("snapshot")
      .summary("make a guest's image a point in time")
      .description(
        "A new qcow2 image takes what the guest writes from now on; the image below it stays as it is and can be copied. A\n" +
          "guest that is connected sees a pause. xl goes on naming the old image, and gets the new one for this guest:\n" +
          "`xbdback replaced` lists both.",
      )
      .argument("<id>", ID_HELP, vbdId)
      .argument("<overlay>", "the file to be created"),
  );
  return examples(command, "xbdback snapshot 1/xvda /var/lib/xen/web-monday.qcow2").action(snapshot);
}

async function snapshot(id: VbdId, file: string, options: CommonOptions): Promise<void> {
  const name = vbdName(id);
  const overlay = resolve(file);
  const { target, size } = await ask<Made>(options, { command: "snapshot", vbd: name, overlay });
  if (options.json) printJson({ name, ...id, target, size });
  else process.stdout.write(`${name}: the disk is ${printable(target)} from now on\n`);
}
