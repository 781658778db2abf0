/*
 * Runs Debian's C xenstored on plain Linux: LD_PRELOADed, it stands in for the hypervisor. Dom0's port and ring page,
 * event channels and the grant table are faked out of files in $XENSTORED_SHIM_DIR:
 *
 *   ring-<domid>  the page that a domain shares with xenstored (struct xenstore_domain_interface), created at INTRODUCE
 *   doorbell      a FIFO; each u32 written to it is a port that becomes pending
 *
 * So a test can act as any guest. Build: gcc -shared -fPIC -o shim.so xenstored-shim.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096
#define VIRQ_PORT 2

static int doorbell = -1;
static char handle;

static void shim_path(char *path, size_t size, const char *name)
{
	const char *dir = getenv("XENSTORED_SHIM_DIR");
	snprintf(path, size, "%s/%s", dir ? dir : "/tmp", name);
}

static int open_or_fake(const char *path, int flags, mode_t mode)
{
	static int (*real)(const char *, int, ...);
	int fd;

	if (!real)
		real = dlsym(RTLD_NEXT, "open");
	if (path && strstr(path, "xsd_port")) {
		fd = memfd_create("port", 0);
		if (write(fd, "1", 1) != 1)
			abort();
		lseek(fd, 0, SEEK_SET);
		return fd;
	}
	if (path && strstr(path, "xsd_kva")) {
		fd = memfd_create("kva", 0);
		if (ftruncate(fd, PAGE) != 0)
			abort();
		return fd;
	}
	return real(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
	va_list arguments;
	va_start(arguments, flags);
	mode_t mode = va_arg(arguments, int);
	va_end(arguments);
	return open_or_fake(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	va_list arguments;
	va_start(arguments, flags);
	mode_t mode = va_arg(arguments, int);
	va_end(arguments);
	return open_or_fake(path, flags, mode);
}

/* libxenctrl: every domain that is asked for exists and runs. */
void *xc_interface_open(void *log, void *dombuild_log, unsigned flags) { return &handle; }
int xc_interface_close(void *xch) { return 0; }
int xc_evtchn_status(void *xch, void *status) { return 0; }
int xc_domain_getinfo(void *xch, uint32_t first, unsigned count, void *info)
{
	memset(info, 0, 16);
	*(uint32_t *)info = first;
	return 1;
}

/* libxenevtchn: a port keeps the number that INTRODUCE named. */
void *xenevtchn_open(void *log, unsigned flags)
{
	char path[4096];
	shim_path(path, sizeof(path), "doorbell");
	mkfifo(path, 0600);
	doorbell = open_or_fake(path, O_RDWR | O_NONBLOCK | O_CLOEXEC, 0);
	return doorbell < 0 ? NULL : &handle;
}
void *xenevtchn_fdopen(void *log, int fd, unsigned flags) { return xenevtchn_open(log, flags); }
int xenevtchn_close(void *xce) { return 0; }
int xenevtchn_fd(void *xce) { return doorbell; }
int xenevtchn_bind_virq(void *xce, unsigned virq) { return VIRQ_PORT; }
int xenevtchn_bind_interdomain(void *xce, uint32_t domid, uint32_t port) { return port; }
int xenevtchn_notify(void *xce, uint32_t port) { return 0; }
int xenevtchn_unbind(void *xce, uint32_t port) { return 0; }
int xenevtchn_unmask(void *xce, uint32_t port) { return 0; }
int xenevtchn_restrict(void *xce, uint32_t domid) { return 0; }
int xenevtchn_pending(void *xce)
{
	uint32_t port;
	return read(doorbell, &port, sizeof(port)) == sizeof(port) ? (int)port : -1;
}

/* libxengnttab: the only grant that xenstored maps is a domain's ring page. */
void *xengnttab_open(void *log, unsigned flags) { return &handle; }
int xengnttab_close(void *xgt) { return 0; }
int xengnttab_set_max_grants(void *xgt, uint32_t count) { return 0; }
int xengnttab_unmap(void *xgt, void *address, uint32_t count) { return munmap(address, count * PAGE); }
void *xengnttab_map_grant_ref(void *xgt, uint32_t domid, uint32_t ref, int prot)
{
	char name[32], path[4096];
	int fd;
	void *page;

	snprintf(name, sizeof(name), "ring-%u", domid);
	shim_path(path, sizeof(path), name);
	fd = open_or_fake(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, PAGE) != 0)
		return NULL;
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return page == MAP_FAILED ? NULL : page;
}
