/** What Linux's Xen devices take: ioctl numbers and structures of linux/include/uapi/xen/{gntdev,evtchn,privcmd}.h, x86-64 and arm64. */

/** The devices, and what provides them. */
export const DEVICES = {
  gntdev: "/dev/xen/gntdev",
  evtchn: "/dev/xen/evtchn",
} as const;

/** Whoever may open these may ask the hypervisor for anything: the daemon uses them where it was given them, and not else. */
export const CONTROL_DEVICES = {
  privcmd: "/dev/xen/privcmd",
  hypercall: "/dev/xen/hypercall",
} as const;

export const IOCTL_PRIVCMD_HYPERCALL = 0x305000;

/** struct privcmd_hypercall: u64 op @0, u64 arg[5] @8. */
export const HYPERCALL_BYTES = 48;
export const HYPERCALL_OP = 0;
export const HYPERCALL_ARGUMENT = 8;

export const IOCTL_GNTDEV_MAP_GRANT_REF = 0x184700;
export const IOCTL_GNTDEV_UNMAP_GRANT_REF = 0x104701;
export const IOCTL_GNTDEV_GRANT_COPY = 0x104708;

/** struct ioctl_gntdev_map_grant_ref: u32 count @0, u64 index @8 (out), {u32 domid, u32 ref} refs[] @16. */
export const MAP_COUNT = 0;
export const MAP_INDEX = 8;
export const MAP_REFS = 16;
export const MAP_REF_BYTES = 8;

/** struct ioctl_gntdev_unmap_grant_ref: u64 index @0, u32 count @8. */
export const UNMAP_INDEX = 0;
export const UNMAP_COUNT = 8;
export const UNMAP_BYTES = 16;

/** struct ioctl_gntdev_grant_copy: u32 count @0, pointer to segments @8. */
export const GRANT_COPY_COUNT = 0;
export const GRANT_COPY_SEGMENTS = 8;
export const GRANT_COPY_BYTES = 16;

/** struct gntdev_grant_copy_segment; see `GrantTable.copy` in ports.ts. A foreign side is {u32 ref, u16 offset, u16 domid}. */
export const SEGMENT_BYTES = 24;
export const SEGMENT_SOURCE = 0;
export const SEGMENT_DEST = 8;
export const SEGMENT_LENGTH = 16;
export const SEGMENT_FLAGS = 18;
export const SEGMENT_STATUS = 20;
export const FOREIGN_REF = 0;
export const FOREIGN_DOMID = 6;
export const GNTCOPY_SOURCE_GREF = 1;

export const IOCTL_EVTCHN_BIND_INTERDOMAIN = 0x084501;
export const IOCTL_EVTCHN_BIND_UNBOUND_PORT = 0x044502;
export const IOCTL_EVTCHN_UNBIND = 0x044503;
export const IOCTL_EVTCHN_NOTIFY = 0x044504;
export const IOCTL_EVTCHN_RESET = 0x4505;
