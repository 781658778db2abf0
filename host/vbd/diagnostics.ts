/** The diagnostics of xbdback(4), word for word, and the few that go beside them. */

/** "xbd backend: attach device %s (size %d) for domain %d": size in bytes. */
export function attachMessage(path: string, size: number, domid: number): string {
  return `xbd backend: attach device ${path} (size ${size}) for domain ${domid}`;
}

/** "xbd backend 0x%x for domain %d using event channel %d, protocol %s": the virtual-device number first. */
export function connectMessage(devid: number, domid: number, port: number, protocol: string): string {
  return `xbd backend 0x${devid.toString(16)} for domain ${domid} using event channel ${port}, protocol ${protocol}`;
}

/** "xbdback %s: can't VOP_OPEN device 0x%x: %d": 16 (EBUSY) when the device is mounted or in use. */
export function openMessage(name: string, device: number, errno: number): string {
  return `xbdback ${name}: can't VOP_OPEN device 0x${device.toString(16)}: ${errno}`;
}

export function detachMessage(path: string, domid: number): string {
  return `xbd backend: detach device ${path} for domain ${domid}`;
}
