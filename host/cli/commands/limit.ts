/** `xbdback limit`. */
import { Command, InvalidArgumentError } from "commander";
import { type Limits, NO_LIMITS } from "../../reactor/throttle.js";
import { formatSize, parseSize } from "../../storage/size.js";
import { type VbdId, vbdName } from "../../vbd/name.js";
import type { VbdStatus } from "../../vbd/status.js";
import { ask } from "../daemon.js";
import { CliError, Exit } from "../errors.js";
import { type CommonOptions, examples, ID_HELP, integer, placeOptions, vbdId } from "../options.js";
import { printJson } from "../output.js";

interface LimitOptions extends CommonOptions {
  readonly iops?: number;
  readonly bps?: number;
  readonly burst?: number;
  readonly none?: boolean;
  readonly default?: boolean;
}

export function limitCommand(): Command {
  const command = placeOptions(
    new Command("limit")
      .summary("limit a vbd's requests and bytes per second, or show the limits")
      .description(
        "Takes effect at once. After a rest, a vbd may take as much as --burst seconds are worth without waiting. Limits\n" +
          "last until they are changed or the disk is detached, even if the daemon ends: they are in the vbd's own\n" +
          "directory in xenstore, where a toolstack may set them, too (limit-iops, limit-bps, limit-burst). A disk without\n" +
          "limits of its own has those of `serve --guest-limit` or `--limit`, unless its target says limit:.",
      )
      .argument("<id>", ID_HELP, vbdId),
  )
    .option("--iops <n>", "requests per second; 0: no limit", integer(0, 1e9))
    .option("--bps <size>", "bytes per second, reads and writes together, like 100M; 0: no limit", rate)
    .option("--burst <seconds>", "seconds' worth that may be taken at once (default: 1)", seconds)
    .option("--none", "take all limits away, those of the configuration, too")
    .option("--default", "take the disk's own limits away: those of the configuration count");
  return examples(
    command,
    "xbdback limit 1/xvda --iops 500 --bps 50M",
    "xbdback limit 1/xvda --iops 500 --burst 10",
    "xbdback limit 1/xvda",
    "xbdback limit 1/xvda --none",
    "xbdback limit 1/xvda --default",
  ).action(limit);
}

function rate(text: string): number {
  const bytes = parseSize(text.replace(/\/s$/, ""));
  if (bytes === null) throw new InvalidArgumentError("It is a size, like 500K, 100M or 1G.");
  return bytes;
}

function seconds(text: string): number {
  const value = Number(text);
  if (!/^[0-9]+(\.[0-9]+)?$/.test(text) || value > 3600) {
    throw new InvalidArgumentError("It is a number of seconds from 0 to 3600.");
  }
  return value;
}

async function limit(id: VbdId, options: LimitOptions): Promise<void> {
  const { iops, bps, burst, none, default: configured } = options;
  const changes = {
    ...(iops === undefined ? {} : { iops }),
    ...(bps === undefined ? {} : { bps }),
    ...(burst === undefined ? {} : { burst }),
  };
  const [alone] = [none && "--none", configured && "--default"].filter(Boolean);
  if ((none && configured) || (alone && Object.keys(changes).length > 0))
    throw new CliError(`${alone} cannot be combined with other limits`, Exit.usage);
  const name = vbdName(id);
  const wanted = configured ? null : none ? NO_LIMITS : changes;
  const answer = await ask<Limited>(options, { command: "limit", vbd: name, limits: wanted });
  const { limits, limitsFrom } = answer;
  if (options.json) printJson({ name, ...id, limits, limitsFrom });
  else process.stdout.write(`${name}: ${describeLimits(answer)}\n`);
}

type Limited = Pick<VbdStatus, "limits" | "limitsFrom">;

const SOURCES = {
  limit: " (serve --limit)",
  "guest-limit": " (serve --guest-limit)",
  target: " (its target)",
};

/** "500 requests/s, 50 MiB/s, bursts of 1 s (serve --limit)". */
export function describeLimits({ limits, limitsFrom }: Limited): string {
  return `${inWords(limits)}${limitsFrom === null || limitsFrom === "disk" ? "" : SOURCES[limitsFrom]}`;
}

function inWords({ iops, bps, burst }: Limits): string {
  const parts = [iops > 0 ? `${iops} requests/s` : "", bps > 0 ? `${formatSize(bps)}/s` : ""].filter(
    (part) => part !== "",
  );
  return parts.length === 0 ? "no limits" : `${parts.join(", ")}, bursts of ${burst} s`;
}
