/** `xbdback pause` and `xbdback unpause`. */
import { Command } from "commander";
import { type VbdId, vbdName } from "../../vbd/name.js";
import { ask } from "../daemon.js";
import { type CommonOptions, examples, ID_HELP, placeOptions, vbdId } from "../options.js";
import { printJson } from "../output.js";

export function pauseCommand(): Command {
  const command = placeOptions(
    new Command("pause")
      .summary("pause a vbd: take no more requests")
      .description(
        "What is in flight ends, and the guest waits: it sees a slow disk, no errors. The vbd stays paused when its guest\n" +
          "connects again or the daemon is restarted, until `xbdback unpause` or the disk is detached.",
      )
      .argument("<id>", ID_HELP, vbdId),
  );
  return examples(
    command,
    "xbdback pause 1/xvda && cp --reflink disk.img copy.img; xbdback unpause 1/xvda",
  ).action((id: VbdId, options: CommonOptions) => setPaused(id, true, options));
}

export function unpauseCommand(): Command {
  const command = placeOptions(
    new Command("unpause").summary("resume a paused vbd").argument("<id>", ID_HELP, vbdId),
  );
  return examples(command, "xbdback unpause 1/xvda").action((id: VbdId, options: CommonOptions) =>
    setPaused(id, false, options),
  );
}

async function setPaused(id: VbdId, paused: boolean, options: CommonOptions): Promise<void> {
  const name = vbdName(id);
  const { inflight } = await ask<{ inflight: number }>(options, { command: "pause", vbd: name, paused });
  if (options.json) return printJson({ name, ...id, paused, inflight });
  const flight = inflight === 0 ? "nothing is in flight" : `${inflight} requests are still in flight`;
  process.stdout.write(`${name}: ${paused ? `paused; ${flight}` : "resumed"}\n`);
}
