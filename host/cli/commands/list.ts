/** `xbdback list`. */
import { Command } from "commander";
import { stateName } from "../../platform/xenbus-state.js";
import { formatSize } from "../../storage/size.js";
import { shownDevice } from "../../toolstack/vbd-name.js";
import type { VbdStatus } from "../../vbd/status.js";
import { ask } from "../daemon.js";
import { type CommonOptions, examples, placeOptions } from "../options.js";
import { columns, printJson, printTable } from "../output.js";

export function listCommand(): Command {
  const command = placeOptions(
    new Command("list")
      .summary("list the vbds, a line each")
      .description("Lists what the daemon serves. Without a terminal there is no line of headings."),
  );
  return examples(command, "xbdback list", "xbdback list --json | jq -r '.vbds[].name'").action(list);
}

async function list(options: CommonOptions): Promise<void> {
  const { vbds } = await ask<{ vbds: VbdStatus[] }>(options, { command: "list" });
  if (options.json) return printJson({ vbds });
  const rows = vbds.map((vbd) => [
    vbd.name,
    shownDevice(vbd.devid),
    stateName(vbd.state),
    stateName(vbd.frontendState),
    vbd.device === null ? "-" : formatSize(vbd.size),
    String(vbd.inflight),
    vbd.device ?? `waits for ${vbd.waitsFor}`,
  ]);
  printTable(columns(["VBD", "VDEV", "BACKEND", "FRONTEND", ">SIZE", ">INFLIGHT", "DEVICE"], rows));
}
