/** How a vbd is called: by its domain and virtual-device number, as xbdback(4) says. */

export interface VbdId {
  readonly domid: number;
  /** Virtual-device number (xen-vbd-interface(7)): 51712 is xvda. */
  readonly devid: number;
}

export function vbdName({ domid, devid }: VbdId): string {
  return `xbdback${domid}i${devid}`;
}

const decimal = /^(0|[1-9][0-9]{0,9})$/;

/** Reads `<domid>/<devid>` off the end of a backend path; null when it is something else. */
export function parseVbdPath(rest: string): VbdId | null {
  const [domid, devid] = rest.split("/");
  if (!domid || !devid || !decimal.test(domid) || !decimal.test(devid)) return null;
  return { domid: Number(domid), devid: Number(devid) };
}
