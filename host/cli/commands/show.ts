/** `xbdback show`. */
import { Command } from "commander";
import { stateName } from "../../platform/xenbus-state.js";
import { formatSize } from "../../storage/size.js";
import { type VbdId, vbdName } from "../../vbd/name.js";
import type { AgedRing } from "../../vbd/request-ages.js";
import { describeImage, describeStatus, type VbdStatus } from "../../vbd/status.js";
import { ask } from "../daemon.js";
import { type CommonOptions, examples, ID_HELP, placeOptions, vbdId } from "../options.js";
import { pairs, printJson } from "../output.js";
import { refusedRequests } from "../rates.js";
import { describeLimits } from "./limit.js";

interface Shown {
  readonly vbd: VbdStatus;
  readonly rings: AgedRing[];
}

export function showCommand(): Command {
  const command = placeOptions(
    new Command("show")
      .summary("show all about one vbd, and why it is stuck")
      .description(
        "Both xenbus states, what it waits for, its image, the indices of its rings, what is in flight and for how long,\n" +
          "and the last error.",
      )
      .argument("<id>", ID_HELP, vbdId),
  );
  return examples(command, "xbdback show 1/xvda", "xbdback show xbdback1i51712 --json").action(show);
}

async function show(id: VbdId, options: CommonOptions): Promise<void> {
  const { vbd, rings } = await ask<Shown>(options, { command: "show", vbd: vbdName(id) });
  if (options.json) return printJson({ vbd, rings });
  const rows: [string, string][] = [
    [
      "vbd",
      `${vbd.name}: ${vbd.vdev} of domain ${vbd.domid}${vbd.domainName === null ? "" : ` (${vbd.domainName})`}`,
    ],
    ["status", describeStatus(vbd)],
    ["backend", `${stateName(vbd.state)}, ${vbd.online ? "online" : "to be removed"}`],
    ["frontend", stateName(vbd.frontendState)],
    ["hotplug-status", vbd.hotplugStatus ?? "none"],
    ["last error", lastError(vbd)],
    ["limits", describeLimits(vbd)],
  ];
  if (vbd.device !== null) {
    rows.push(["device", `${vbd.device}, ${formatSize(vbd.size)} (${BigInt(vbd.size)} bytes)`]);
    if (vbd.imageState !== "ok" && vbd.imageState !== null) rows.push(["image", describeImage(vbd)]);
    if (vbd.through !== null) rows.push(["through", vbd.through]);
    if (vbd.protocol !== null) rows.push(["protocol", protocol(vbd)]);
  }
  rows.push(["requests", requests(vbd)]);
  for (const [i, ring] of rings.entries()) rows.push([`ring ${i}`, ringLine(ring)]);
  process.stdout.write(`${pairs(rows)}\n`);
}

function lastError(vbd: VbdStatus): string {
  if (vbd.lastError === null) return vbd.error ?? "none";
  return `${vbd.lastError.message} (${new Date(vbd.lastError.time).toISOString()})`;
}

function protocol({ protocol: name, queues, ringPages, persistent }: VbdStatus): string {
  const pages = `${ringPages} ${ringPages === 1 ? "page" : "pages"}`;
  const rings = queues === 1 ? `a ring of ${pages}` : `${queues} rings of ${pages}`;
  return `${name}, ${rings}, ${persistent ? "persistent grants" : "grant copy"}`;
}

function requests({ counters, inflight }: VbdStatus): string {
  const { responses, segments, ios, ioErrors } = counters;
  const bad = refusedRequests(counters);
  return `${inflight} in flight, ${responses} answered, ${segments} segments, ${ios} I/Os, ${ioErrors} failed, ${bad} refused`;
}

function ringLine(ring: AgedRing): string {
  const { port, entries, reqProd, reqCons, rspProd, reqEvent, rspEvent, requests, oldestSeconds } = ring;
  const oldest =
    oldestSeconds === null
      ? ""
      : `, the oldest a ${requests[0].operation} of ${oldestSeconds.toFixed(1)} s ago`;
  return (
    `port ${port}, ${entries} slots; req_prod ${reqProd} req_cons ${reqCons} rsp_prod ${rspProd} ` +
    `req_event ${reqEvent} rsp_event ${rspEvent}; ${requests.length} in flight${oldest}`
  );
}
