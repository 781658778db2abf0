/** What a file is by its first bytes: for a warning only, since a guest may write them to its raw disk, too. */
import type { Place } from "./calls/place.js";

const MAGICS: readonly (readonly [string, string])[] = [
  ["QFI\xfb", "qcow2"],
  ["KDMV", "vmdk"],
  ["vhdxfile", "vhdx"],
  ["QED\0", "qed"],
  ["LUKS\xba\xbe", "luks"],
];

/** The format of the image that a descriptor has open; null for a raw one. */
export async function formatOf(fd: number, place: Place): Promise<string | null> {
  const bytes = new Uint8Array(8);
  const length = await place.read(fd, bytes, 0);
  const first = Buffer.from(bytes.buffer).toString("latin1", 0, length);
  return MAGICS.find(([magic]) => first.startsWith(magic))?.[1] ?? null;
}
