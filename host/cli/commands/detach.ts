/** `xbdback detach`. */
import { Command } from "commander";
import { backendOf, removeVbd } from "../../toolstack/vbd.js";
import { type VbdId, vbdName } from "../../vbd/name.js";
import { platformOf, withXenstore } from "../daemon.js";
import { CliError, noVbd } from "../errors.js";
import { type CommonOptions, examples, ID_HELP, integer, placeOptions, vbdId } from "../options.js";
import { printJson } from "../output.js";

interface DetachOptions extends CommonOptions {
  readonly timeout: number;
}

/** What is told of each way in which a vbd may go. */
const TOLD = {
  closed: "detached",
  forced: "detached by force: the guest did not close it in time and has lost it",
  unanswered: "removed from xenstore, but no daemon has let go of it: is `xbdback serve` running?",
} as const;

export function detachCommand(): Command {
  const command = placeOptions(
    new Command("detach")
      .summary("take a disk away from a guest")
      .description(
        "Asks the guest to close the disk and waits until what is in flight has ended. A guest that does not close it in\n" +
          "time, as Linux does not while it is mounted, loses it, as with `xl block-detach`.",
      )
      .argument("<id>", ID_HELP, vbdId),
  ).option("--timeout <seconds>", "how long to wait for the guest", integer(0, 3600), 10);
  return examples(command, "xbdback detach 1/xvdb", "xbdback detach xbdback1i51728 --timeout 60").action(
    detach,
  );
}

async function detach(id: VbdId, options: DetachOptions): Promise<void> {
  const { kind, timeout } = options;
  const platform = await platformOf(options.directory);
  const name = vbdName(id);
  const removal = await withXenstore(platform, async (xenstore) => {
    const place = { ...id, backendDomid: platform.domid, kind };
    if ((await xenstore.read(`${backendOf(place)}/state`)) === null) {
      throw noVbd(name);
    }
    return removeVbd(xenstore, place, Math.max(timeout * 1000, 1));
  });
  if (removal === "unanswered") throw new CliError(`${name}: ${TOLD[removal]}`);
  if (options.json) printJson({ name, ...id, removal });
  else process.stdout.write(`${name}: ${TOLD[removal]}\n`);
}
