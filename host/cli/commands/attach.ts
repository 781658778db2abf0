/** `xbdback attach`. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { Command } from "commander";
import { kindFor, modeOf, requireServable } from "../../toolstack/disk-image.js";
import {
  type DiskSpecification,
  DiskSyntaxError,
  parseDisk,
  sourceOf,
} from "../../toolstack/disk-specification.js";
import { findDomain } from "../../toolstack/domains.js";
import { addVbd } from "../../toolstack/vbd.js";
import { quote } from "../../vbd/diagnostics.js";
import { vbdName } from "../../vbd/name.js";
import { ask, platformOf, withXenstore } from "../daemon.js";
import { CliError, Exit } from "../errors.js";
import { type CommonOptions, examples, placeOptions } from "../options.js";
import { printJson } from "../output.js";

export function attachCommand(): Command {
  const command = placeOptions(
    new Command("attach")
      .summary("give a running guest a disk")
      .description(
        "Writes the disk's two xenstore directories, as the toolstack would, and waits until the daemon has opened the\n" +
          "image or device. The guest connects when its driver sees it.",
      )
      .argument("<domain>", "name or number of the guest")
      .argument("<diskspec>", "as in xl-disk-configuration(5): target,format,vdev,access and key=value"),
  );
  return examples(
    command,
    "xbdback attach 1 /var/lib/xen/disk.img,raw,xvdb,rw",
    "xbdback attach web 'vdev=xvdc, access=ro, target=/var/lib/xen/disk.img'",
    "xbdback attach 1 /var/lib/xen/disk.qcow2,qcow2,xvdd,rw",
    "xbdback attach 1 'vdev=xvde, target=nbd+unix:///?socket=/run/disk.sock'",
    "xbdback attach 1 /dev/vg/data,,xvdb --directory /dev/shm/machine",
  ).action(attach);
}

async function attach(domain: string, text: string, options: CommonOptions): Promise<void> {
  const disk = readDisk(text);
  const kind = kindFor(disk, options.kind);
  // Without a daemon, nobody would take it up: better said now than after a minute.
  await ask({ ...options, kind }, { command: "version" });
  const platform = await platformOf(options.directory);
  const id = await withXenstore(platform, async (xenstore) => {
    const find = async (name: string): Promise<number> => {
      const domid = await findDomain(xenstore, name);
      if (domid === null)
        throw new CliError(
          `domain does not exist: ${quote(name)}: \`xl list\` shows those that run`,
          Exit.notFound,
        );
      return domid;
    };
    const domid = await find(domain);
    const backendDomid = platform.domid;
    if (disk.backend !== null && (await find(disk.backend)) !== backendDomid) {
      throw new CliError(
        `backend=${disk.backend}: a disk of another domain is attached with \`xl block-attach\`, which can take it away again`,
      );
    }
    const { devid, vdev: dev, cdrom, directIoSafe, trusted } = disk;
    const path = sourceOf(disk);
    const discard = disk.discard ?? undefined;
    const spec = {
      backendDomid,
      domid,
      devid,
      path,
      dev,
      mode: modeOf(disk),
      kind,
      cdrom,
      directIoSafe,
      trusted,
    };
    await addVbd(xenstore, { ...spec, ...(discard === undefined ? {} : { discard }), ask: true });
    return { domid, devid };
  });
  const name = vbdName(id);
  if (options.json) printJson({ name, ...id, vdev: disk.vdev, target: disk.target, readOnly: disk.readOnly });
  else
    process.stdout.write(
      `${name}: ${disk.target || "an empty drive"} is ${disk.vdev} of domain ${id.domid}${disk.readOnly ? ", read-only" : ""}\n`,
    );
}

/** A specification that can be served. Throws a {@link CliError}. */
export function readDisk(text: string): DiskSpecification {
  try {
    const disk = parseDisk(text);
    requireServable(disk);
    hintAtRelative(text, disk);
    return disk;
  } catch (error) {
    throw new CliError(
      (error as Error).message,
      error instanceof DiskSyntaxError ? Exit.usage : Exit.failure,
    );
  }
}

/** xl looks for a target that does not begin with "/" below /dev, which is not what a shell's user expects. */
function hintAtRelative(text: string, { target }: DiskSpecification): void {
  if (text.includes(target) || !target.startsWith("/") || existsSync(target)) return;
  const here = resolve(target.slice("/dev/".length));
  const hint = existsSync(here) ? `write ${here}` : "write its absolute path";
  throw new Error(`${target}: no such file; a target without "/" in front is below /dev, as for xl: ${hint}`);
}
