/** `xbdback check`. */
import { Command } from "commander";
import { cacheFor } from "../../storage/direct.js";
import { openDisk } from "../../storage/disk.js";
import { formatSize } from "../../storage/size.js";
import { parseSource } from "../../storage/source.js";
import { modeOf } from "../../toolstack/disk-image.js";
import { sourceOf } from "../../toolstack/disk-specification.js";
import { parseMode } from "../../vbd/backend-keys.js";
import { printable } from "../../vbd/diagnostics.js";
import { deviceOption, examples } from "../options.js";
import { pairs, printJson } from "../output.js";
import { readDisk } from "./attach.js";

interface CheckOptions {
  readonly json: boolean;
  readonly device: readonly string[];
}

export function checkCommand(): Command {
  const command = new Command("check")
    .summary("check a disk specification without attaching it")
    .description(
      "Reads a disk specification and opens its target as the daemon would, with the same locks, and closes it.\n" +
        "Needs neither a daemon nor Xen.",
    )
    .argument("<diskspec>", "as in xl-disk-configuration(5): target,format,vdev,access and key=value")
    .addOption(deviceOption())
    .option("--json", "print JSON", false);
  return examples(command, "xbdback check /var/lib/xen/disk.img,raw,xvda,rw").action(check);
}

async function check(text: string, { json, device: modules }: CheckOptions): Promise<void> {
  const disk = readDisk(text);
  const warnings: string[] = [];
  const warn = (line: string): void => void warnings.push(printable(line));
  const cache = cacheFor("auto", disk.directIoSafe);
  const options = { ...parseMode(modeOf(disk)), cdrom: disk.cdrom, warn, create: false, cache, modules };
  const device = await openDisk(sourceOf(disk), options).catch((error: unknown) => {
    // The stack of what a module threw, for its author.
    for (const warning of warnings) process.stderr.write(`${warning.replaceAll("\\n", "\n")}\n`);
    throw error;
  });
  const { size, sectorSize, physicalSectorSize, canDiscard, readOnly, store, through } = device;
  await device.close();
  const source = parseSource(sourceOf(disk));
  const served = servedBy(source?.kind);
  const kind = store?.kind ?? (source === null ? "empty" : served);
  const discard = canDiscard && !readOnly && disk.discard !== false;
  const { target, vdev, devid } = disk;
  if (json) {
    return printJson({
      target,
      kind,
      vdev,
      devid,
      size,
      sectorSize,
      physicalSectorSize,
      readOnly,
      discard,
      warnings,
    });
  }
  const rows: [string, string][] = [
    [
      "target",
      `${printable(target) || "empty drive"} (${through ?? (kind === "block" ? "block device" : "raw image")})`,
    ],
    ["size", `${formatSize(size)} (${BigInt(size)} bytes)`],
    ["sectors", `${sectorSize} bytes, physical ${physicalSectorSize}`],
    ["vdev", `${vdev} (${devid})`],
    ["access", readOnly ? "read-only" : "read-write"],
    ["discard", discard ? "yes" : "no"],
    ...warnings.map((warning): [string, string] => ["warning", warning]),
  ];
  process.stdout.write(`${pairs(rows)}\n`);
}

/** The word for what is neither a raw image nor a block device: "nbd" stands for all that a helper serves. */
function servedBy(kind: string | undefined): string {
  return kind === "wrapped" || kind === "device" || kind === "vhost-user" ? kind : "nbd";
}
