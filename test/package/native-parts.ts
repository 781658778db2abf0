/** koffi's native parts in a package: which there are, and for which processors. */
import { readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";

/** ELF's e_machine. */
const MACHINES: Record<number, string> = { 62: "x86-64", 183: "arm64" };

/** "linux_x64 for x86-64": each part by its folder, and what the file itself says. */
export function nativeParts(directory: string): string[] {
  const files = (readdirSync(directory, { recursive: true }) as string[]).filter((file) =>
    file.endsWith(".node"),
  );
  return files
    .map((file) => {
      const machine = readFileSync(join(directory, file)).readUInt16LE(18);
      return `${basename(dirname(file))} for ${MACHINES[machine] ?? machine}`;
    })
    .sort();
}
