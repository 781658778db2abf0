/** `xbdback replaced`. */
import { resolve } from "node:path";
import { Command } from "commander";
import type { Replacement } from "../../daemon/replaced-images.js";
import { printable } from "../../vbd/diagnostics.js";
import { shownDevice } from "../../vbd/vbd-name.js";
import { ask } from "../daemon.js";
import { type CommonOptions, examples, placeOptions } from "../options.js";
import { printJson } from "../output.js";

interface ReplacedOptions extends CommonOptions {
  readonly forget?: string;
}

export function replacedCommand(): Command {
  const command = placeOptions(
    new Command("replaced")
      .summary("list the images that snapshots have replaced")
      .description(
        "Such an image is only read from its snapshot on. A guest whose configuration still names it gets what has replaced it;\n" +
          "for others it cannot be attached for writing.",
      ),
  ).option("--forget <image>", "serve this image again as if no snapshot had been made");
  return examples(command, "xbdback replaced", "xbdback replaced --forget /var/lib/xen/web.img").action(
    replaced,
  );
}

async function replaced(options: ReplacedOptions): Promise<void> {
  if (options.forget !== undefined) {
    const image = resolve(options.forget);
    await ask(options, { command: "forget", image });
    if (options.json) printJson({ forgotten: image });
    else process.stdout.write(`${printable(image)}: served again as it is named\n`);
    return;
  }
  const { images } = await ask<{ images: Replacement[] }>(options, { command: "replaced" });
  if (options.json) return printJson({ replaced: images });
  for (const { images: old, current, disk, since } of images) {
    const guest = disk.name ?? `domain ${disk.domid}`;
    const paths = old.map(({ path }) => path).join(", ");
    const line = `${paths}: replaced by ${current} for ${guest}'s ${shownDevice(disk.devid)} at ${since}`;
    process.stdout.write(`${printable(line)}\n`);
  }
}
