/** `xbdback resize`. */
import { Command } from "commander";
import { formatSize } from "../../storage/size.js";
import { type VbdId, vbdName } from "../../vbd/name.js";
import { ask } from "../daemon.js";
import { type CommonOptions, examples, ID_HELP, placeOptions, vbdId } from "../options.js";
import { printJson } from "../output.js";

export function resizeCommand(): Command {
  const command = placeOptions(
    new Command("resize")
      .summary("tell a guest the new size of its image or device")
      .description(
        "Enlarge the image or device first. The daemon notices by itself within a second; this command tells the guest at\n" +
          "once, and in any case, and prints the size.",
      )
      .argument("<id>", ID_HELP, vbdId),
  );
  return examples(command, "truncate -s 20G /var/lib/xen/disk.img && xbdback resize 1/xvda").action(resize);
}

async function resize(id: VbdId, options: CommonOptions): Promise<void> {
  const name = vbdName(id);
  const { size } = await ask<{ size: number }>(options, { command: "resize", vbd: name });
  if (options.json) printJson({ name, ...id, size });
  else process.stdout.write(`${name}: the guest was told of ${formatSize(size)} (${BigInt(size)} bytes)\n`);
}
