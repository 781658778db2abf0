/** What xbdback makes of a disk specification, or why it does nothing of the kind. */
import { quote } from "../vbd/diagnostics.js";
import type { DiskSpecification } from "./disk-specification.js";
import { OWN_SCRIPT } from "./own-script.js";

const KIND_OF_TYPE = { phy: "vbd", tap: "vbd3", qdisk: "qdisk" } as const;

/** Throws an Error that names the part of a specification that xbdback cannot serve, and the remedy. */
export function requireServable(disk: DiskSpecification): void {
  const { cdrom, format, target, backendType, script, specification } = disk;
  if (disk.colo)
    throw new Error("colo is replication by QEMU: attach the disk with `xl`, as backendtype=qdisk");
  if (script !== null && !OWN_SCRIPT.test(script)) {
    throw new Error(
      `script ${quote(script)} is not run here: leave it out, or attach the disk with \`xl block-attach\``,
    );
  }
  if (format === "empty" && !cdrom)
    throw new Error("only a CD-ROM drive can be empty: name an image as the target, or say devtype=cdrom");
  if (format !== "raw" && format !== "empty" && !target.startsWith("/")) {
    throw new Error(`format ${format} of ${target}: leave the format to the server, and name it raw`);
  }
  if (specification !== "xen") throw new Error("specification virtio is not xbdback's: leave it out");
  if (backendType === "standalone") throw new Error("backendtype standalone is for virtio: leave it out");
}

/** The directory below `backend/` where the toolstack would put it: as its backendtype says, or else `kind`. */
export function kindFor({ backendType }: DiskSpecification, kind: string): string {
  return backendType === null || backendType === "standalone" ? kind : KIND_OF_TYPE[backendType];
}

/** The mode in xenstore. */
export function modeOf({ readOnly }: DiskSpecification): string {
  return readOnly ? "r" : "w";
}
