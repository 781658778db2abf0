/* The structures that /dev/xen/gntdev, evtchn and privcmd take, as a C compiler lays them out, and the numbers of their
   ioctls. The test defines every name of host/platform/xen/abi.ts as a macro. */
#include <stddef.h>
#include <stdint.h>

struct grant_ref {
  uint32_t domid, ref;
};
struct map_grant_ref {
  uint32_t count, pad;
  uint64_t index;
  struct grant_ref refs[1];
};
struct unmap_grant_ref {
  uint64_t index;
  uint32_t count, pad;
};
union side {
  void *virt;
  struct {
    uint32_t ref;
    uint16_t offset, domid;
  } foreign;
};
struct segment {
  union side source, dest;
  uint16_t len, flags;
  int16_t status;
};
struct hypercall {
  uint64_t op, arg[5];
};
struct grant_copy {
  uint32_t count;
  struct segment *segments;
};

/* asm-generic/ioctl.h's _IOC with no direction, which is what these headers use. */
#define IOC(type, number, size) ((size) << 16 | (type) << 8 | (number))
#define SAME(a, b) _Static_assert((a) == (b), #a " is not " #b)

SAME(MAP_COUNT, offsetof(struct map_grant_ref, count));
SAME(MAP_INDEX, offsetof(struct map_grant_ref, index));
SAME(MAP_REFS, offsetof(struct map_grant_ref, refs));
SAME(MAP_REF_BYTES, sizeof(struct grant_ref));
SAME(UNMAP_INDEX, offsetof(struct unmap_grant_ref, index));
SAME(UNMAP_COUNT, offsetof(struct unmap_grant_ref, count));
SAME(UNMAP_BYTES, sizeof(struct unmap_grant_ref));
SAME(GRANT_COPY_COUNT, offsetof(struct grant_copy, count));
SAME(GRANT_COPY_SEGMENTS, offsetof(struct grant_copy, segments));
SAME(GRANT_COPY_BYTES, sizeof(struct grant_copy));
SAME(SEGMENT_BYTES, sizeof(struct segment));
SAME(SEGMENT_SOURCE, offsetof(struct segment, source));
SAME(SEGMENT_DEST, offsetof(struct segment, dest));
SAME(SEGMENT_LENGTH, offsetof(struct segment, len));
SAME(SEGMENT_FLAGS, offsetof(struct segment, flags));
SAME(SEGMENT_STATUS, offsetof(struct segment, status));
SAME(FOREIGN_REF, offsetof(union side, foreign.ref));
SAME(FOREIGN_DOMID, offsetof(union side, foreign.domid));
SAME(GNTCOPY_SOURCE_GREF, 1 << 0);

SAME(HYPERCALL_BYTES, sizeof(struct hypercall));
SAME(HYPERCALL_OP, offsetof(struct hypercall, op));
SAME(HYPERCALL_ARGUMENT, offsetof(struct hypercall, arg));

SAME(IOCTL_PRIVCMD_HYPERCALL, IOC('P', 0, sizeof(struct hypercall)));
SAME(IOCTL_GNTDEV_MAP_GRANT_REF, IOC('G', 0, sizeof(struct map_grant_ref)));
SAME(IOCTL_GNTDEV_UNMAP_GRANT_REF, IOC('G', 1, sizeof(struct unmap_grant_ref)));
SAME(IOCTL_GNTDEV_GRANT_COPY, IOC('G', 8, sizeof(struct grant_copy)));
SAME(IOCTL_EVTCHN_BIND_INTERDOMAIN, IOC('E', 1, 2 * sizeof(uint32_t)));
SAME(IOCTL_EVTCHN_BIND_UNBOUND_PORT, IOC('E', 2, sizeof(uint32_t)));
SAME(IOCTL_EVTCHN_UNBIND, IOC('E', 3, sizeof(uint32_t)));
SAME(IOCTL_EVTCHN_NOTIFY, IOC('E', 4, sizeof(uint32_t)));
SAME(IOCTL_EVTCHN_RESET, IOC('E', 5, 0));
