/** Running qemu-img, confined to one file. */
import type { Reach } from "./reach.js";
import { runConfined } from "./run-confined.js";

/** Resolves with what it has printed. Rejects as {@link runConfined} does. */
export function runQemuImg(
  image: string,
  args: readonly string[],
  file: Reach["files"][number],
  { program = "qemu-img", timeoutMs }: { readonly program?: string; readonly timeoutMs?: number } = {},
): Promise<string> {
  const reach = { files: [file], configuration: [], directory: null, remote: false };
  const told = { name: program, package: "qemu-utils", ...(timeoutMs && { timeoutMs }) };
  return runConfined(image, told, args, reach);
}
