/** `xbdback list`. */
import { Command } from "commander";
import { stateName, type XenbusState } from "../../platform/xenbus-state.js";
import { formatSize } from "../../storage/size.js";
import type { VbdStatus } from "../../vbd/status.js";
import { ask } from "../daemon.js";
import { type CommonOptions, examples, placeOptions } from "../options.js";
import { columns, printJson, printTable, word } from "../output.js";
import { shownDomain } from "../rates.js";

export function listCommand(): Command {
  const command = placeOptions(
    new Command("list")
      .summary("list the vbds, a line each")
      .description(
        "Lists what the daemon serves. Without a terminal there is no line of headings, and no cell has a blank in it, so that\n" +
          "awk can read it. STATUS is active, idle, waiting or paused; storage, where the disk does not answer; replaced or deleted,\n" +
          "where another file, or none, is at the path of the open disk. show says more.",
      ),
  );
  return examples(command, "xbdback list", "xbdback list --json | jq -r '.vbds[].name'").action(list);
}

async function list(options: CommonOptions): Promise<void> {
  const { vbds } = await ask<{ vbds: VbdStatus[] }>(options, { command: "list" });
  if (options.json) return printJson({ vbds });
  const rows = vbds.map((vbd) => [
    vbd.name,
    shownDomain(vbd),
    vbd.vdev,
    stateWord(vbd.state),
    stateWord(vbd.frontendState),
    condition(vbd),
    vbd.device === null ? "-" : formatSize(vbd.size).replace(" ", ""),
    String(vbd.inflight),
    vbd.device === null ? "-" : word(vbd.device),
  ]);
  const headings = ["VBD", "DOMAIN", "VDEV", "BACKEND", "FRONTEND", "STATUS", ">SIZE", ">INFLIGHT", "DEVICE"];
  printTable(columns(headings, rows));
}

function stateWord(state: XenbusState): string {
  return stateName(state)
    .replace(/ \(\d+\)$/, "")
    .replaceAll(" ", "-");
}

/** In one word; `xbdback show` has the sentence. */
function condition({ storage, imageState, paused, waitsFor, inflight }: VbdStatus): string {
  if (storage.state === "waiting") return "storage";
  if (imageState === "replaced" || imageState === "deleted") return imageState;
  if (paused) return "paused";
  if (waitsFor !== null) return "waiting";
  return inflight > 0 ? "active" : "idle";
}
