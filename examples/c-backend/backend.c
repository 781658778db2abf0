/*
 * A block backend in C: the core, Xen's libraries, and a file. It serves one disk of one guest, on a ring of one page and
 * with grant copies, until the guest or the toolstack closes it:
 *
 *     backend 5 51712 /srv/disk.img
 *
 * for /local/domain/0/backend/vbd/5/51712, which xl block-attach has made where no xen-blkback is loaded. Its I/O is done
 * at once, with preadv and pwritev; docs/core.md says what a host does beyond this.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xenevtchn.h>
#include <xengnttab.h>
#include <xenstore.h>

#include "blkif-core.h"

#define AT(type, offset) ((type *)(void *)(memory + (offset)))
#define PATH 256

enum { INITIALISING = 1, INIT_WAIT, INITIALISED, CONNECTED, CLOSING, CLOSED };

_Static_assert(sizeof(xengnttab_grant_copy_segment_t) == XBD_COPY_BYTES, "a copy is the library's");
_Static_assert(offsetof(xengnttab_grant_copy_segment_t, status) == XBD_COPY_STATUS, "a copy is the library's");

static struct xbd_core core;
static uint8_t *memory;
static int image;
static uint32_t domid;
static char backend[PATH], frontend[PATH];
static struct xs_handle *store;
static xengnttab_handle *grants;
static xenevtchn_handle *events;
static void *ring; /* mapped while the ring is attached */
static evtchn_port_t port;
static uint32_t completions;

