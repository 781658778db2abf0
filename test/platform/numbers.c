/* The structures that the host hands to the kernel and to the C library, as the headers of an architecture lay them out. The
   test includes what it says of each number: NUMBERS, a file of static assertions. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>

/* Xen's own, which linux/uapi/xen takes from the kernel. */
typedef uint16_t domid_t;
typedef uint32_t grant_ref_t;
#include <xen/evtchn.h>
#include <xen/gntdev.h>

#define SAME(what, value) _Static_assert((what) == (value), #what " is not " #value)
#define AT(structure, field, offset) SAME(offsetof(struct structure, field), offset)

/* libc.ts: rangeLock, peerOf, and what koffi calls int, long and size_t. */
AT(flock, l_type, 0);
AT(flock, l_whence, 2);
AT(flock, l_start, 8);
AT(flock, l_len, 16);
SAME(sizeof(struct flock), 32);
SAME(sizeof(struct ucred), 12);
AT(ucred, pid, 0);
AT(ucred, uid, 4);
AT(ucred, gid, 8);
SAME(sizeof(int), 4);
SAME(sizeof(long), 8);
SAME(sizeof(size_t), 8);
SAME(sizeof(off_t), 8);

/* sharing.ts, datagram.ts: messages with descriptors. */
AT(msghdr, msg_name, 0);
AT(msghdr, msg_namelen, 8);
AT(msghdr, msg_iov, 16);
AT(msghdr, msg_iovlen, 24);
AT(msghdr, msg_control, 32);
AT(msghdr, msg_controllen, 40);
SAME(sizeof(struct msghdr), 56);
SAME(sizeof(struct iovec), 16);
AT(iovec, iov_len, 8);
AT(cmsghdr, cmsg_len, 0);
AT(cmsghdr, cmsg_level, 8);
AT(cmsghdr, cmsg_type, 12);
SAME(CMSG_LEN(0), 16);
SAME(CMSG_SPACE(4), 24);
AT(sockaddr_un, sun_path, 2);

/* file-stats.ts. */
AT(statx, stx_blksize, 4);
AT(statx, stx_uid, 20);
AT(statx, stx_mode, 28);
AT(statx, stx_ino, 32);
AT(statx, stx_size, 40);
AT(statx, stx_rdev_major, 128);
AT(statx, stx_dev_major, 136);
SAME(sizeof(struct statx), 256);

/* launcher.ts. */
SAME(_LINUX_CAPABILITY_VERSION_3, 0x20080522);
SAME(sizeof(struct __user_cap_header_struct), 8);
SAME(sizeof(struct __user_cap_data_struct) * _LINUX_CAPABILITY_U32S_3, 24);
AT(landlock_ruleset_attr, handled_access_fs, 0);
SAME(LANDLOCK_RULE_PATH_BENEATH, 1);
AT(landlock_path_beneath_attr, parent_fd, 8);
SAME(sizeof(struct landlock_path_beneath_attr), 12);

/* uring/abi.ts, which has words where these are bytes. */
SAME(sizeof(struct io_uring_sqe), 64);
AT(io_uring_sqe, fd, 4);
AT(io_uring_sqe, off, 8);
AT(io_uring_sqe, addr, 16);
AT(io_uring_sqe, len, 24);
AT(io_uring_sqe, rw_flags, 28);
AT(io_uring_sqe, user_data, 32);
AT(io_uring_sqe, buf_index, 40);
SAME(sizeof(struct io_uring_cqe), 16);
SAME(sizeof(struct io_uring_params), 120);
AT(io_uring_params, features, 20);
AT(io_uring_params, sq_off, 40);
AT(io_uring_params, cq_off, 80);
SAME(sizeof(struct io_uring_getevents_arg), 24);
SAME(sizeof(struct io_uring_rsrc_update2), 32);

/* xen/abi.ts: the ioctls. Its structures are abi.c's. */
AT(ioctl_gntdev_map_grant_ref, index, 8);
AT(ioctl_gntdev_map_grant_ref, refs, 16);
SAME(sizeof(struct ioctl_gntdev_unmap_grant_ref), 16);
SAME(sizeof(struct gntdev_grant_copy_segment), 24);
AT(gntdev_grant_copy_segment, status, 20);
SAME(sizeof(struct ioctl_gntdev_grant_copy), 16);

#include NUMBERS
