/** Virtual-device numbers and the names that guests give them (xen-vbd-interface(7)). */

/** Bus, letters of the disk, partition. */
const NAME = /^(xvd|hd|sd)([a-z]{1,6})((?:[1-9][0-9]{0,2})?)$/;
/** The form that knows no bus: "d0p1". */
const PLAIN = /^d([0-9]{1,7})(?:p([0-9]{1,3}))?$/;
/** As strtoul reads it: hexadecimal, octal, decimal. */
const NUMBER = /^(?:0x([0-9a-f]+)|0([0-7]*)|([1-9][0-9]*))$/i;
/** libxl takes no larger number: INT_MAX. */
const MAX_NUMBER = 0x7fffffff;

const EXTENDED = 1 << 28;
const MAX_EXTENDED_DISK = (1 << 20) - 1;
const XVD = 202 << 8;
const SD = 8 << 8;
/** The majors of the first and the second IDE channel. */
const IDE = [3 << 8, 22 << 8];

/** What each bus makes of the numbers of a disk and its partition (0: the whole disk). */
const BUSES: Record<string, (disk: number, partition: number) => number | null> = {
  xvd: paravirtual,
  sd: (disk, partition) => (disk < 16 && partition < 16 ? SD | (disk << 4) | partition : null),
  hd: (disk, partition) =>
    disk < 4 && partition < 64 ? IDE[disk >> 1] | ((disk & 1) << 6) | partition : null,
};

/** The number of "xvda1", "hda", "sdb2", "d5p1", "51712", "0xca00" or "0145000"; null when it is none of these. */
export function parseVirtualDevice(text: string): number | null {
  const digits = NUMBER.exec(text);
  if (digits) {
    const [, hexadecimal, octal, decimal] = digits;
    const number = decimal
      ? Number(decimal)
      : Number.parseInt(hexadecimal ?? (octal || "0"), hexadecimal ? 16 : 8);
    return number <= MAX_NUMBER ? number : null;
  }
  const plain = PLAIN.exec(text);
  if (plain) return paravirtual(Number(plain[1]), Number(plain[2] ?? 0));
  const match = NAME.exec(text);
  if (!match) return null;
  const [, bus, letters, partition] = match;
  return BUSES[bus](numberOfLetters(letters), Number(partition));
}

/** What a guest calls the device: "xvda1"; null for a number that no name stands for. */
export function virtualDeviceName(devid: number): string | null {
  const named = (bus: string, disk: number, partition: number): string =>
    `${bus}${lettersOfNumber(disk)}${partition === 0 ? "" : partition}`;
  const minor = devid & 0xff;
  if (devid >>> 28 === 1) {
    const disk = (devid >>> 8) & MAX_EXTENDED_DISK;
    return named("xvd", disk, minor);
  }
  if (devid >>> 8 === XVD >> 8) return named("xvd", minor >> 4, minor & 15);
  if (devid >>> 8 === SD >> 8) return named("sd", minor >> 4, minor & 15);
  const channel = IDE.indexOf(devid - minor);
  return channel < 0 || minor >= 128 ? null : named("hd", channel * 2 + (minor >> 6), minor & 63);
}

function paravirtual(disk: number, partition: number): number | null {
  if (disk < 16 && partition < 16) return XVD | (disk << 4) | partition;
  if (disk > MAX_EXTENDED_DISK || partition > 255) return null;
  return EXTENDED | (disk << 8) | partition;
}

/** a is 0, z is 25, aa is 26. */
function numberOfLetters(letters: string): number {
  let number = 0;
  for (const letter of letters) number = number * 26 + (letter.charCodeAt(0) - 96);
  return number - 1;
}

function lettersOfNumber(number: number): string {
  let letters = "";
  for (let rest = number; rest >= 0; rest = Math.floor(rest / 26) - 1) {
    letters = String.fromCharCode(97 + (rest % 26)) + letters;
  }
  return letters;
}
