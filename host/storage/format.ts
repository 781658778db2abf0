/** What a file is by its first bytes: for a warning only, since a guest may write them to its raw disk, too. */
import { read } from "node:fs";
import { promisify } from "node:util";

const readFile = promisify(read);

const MAGICS: readonly (readonly [string, string])[] = [
  ["QFI\xfb", "qcow2"],
  ["KDMV", "vmdk"],
  ["vhdxfile", "vhdx"],
  ["QED\0", "qed"],
  ["LUKS\xba\xbe", "luks"],
];

/** The format of the image that a descriptor has open; null for a raw one. */
export async function formatOf(fd: number): Promise<string | null> {
  const { buffer, bytesRead } = await readFile(fd, Buffer.alloc(8), 0, 8, 0);
  const first = buffer.toString("latin1", 0, bytesRead);
  return MAGICS.find(([magic]) => first.startsWith(magic))?.[1] ?? null;
}
