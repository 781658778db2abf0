/** `xbdback status`: what a running daemon is, not what its disks are. */
import { Command } from "commander";
import type { Predecessor } from "../../daemon/replace.js";
import type { ReactorStatus } from "../../reactor/ring-host.js";
import { ask } from "../daemon.js";
import { type CommonOptions, examples, placeOptions } from "../options.js";
import { pairs, printJson } from "../output.js";

/** The answer to the control protocol's `version`. */
export interface DaemonStatus {
  readonly version: string;
  readonly pid: number;
  /** ISO 8601. */
  readonly started: string;
  readonly node: string;
  readonly machine: string;
  readonly kind: string;
  readonly vbds: number;
  readonly reactors: readonly ReactorStatus[];
  /** Each key of the configuration that is set. */
  readonly options: Record<string, unknown>;
  /** What does not work although the daemon serves. */
  readonly problems: readonly string[];
  /** The previous daemon, while storage that hangs keeps it. */
  readonly predecessor?: Predecessor | null;
}

export function statusCommand(): Command {
  const command = placeOptions(
    new Command("status")
      .summary("tell what the running daemon is: version, process, options")
      .description("Also what is wrong: a refused configuration, an address that another program uses."),
  );
  return examples(command, "xbdback status", "xbdback status --json | jq .version").action(status);
}

async function status(options: CommonOptions): Promise<void> {
  const answer = await ask<DaemonStatus & { ok: boolean }>(options, { command: "version" });
  const { ok: _, ...told } = answer;
  if (options.json) return printJson(told);
  const { version, pid, started, node, machine, kind, vbds, reactors, problems = [] } = told;
  const threads = reactors.map(
    ({ engine, rings }) => `${engine} with ${rings} ${rings === 1 ? "ring" : "rings"}`,
  );
  const set = Object.entries(told.options).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
  const rows: [string, string][] = [
    ["version", version],
    ["process", `${pid}, since ${started}, Node ${node}`],
    ["machine", machine],
    ["kind", kind],
    ["vbds", String(vbds)],
    ["reactors", threads.join(", ")],
    ...set.map((line, i): [string, string] => [i === 0 ? "options" : "", line]),
    ...problems.map((line): [string, string] => ["problem", line]),
  ];
  process.stdout.write(`${pairs(rows)}\n`);
}
