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
      .summary("list the images that snapshots have replaced, and overlays that were written back")
      .description(
        "Such an image is only read from its snapshot on, and such an overlay is out of date. A guest whose configuration still\n" +
          "names one gets what has replaced it; for others it cannot be attached for writing, and the overlay not at all.",
      ),
  ).option("--forget <image>", "serve this image again as if it had not been replaced");
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
  for (const line of images.flatMap(linesOf)) process.stdout.write(`${printable(line)}\n`);
}

function linesOf({ images, current, disk, since, committed = [] }: Replacement): string[] {
  const whose = `${disk.name ?? `domain ${disk.domid}`}'s ${shownDevice(disk.devid)}`;
  const paths = images.map(({ path }) => path).join(", ");
  return [
    ...(images.length > 0 ? [`${paths}: replaced by ${current} for ${whose} at ${since}`] : []),
    ...committed.map(({ path, into, at }) => `${path}: written back into ${into} for ${whose} at ${at}`),
  ];
}
