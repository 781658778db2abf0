/** `xbdback trace`. */
import { Command } from "commander";
import type { TraceItem, TraceLine } from "../../daemon/streams.js";
import { type VbdId, vbdName } from "../../vbd/name.js";
import { askOnAndOn } from "../daemon.js";
import { type CommonOptions, examples, ID_HELP, integer, placeOptions, vbdId } from "../options.js";
import { printJson } from "../output.js";
import { shortTime } from "../rates.js";
import { type DecodedRequest, decodeRequest } from "../request-bytes.js";

interface TraceOptions extends CommonOptions {
  readonly ring?: number;
  readonly count?: number;
}

const STATUSES: Readonly<Record<number, string>> = { 0: "okay", [-1]: "error", [-2]: "not supported" };

export function traceCommand(): Command {
  const command = placeOptions(
    new Command("trace")
      .summary("show a vbd's requests as they are answered")
      .description(
        "One line for each request: when it was answered, its ring, what it is, its place and length in sectors of 512\n" +
          "bytes, its segments, how long it took since it was taken from the ring, and the response. When there are more than\n" +
          "can be shown, the others are counted. A vbd that is not traced is not slowed down.",
      )
      .argument("<id>", ID_HELP, vbdId),
  )
    .option("--ring <n>", "only this one of its rings, from 0", integer(0, 15))
    .option("-n, --count <n>", "end after this many requests", integer(1, 1e9));
  return examples(
    command,
    "xbdback trace 1/xvda",
    "xbdback trace 1/xvda -n 1000 --json | jq -s 'group_by(.operation) | map({(.[0].operation): length}) | add'",
  ).action(trace);
}

/** A request as it is printed for programs. */
type Told = Omit<TraceItem, "request" | "time" | "latency" | "status"> &
  DecodedRequest & {
    readonly time: string;
    /** Seconds. */
    readonly latency: number | null;
    readonly status: number;
    readonly result: string;
  };

async function trace(id: VbdId, options: TraceOptions): Promise<void> {
  const { ring, count = Number.POSITIVE_INFINITY, json } = options;
  const request = { command: "trace", vbd: vbdName(id), ...(ring === undefined ? {} : { ring }) };
  let shown = 0;
  if (!json && process.stdout.isTTY) process.stdout.write(`${HEADINGS}\n`);
  for await (const { events = [], dropped = 0, ended } of askOnAndOn<TraceLine>(options, request)) {
    for (const event of events.slice(0, count - shown)) {
      const told = tell(event);
      if (json) printJson(told);
      else process.stdout.write(`${row(told)}\n`);
      shown++;
    }
    if (shown >= count) return;
    if (dropped > 0 && json) printJson({ dropped });
    else if (dropped > 0) process.stderr.write(`xbdback: ${dropped} more requests that are not shown\n`);
    if (ended === undefined) continue;
    process.stderr.write(`xbdback: the trace ends: ${ended}\n`);
    return;
  }
}

function tell({ request, time, latency, status, ...event }: TraceItem): Told {
  return {
    time: new Date(time)
      .toISOString()
      .replace("Z", `${String(Math.floor(time * 1000) % 1000).padStart(3, "0")}Z`),
    ...event,
    ...decodeRequest(Buffer.from(request, "hex"), event.abi),
    latency: latency === null ? null : latency / 1000,
    status,
    result: STATUSES[status] ?? `status ${status}`,
  };
}

const HEADINGS = row({
  time: "TIME".padStart(15),
  ring: "RING",
  operation: "OPERATION",
  sector: "SECTOR",
  sectors: "SECTORS",
  nrSegments: "SEGMENTS",
  latency: "LATENCY",
  result: "RESULT",
});

type Cells = Record<"time" | "operation" | "sector" | "result", string> &
  Record<"ring" | "sectors" | "nrSegments" | "latency", string | number | null>;

/** In UTC, as everywhere. */
function row({ time, ring, operation, sector, sectors, nrSegments, latency, result }: Cells): string {
  const took = typeof latency === "string" ? latency : shortTime(latency);
  return [
    time.slice(-16).replace("Z", "").padEnd(15),
    String(ring).padStart(4),
    operation.padEnd(15),
    sector.padStart(12),
    String(sectors).padStart(7),
    String(nrSegments).padStart(8),
    took.padStart(7),
    result,
  ].join(" ");
}
