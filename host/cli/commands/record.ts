/** `xbdback record`. */
import { closeSync, openSync, writeSync } from "node:fs";
import { Command } from "commander";
import type { RecordLine } from "../../daemon/streams.js";
import { formatSize } from "../../storage/size.js";
import { type VbdId, vbdName } from "../../vbd/name.js";
import { askOnAndOn } from "../daemon.js";
import { CliError, fileError } from "../errors.js";
import { untilStopped } from "../lifetime.js";
import { type CommonOptions, examples, ID_HELP, integer, placeOptions, vbdId } from "../options.js";
import { printJson } from "../output.js";

interface RecordOptions extends CommonOptions {
  readonly ring: number;
  readonly seconds?: number;
}

export function recordCommand(): Command {
  const command = placeOptions(
    new Command("record")
      .summary("record what a guest does to a ring, for replay")
      .description(
        "Writes the session of one ring of a connected vbd to FILE (docs/session.md), which replay, the fuzzers and the WASI\n" +
          "build play. The recording begins when what is in flight has ended; the guest waits for that, as it does for a slow\n" +
          "disk, usually a few milliseconds. It ends with Ctrl-C, or when the guest closes the disk. It has the guest's requests\n" +
          "and not its data.",
      )
      .argument("<id>", ID_HELP, vbdId)
      .argument("<file>", "output file; overwritten if it exists"),
  )
    .option("--ring <n>", "which of its rings, from 0", integer(0, 15), 0)
    .option("--seconds <n>", "end after this many seconds", integer(1, 86400));
  return examples(
    command,
    "xbdback record 1/xvda guest.session --seconds 10",
    "xbdback replay guest.session | grep ^response",
    "xbdback decode --session guest.session",
  ).action(record);
}

async function record(id: VbdId, file: string, options: RecordOptions): Promise<void> {
  const name = vbdName(id);
  const lines = askOnAndOn<RecordLine>(options, { command: "record", vbd: name, ring: options.ring });
  const stopped = untilOver(options.seconds).then(() => "stopped" as const);
  let written: Written;
  try {
    written = await write(lines, stopped, file);
  } catch (error) {
    // Else the daemon's answers, which nobody takes, would keep the process.
    await lines.return(undefined);
    throw fileError(file, error);
  }
  const { bytes, ended } = written;
  if (bytes === 0) throw new CliError(`${name}: ${ended ?? "stopped before"} the recording began`);
  if (options.json) printJson({ name, ...id, ring: options.ring, file, bytes, ended });
  else {
    const why = ended === null ? "" : `; it ended because ${ended}`;
    process.stdout.write(`${name}: ${formatSize(bytes)} of ring ${options.ring} recorded in ${file}${why}\n`);
  }
  // The daemon is still talking, and a generator that waits does not listen.
  process.exit();
}

interface Written {
  readonly bytes: number;
  /** Why the recording ended; null when it was stopped. */
  readonly ended: string | null;
}

/** Writes what the daemon sends to the file, until the recording ends or `stopped`. */
async function write(
  lines: AsyncGenerator<RecordLine>,
  stopped: Promise<"stopped">,
  file: string,
): Promise<Written> {
  let fd: number | null = null;
  let bytes = 0;
  let ended: string | null = null;
  try {
    while (ended === null) {
      const next = await Promise.race([lines.next(), stopped]);
      if (next === "stopped" || next.done) break;
      const { data, ended: why } = next.value;
      ended = why ?? null;
      if (data === undefined) continue;
      // Not before there is something to write: a vbd that is not there must not cost an older file.
      fd ??= openSync(file, "w", 0o600);
      const chunk = Buffer.from(data, "base64");
      for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at);
      bytes += chunk.length;
    }
  } finally {
    if (fd !== null) closeSync(fd);
  }
  return { bytes, ended };
}

async function untilOver(seconds: number | undefined): Promise<void> {
  const over = new Promise<void>((resolve) => {
    if (seconds !== undefined) setTimeout(resolve, seconds * 1000).unref();
  });
  await Promise.race([over, untilStopped(false)]);
}
