/** Sizes as people type and read them: binary units, 1K = 1024. */

const UNITS = ["", "K", "M", "G", "T", "P", "E"];

/** "512", "64K", "1G", "1.5G", "1GiB" in bytes; null when it is something else or not a whole number of bytes. */
export function parseSize(text: string): number | null {
  const match = /^([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?$/i.exec(text.trim());
  if (!match) return null;
  const bytes = Number(match[1]) * 1024 ** UNITS.indexOf(match[2].toUpperCase());
  return Number.isSafeInteger(bytes) ? bytes : null;
}

/** "64 MiB". Rounded down: what is not quite 1 TiB is not shown as one. */
export function formatSize(bytes: number): string {
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = Number.isInteger(value) ? 0 : 1;
  const shown = Math.floor(value * 10) / 10;
  return `${shown.toFixed(digits)} ${unit === 0 ? "bytes" : `${UNITS[unit]}iB`}`;
}

/** Why a server's disk of so many bytes cannot be served. */
export function tooLarge(bytes: bigint): string {
  return `its disk has ${bytes} bytes, and less than 8 PiB (${2n ** 53n}) are supported`;
}
