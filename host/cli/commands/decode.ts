/** `xbdback decode`. */
import { Command, InvalidArgumentError, Option } from "commander";
import { ABI_X86_32 } from "../../../assembly/abi.js";
import { readSession, type SessionRecord } from "../../session/index.js";
import { CliError, Exit, readNamed } from "../errors.js";
import { examples } from "../options.js";
import { pairs, printJson } from "../output.js";
import { type DecodedRequest, decodeRequest } from "../request-bytes.js";

interface DecodeOptions {
  readonly session?: string;
  readonly abi: "x86_64" | "x86_32";
  readonly json: boolean;
}

export function decodeCommand(): Command {
  const command = new Command("decode")
    .summary("decode the bytes of a request, or a session file")
    .description(
      "Decodes one slot of a ring (blkif_request), as a debugger or a hex dump shows it; with --session, all records of a\n" +
        "file that record or a fuzzer wrote, a line each.",
    )
    .argument("[hex]", "its bytes in hexadecimal; blanks and colons between them do not matter", hexBytes)
    .option("--session <file>", "a session file instead of a request")
    .addOption(
      new Option("--abi <name>", "layout of the request").choices(["x86_64", "x86_32"]).default("x86_64"),
    )
    .option("--json", "print JSON", false);
  return examples(
    command,
    "xbdback decode '01 01 00ca 00000000 0700000000000000 0008000000000000 2a000000 00 07'",
    "xbdback decode 0600080000ca --abi x86_32 --json",
    "xbdback decode --session guest.session | grep ^request",
  ).action(decode);
}

function hexBytes(text: string): Uint8Array {
  const digits = text.replace(/[\s:]/g, "");
  if (!/^(?:[0-9a-f]{2})+$/i.test(digits) || digits.length > 224) {
    throw new InvalidArgumentError("It is up to 112 bytes of two hexadecimal digits each.");
  }
  return Uint8Array.from(Buffer.from(digits, "hex"));
}

function decode(bytes: Uint8Array | undefined, { abi, json, session }: DecodeOptions): void {
  if ((bytes === undefined) === (session === undefined))
    throw new CliError("decode takes the bytes of a request, or --session and a file", Exit.usage);
  if (session !== undefined) {
    decodeFile(session, json);
    return;
  }
  const request = decodeRequest(bytes as Uint8Array, abi);
  if (json) printJson(request);
  else process.stdout.write(`${pairs(rowsOf(request))}\n`);
}

/** The header, then every record; of each what it has, in words. */
function decodeFile(file: string, json: boolean): void {
  const { header, records } = readSession(file, readNamed(file));
  const layout = header.abi === ABI_X86_32 ? "x86_32" : "x86_64";
  const told = records.map((record) => tell(record, layout));
  if (json) {
    printJson({ file, header, records: told });
    return;
  }
  const line = ([kind, fields]: [string, object]): string =>
    [kind, ...Object.entries(fields).map(([name, value]) => `${name} ${value}`)].join(" ");
  const lines = told.map(({ kind, ...fields }): [string, object] => [kind, fields]);
  process.stdout.write(
    [["header", header] as [string, object], ...lines].map((one) => `${line(one)}\n`).join(""),
  );
}

function tell(record: SessionRecord, abi: DecodeOptions["abi"]): { kind: string } & Record<string, unknown> {
  if (record.kind === "page") return { ...record, bytes: Buffer.from(record.bytes).toString("hex") };
  if (record.kind !== "request") return record;
  const { operation, id, sector, nrSegments, discardSectors, segments, indirectGrefs, faults } =
    decodeRequest(record.entry, abi);
  return {
    kind: record.kind,
    operation,
    id,
    sector,
    ...(discardSectors === null ? { nrSegments } : { discardSectors }),
    ...(segments.length > 0
      ? { segments: segments.map(({ gref, first, last }) => `${gref}:${first}-${last}`).join(",") }
      : {}),
    ...(indirectGrefs.length > 0 ? { indirectGrefs: indirectGrefs.join(",") } : {}),
    ...(faults.length > 0 ? { faults: faults.join("; ") } : {}),
  };
}

function rowsOf(request: DecodedRequest): [string, string][] {
  const {
    operation,
    id,
    sector,
    handle,
    nrSegments,
    segments,
    indirectGrefs,
    discardSectors,
    secure,
    faults,
  } = request;
  const rows: [string, string][] = [
    ["operation", operation],
    ["id", id],
    ["sector", sector],
    ["handle", String(handle)],
  ];
  if (discardSectors === null) rows.push(["nr_segments", String(nrSegments)]);
  else rows.push(["nr_sectors", `${discardSectors}${secure ? ", secure" : ""}`]);
  for (const [i, { gref, first, last }] of segments.entries()) {
    rows.push([`segment ${i}`, `gref ${gref}, sectors ${first} to ${last}`]);
  }
  if (indirectGrefs.length > 0) rows.push(["indirect grefs", indirectGrefs.join(" ")]);
  for (const fault of faults) rows.push(["fault", fault]);
  return rows;
}
