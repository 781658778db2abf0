/** `xbdback decode`. */
import { Command, InvalidArgumentError, Option } from "commander";
import { examples } from "../options.js";
import { pairs, printJson } from "../output.js";
import { type DecodedRequest, decodeRequest } from "../request-bytes.js";

interface DecodeOptions {
  readonly abi: "x86_64" | "x86_32";
  readonly json: boolean;
}

export function decodeCommand(): Command {
  const command = new Command("decode")
    .summary("say what the bytes of a request mean")
    .description("Decodes one slot of a ring (blkif_request), as a debugger or a hex dump shows it.")
    .argument("<hex>", "its bytes in hexadecimal; blanks and colons between them do not matter", hexBytes)
    .addOption(
      new Option("--abi <name>", "layout of the request").choices(["x86_64", "x86_32"]).default("x86_64"),
    )
    .option("--json", "print JSON", false);
  return examples(
    command,
    "xbdback decode '01 01 00ca 00000000 0700000000000000 0008000000000000 2a000000 00 07'",
    "xbdback decode 0600080000ca --abi x86_32 --json",
  ).action(decode);
}

function hexBytes(text: string): Uint8Array {
  const digits = text.replace(/[\s:]/g, "");
  if (!/^(?:[0-9a-f]{2})+$/i.test(digits) || digits.length > 224) {
    throw new InvalidArgumentError("It is up to 112 bytes of two hexadecimal digits each.");
  }
  return Uint8Array.from(Buffer.from(digits, "hex"));
}

function decode(bytes: Uint8Array, { abi, json }: DecodeOptions): void {
  const request = decodeRequest(bytes, abi);
  if (json) printJson(request);
  else process.stdout.write(`${pairs(rowsOf(request))}\n`);
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
