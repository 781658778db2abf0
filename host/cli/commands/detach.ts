/** `xbdback detach`. */
import { Command } from "commander";
import type { Xenstore } from "../../platform/ports.js";
import { stateName, XenbusState } from "../../platform/xenbus-state.js";
import { readRecord } from "../../toolstack/libxl-record.js";
import { backendOf, removeVbd, type VbdPlace } from "../../toolstack/vbd.js";
import { type VbdId, vbdName } from "../../vbd/name.js";
import type { AgedRing } from "../../vbd/request-ages.js";
import type { VbdStatus } from "../../vbd/status.js";
import { ask, platformOf, withXenstore } from "../daemon.js";
import { CliError, Exit, noVbd } from "../errors.js";
import { type CommonOptions, examples, ID_HELP, integer, placeOptions, vbdId } from "../options.js";
import { printJson } from "../output.js";

interface DetachOptions extends CommonOptions {
  readonly timeout: number;
  readonly force: boolean;
}

/** What is told of each way in which a vbd may go. */
const TOLD = {
  closed: "detached",
  forced: "detached by force: the guest did not close it in time and has lost it",
} as const;

export function detachCommand(): Command {
  const command = placeOptions(
    new Command("detach")
      .summary("take a disk away from a guest")
      .description(
        "Asks the guest to close the disk and waits until what is in flight has ended. A guest that does not close it in\n" +
          "time, as Linux does not while it is mounted, keeps it, and the command fails, as `xl block-detach` does since\n" +
          "Xen 4.15; with --force the guest loses it. A disk that xl attached is detached by `xl block-detach`.",
      )
      .argument("<id>", ID_HELP, vbdId),
  )
    .option("--timeout <seconds>", "how long to wait for the guest", integer(0, 3600), 10)
    .option("--force", "after the time-out, detach it from a guest that still uses it", false);
  return examples(
    command,
    "xbdback detach 1/xvdb",
    "xbdback detach xbdback1i51728 --timeout 60",
    "xbdback detach 1/xvdb --force",
  ).action(detach);
}

async function detach(id: VbdId, options: DetachOptions): Promise<void> {
  const { kind, timeout, force } = options;
  const platform = await platformOf(options.directory);
  const name = vbdName(id);
  const removal = await withXenstore(platform, async (xenstore) => {
    const place = { ...id, backendDomid: platform.domid, kind };
    await checkOurs(xenstore, place);
    return removeVbd(xenstore, place, Math.max(timeout * 1000, 1), force);
  });
  if (removal === "kept") throw new CliError(`${name}: ${await reasonToKeep(id, options)}`, Exit.busy);
  if (removal === "unanswered") throw new CliError(`${name}: ${await whyUnanswered(id, options)}`, Exit.busy);
  if (options.json) printJson({ name, ...id, removal });
  else process.stdout.write(`${name}: ${TOLD[removal]}\n`);
}

/** Rejects with a {@link CliError} for a vbd that is not there, or that xl has made: it has more to undo than we know. */
async function checkOurs(xenstore: Xenstore, place: VbdPlace): Promise<void> {
  const backend = backendOf(place);
  if ((await xenstore.read(`${backend}/state`)) === null) throw noVbd(vbdName(place));
  const record = await readRecord(xenstore, place);
  if (!record || record.ours) return;
  const { domid, devid } = place;
  throw new CliError(
    `${vbdName(place)}: xl attached this disk: detach it with \`xl block-detach ${domid} ${devid}\``,
  );
}

/** What the daemon knows of a vbd; a line that says why that is not known. */
async function shown(
  id: VbdId,
  options: DetachOptions,
): Promise<{ vbd: VbdStatus; rings: AgedRing[] } | string> {
  try {
    return await ask(options, { command: "show", vbd: vbdName(id) });
  } catch (error) {
    return (error as Error).message;
  }
}

/** The request that the disk has not answered for longest; null when there is none. */
function unanswered(rings: readonly AgedRing[]): string | null {
  const [oldest] = rings
    .filter(({ oldestSeconds }) => oldestSeconds !== null && oldestSeconds >= 1)
    .sort((a, b) => (b.oldestSeconds ?? 0) - (a.oldestSeconds ?? 0));
  if (!oldest) return null;
  const seconds = (oldest.oldestSeconds as number).toFixed(0);
  return `the disk has not answered a ${oldest.requests[0].operation} for ${seconds} s`;
}

async function reasonToKeep(id: VbdId, options: DetachOptions): Promise<string> {
  const now = await shown(id, options);
  if (typeof now === "string") return `not detached: ${now}`;
  const request = unanswered(now.rings);
  if (request !== null) return `not detached: ${request}; look at the storage below it, or use --force`;
  const { frontendState } = now.vbd;
  const state = `frontend state ${stateName(frontendState)}`;
  const what =
    frontendState < XenbusState.Closed ? "the guest still uses the disk" : "the disk is still being closed";
  return `not detached: ${what} after ${options.timeout} s (${state}); unmount it in the guest and detach it again, or use --force`;
}

async function whyUnanswered(id: VbdId, options: DetachOptions): Promise<string> {
  const gone = "removed from xenstore";
  const now = await shown(id, options);
  if (typeof now === "string") return `${gone}, and whether the disk is released is not known: ${now}`;
  const why = unanswered(now.rings);
  return `${gone}; the daemon has not released the disk yet${why === null ? "" : `: ${why}`}`;
}