static void fail(const char *what)
{
	fprintf(stderr, "backend: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- xenstore ---- */

/* The number in a key; `otherwise` if there is none. */
static uint64_t read_number(const char *directory, const char *key, uint64_t otherwise)
{
	char path[2 * PATH], *end;
	char *text;

	snprintf(path, sizeof path, "%s/%s", directory, key);
	text = xs_read(store, XBT_NULL, path, NULL);
	if (!text)
		return otherwise;
	uint64_t value = strtoull(text, &end, 10);
	if (end == text || *end)
		value = otherwise;
	free(text);
	return value;
}

static void write_number(xs_transaction_t transaction, const char *key, uint64_t value)
{
	char path[2 * PATH], text[24];
	int length = snprintf(text, sizeof text, "%" PRIu64, value);

	snprintf(path, sizeof path, "%s/%s", backend, key);
	if (!xs_write(store, transaction, path, text, (unsigned)length))
		fail(path);
}

/* Writes numbers, each behind its key, up to a key that is NULL, in one transaction. */
static void publish(const char *key, ...)
{
	xs_transaction_t transaction;
	va_list list;

	do {
		transaction = xs_transaction_start(store);
		if (transaction == XBT_NULL)
			fail("xenstore");
		va_start(list, key);
		for (const char *name = key; name; name = va_arg(list, const char *))
			write_number(transaction, name, va_arg(list, uint64_t));
		va_end(list);
	} while (!xs_transaction_end(store, transaction, false) && errno == EAGAIN);
}

/* ---- What the core asks for ---- */

/* The library writes a status for each copy; for all of them where the call itself has failed, nothing does. */
static void carry_out_copies(void)
{
	uint32_t count = *AT(uint32_t, XBD_OUT_COPIES);

	if (xengnttab_grant_copy(grants, count, AT(xengnttab_grant_copy_segment_t, XBD_COPIES)) == 0)
		return;
	for (uint32_t i = 0; i < count; i++)
		*AT(int16_t, XBD_COPIES + i * XBD_COPY_BYTES + XBD_COPY_STATUS) = -1;
}

/* Reads or writes all of an I/O's buffers; the kernel may stop in between. */
static int transfer(int is_write, struct iovec *iovec, int count, off_t position)
{
	while (count > 0) {
		ssize_t moved = is_write ? pwritev(image, iovec, count, position) : preadv(image, iovec, count, position);
		if (moved < 0 && errno == EINTR)
			continue;
		if (moved <= 0)
			return -1;
		position += moved;
		for (; count > 0 && (size_t)moved >= iovec->iov_len; iovec++, count--)
			moved -= (ssize_t)iovec->iov_len;
		if (count > 0) {
			iovec->iov_base = (uint8_t *)iovec->iov_base + moved;
			iovec->iov_len -= (size_t)moved;
		}
	}
	return 0;
}

static uint32_t perform(uint32_t slot)
{
	uint32_t io = XBD_IOS + slot * XBD_IO_BYTES;
	uint8_t operation = *AT(uint8_t, io + XBD_IO_OPERATION), flags = *AT(uint8_t, io + XBD_IO_FLAGS);
	off_t position = (off_t)(*AT(uint64_t, io + XBD_IO_SECTOR) * 512);
	struct iovec *iovec = AT(struct iovec, XBD_IOVECS + slot * XBD_IOVECS_PER_SLOT * XBD_IOVEC_BYTES);
	int count = *AT(uint16_t, io + XBD_IO_IOVECS), is_write = operation == XBD_IO_WRITE;

	if (operation == XBD_IO_DISCARD)
		return XBD_IO_RESULT_UNSUPPORTED;
	if (flags & XBD_IO_PREFLUSH && fdatasync(image) != 0)
		return XBD_IO_RESULT_FAILURE;
	if (operation != XBD_IO_FLUSH && transfer(is_write, iovec, count, position) != 0)
		return XBD_IO_RESULT_FAILURE;
	if ((operation == XBD_IO_FLUSH || flags & XBD_IO_FUA) && fdatasync(image) != 0)
		return XBD_IO_RESULT_FAILURE;
	return XBD_IO_RESULT_SUCCESS;
}

/* One pass, and what it asks for. Returns whether there is more to do that no event will announce. */
static int pass(void)
{
	uint32_t taken = *AT(uint32_t, XBD_OUT_REQ_CONS);
	int32_t flags = xbd_step(&core, (int32_t)completions);
	int is_event = completions == 0;

	for (; flags & XBD_STEP_COPY; flags = xbd_step(&core, 0)) {
		if (flags & XBD_STEP_NOTIFY)
			xenevtchn_notify(events, port);
		carry_out_copies();
	}
	if (is_event && *AT(uint32_t, XBD_OUT_REQ_CONS) == taken)
		flags |= xbd_idle(&core);
	if (flags & XBD_STEP_NOTIFY)
		xenevtchn_notify(events, port);
	if (flags & XBD_STEP_HALTED)
		fprintf(stderr, "backend: the guest claims more requests than its ring holds: no more are taken\n");
	completions = flags & XBD_STEP_IO ? *AT(uint32_t, XBD_OUT_IOS) : 0;
	for (uint32_t i = 0; i < completions; i++) {
		uint16_t slot = AT(uint16_t, XBD_IO_LIST)[i];
		AT(uint32_t, XBD_COMPLETIONS)[i] = slot | perform(slot) << 16;
	}
	return completions > 0 || flags & XBD_STEP_MORE;
}

static void run(void)
{
	while (pass())
		continue;
}

/* ---- Connecting and closing ---- */

static uint32_t protocol(void)
{
	char path[2 * PATH];
	char *text;

	snprintf(path, sizeof path, "%s/protocol", frontend);
	text = xs_read(store, XBT_NULL, path, NULL);
#if defined(__x86_64__)
	/* Without the key it is a frontend of old, which ran in 32 bits: docs/xenbus.md. */
	uint32_t abi = !text || strcmp(text, "x86_32-abi") == 0 ? XBD_ABI_X86_32 : XBD_ABI_X86_64;
#else
	uint32_t abi = XBD_ABI_X86_64;
#endif
	free(text);
	return abi;
}

static void configure(uint64_t sectors)
{
	memset(memory + XBD_CONFIG, 0, XBD_OUT - XBD_CONFIG);
	*AT(uint32_t, XBD_CONFIG_ABI) = protocol();
	*AT(uint32_t, XBD_CONFIG_ENTRIES) = XBD_MAX_SLOTS;
	*AT(uint32_t, XBD_CONFIG_FEATURES) = XBD_FEATURE_FLUSH;
	*AT(uint32_t, XBD_CONFIG_DOMID) = domid;
	*AT(uint64_t, XBD_CONFIG_BASE) = (uintptr_t)memory;
	*AT(uint64_t, XBD_CONFIG_SECTORS) = sectors;
	*AT(uint32_t, XBD_CONFIG_SECTOR_UNITS) = 1;
	*AT(uint32_t, XBD_CONFIG_MAX_INDIRECT) = XBD_MAX_SEGMENTS;
	*AT(uint32_t, XBD_CONFIG_MAX_IO) = XBD_MAX_IO;
	*AT(uint32_t, XBD_CONFIG_BATCH) = XBD_MAX_SLOTS;
	*AT(uint32_t, XBD_CONFIG_PASS_SEGMENTS) = XBD_MAX_PASS_SEGMENTS;
	*AT(uint32_t, XBD_CONFIG_PASS_BYTES) = XBD_MAX_PASS_BYTES;
}

static void detach(void)
{
	if (!ring)
		return;
	/* Nothing is in flight: run() has ended, and it does the I/O itself. */
	xenevtchn_unbind(events, port);
	xengnttab_unmap(grants, ring, 1);
	ring = NULL;
}

/* What the frontend has written is the guest's: numbers out of range are Xen's to refuse. */
static void connect(uint64_t sectors)
{
	uint32_t ref = (uint32_t)read_number(frontend, "ring-ref", 0);
	evtchn_port_t remote = (evtchn_port_t)read_number(frontend, "event-channel", 0);

	ring = xengnttab_map_grant_ref(grants, domid, ref, PROT_READ | PROT_WRITE);
	if (!ring)
		fail("the guest's ring");
	xenevtchn_port_or_error_t bound = xenevtchn_bind_interdomain(events, domid, remote);
	if (bound < 0)
		fail("the guest's event channel");
	port = (evtchn_port_t)bound;
	xbd_init(&core, memory, ring);
	configure(sectors);
	if (xbd_version(&core) != XBD_ABI_VERSION || xbd_attach(&core) != XBD_ATTACH_OK) {
		fprintf(stderr, "backend: the guest's ring is not one: it claims more requests than fit\n");
		exit(1);
	}
	publish("sectors", sectors, "sector-size", UINT64_C(512), "info", UINT64_C(0), "feature-flush-cache", UINT64_C(1),
		"state", (uint64_t)CONNECTED, NULL);
	run();
}

/* Acts on the states of both ends. Returns 0 when the disk is closed. */
static int follow_states(uint64_t sectors)
{
	uint64_t theirs = read_number(frontend, "state", 0), ours = read_number(backend, "state", CLOSED);

	if (ours == CLOSED)
		return 0;
	if (ours == CLOSING && !ring)
		theirs = CLOSED;
	if (!ring && (theirs == INITIALISED || theirs == CONNECTED)) {
		connect(sectors);
	} else if (theirs == CLOSING && ours != CLOSING) {
		publish("state", (uint64_t)CLOSING, NULL);
	} else if (theirs == CLOSED || (ring && theirs == 0)) {
		detach();
		publish("state", (uint64_t)CLOSED, NULL);
		return 0;
	}
	return 1;
}

static void handle_event(void)
{
	xenevtchn_port_or_error_t pending = xenevtchn_pending(events);

	if (pending < 0 || !ring || (evtchn_port_t)pending != port)
		return;
	/* Unmasked before the ring is looked at, so that no event is lost. */
	xenevtchn_unmask(events, port);
	run();
}

static void handle_watch(void)
{
	unsigned count;

	free(xs_read_watch(store, &count));
}

static void open_all(const char *devid)
{
	snprintf(backend, sizeof backend, "/local/domain/0/backend/vbd/%u/%s", domid, devid);
	snprintf(frontend, sizeof frontend, "/local/domain/%u/device/vbd/%s", domid, devid);
	store = xs_open(0);
	grants = xengnttab_open(NULL, 0);
	events = xenevtchn_open(NULL, 0);
	if (!store || !grants || !events)
		fail("Xen");
	/* The ring lies where the library maps it, so the block ends where it would begin. */
	memory = mmap(NULL, XBD_SRING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("memory");
	char theirs[2 * PATH];
	snprintf(theirs, sizeof theirs, "%s/state", frontend);
	if (!xs_watch(store, backend, "backend") || !xs_watch(store, theirs, "frontend"))
		fail("xenstore");
}

int main(int argc, char **argv)
{
	struct stat status;

	if (argc != 4) {
		fprintf(stderr, "usage: backend DOMID DEVID IMAGE\n");
		return 2;
	}
	domid = (uint32_t)strtoul(argv[1], NULL, 10);
	image = open(argv[3], O_RDWR | O_CLOEXEC);
	if (image < 0 || fstat(image, &status) != 0)
		fail(argv[3]);
	uint64_t sectors = (uint64_t)lseek(image, 0, SEEK_END) / 512;
	open_all(argv[2]);
	publish("max-ring-page-order", UINT64_C(0), "feature-max-indirect-segments", (uint64_t)XBD_MAX_SEGMENTS, "state",
		(uint64_t)INIT_WAIT, NULL);
	while (follow_states(sectors)) {
		struct pollfd descriptors[] = { { xs_fileno(store), POLLIN, 0 }, { xenevtchn_fd(events), POLLIN, 0 } };
		if (poll(descriptors, 2, -1) < 0 && errno != EINTR)
			fail("poll");
		if (descriptors[0].revents)
			handle_watch();
		if (descriptors[1].revents)
			handle_event();
	}
	xenevtchn_close(events);
	xengnttab_close(grants);
	xs_close(store);
	munmap(memory, XBD_SRING);
	close(image);
	return 0;
}
