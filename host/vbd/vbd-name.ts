/** Names of vbds as people type them. */
import type { VbdId } from "./name.js";
import { parseVirtualDevice, virtualDeviceName } from "./virtual-device.js";

const INSTANCE = /^xbdback([0-9]{1,5})i([0-9]{1,10})$/;
const PAIR = /^([0-9]{1,5})\/(.+)$/;
const BY_NAME = /^(.+)\/([^/]+)$/s;

/** The vbd of "xbdback1i51712", "1/xvda" or "1/51712"; null when it is none of these. */
export function parseVbdName(text: string): VbdId | null {
  const match = INSTANCE.exec(text) ?? PAIR.exec(text);
  if (!match) return null;
  const devid = parseVirtualDevice(match[2]);
  return devid === null ? null : { domid: Number(match[1]), devid };
}

/** The guest's name and the virtual-device number of "web/xvda"; null when it is not of that form. */
export function parseNamedVbd(text: string): { domain: string; devid: number } | null {
  const match = BY_NAME.exec(text);
  const devid = match ? parseVirtualDevice(match[2]) : null;
  return match && devid !== null ? { domain: match[1], devid } : null;
}

/** "xvda", or the number where no name stands for it. */
export function shownDevice(devid: number): string {
  return virtualDeviceName(devid) ?? String(devid);
}
