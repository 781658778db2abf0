/*
 * A small host of the core: one ring, a disk in memory, and the guest of guest.h. On Xen the ring would be mapped, and
 * carry_out_copies() would be IOCTL_GNTDEV_GRANT_COPY on the table as it is; the loop is the one of docs/core.md.
 */
#include <stdalign.h>
#include <stddef.h>
#include <sys/uio.h>

#include "guest.h"

#define AT(type, offset) ((type *)(void *)(memory + (offset)))

static alignas(XBD_PAGE) uint8_t memory[XBD_MEMORY_BYTES];
static struct xbd_core core; /* one ring */
static uint8_t disk[DISK_SECTORS * 512];

/* Copies between the guest's pages and the core's memory; every entry gets its status. */
static void carry_out_copies(void)
{
	for (uint32_t i = 0; i < *AT(uint32_t, XBD_OUT_COPIES); i++) {
		uint32_t entry = XBD_COPIES + i * XBD_COPY_BYTES;
		int to_guest = *AT(uint16_t, entry + XBD_COPY_FLAGS) == XBD_COPY_DEST_GREF;
		uint32_t grant = entry + (to_guest ? XBD_COPY_DEST : XBD_COPY_SOURCE);
		uint8_t *local = *AT(uint8_t *, entry + (to_guest ? XBD_COPY_SOURCE : XBD_COPY_DEST));
		uint32_t gref = *AT(uint32_t, grant);
		int16_t *status = AT(int16_t, entry + XBD_COPY_STATUS);

		if (gref >= sizeof granted / sizeof granted[0]) {
			*status = -3; /* GNTST_bad_gntref */
			continue;
		}
		uint8_t *page = granted[gref] + *AT(uint16_t, grant + 4);
		memcpy(to_guest ? page : local, to_guest ? local : page, *AT(uint16_t, entry + XBD_COPY_LENGTH));
		*status = 0;
	}
}

/* Does I/O number i, at once. A host with a slow disk would start it here, and complete it in a later step. */
static void do_io(uint32_t i)
{
	uint16_t slot = AT(uint16_t, XBD_IO_LIST)[i];
	uint32_t io = XBD_IOS + slot * XBD_IO_BYTES;
	uint8_t *position = disk + *AT(uint64_t, io + XBD_IO_SECTOR) * 512; /* the core has checked it */
	struct iovec *iovec = AT(struct iovec, XBD_IOVECS + slot * XBD_IOVECS_PER_SLOT * XBD_IOVEC_BYTES);
	int is_write = *AT(uint8_t, io + XBD_IO_OPERATION) == XBD_IO_WRITE;

	printf("%s, sector %td", is_write ? "write" : "read", (position - disk) / 512);
	printf(", %u bytes\n", *AT(uint32_t, io + XBD_IO_LENGTH));
	for (uint16_t v = 0; v < *AT(uint16_t, io + XBD_IO_IOVECS); position += iovec[v++].iov_len) {
		uint8_t *local = iovec[v].iov_base;
		memcpy(is_write ? position : local, is_write ? local : position, iovec[v].iov_len);
	}
	AT(uint32_t, XBD_COMPLETIONS)[i] = slot | XBD_IO_RESULT_SUCCESS << 16;
}

/* Steps until there is nothing to do: passes, and within them the rounds of grant operations. */
static void run(void)
{
	uint32_t flags, completions = 0;

	do {
		flags = (uint32_t)xbd_step(&core, (int32_t)completions);
		completions = 0;
		if (flags & XBD_STEP_COPY)
			carry_out_copies();
		if (flags & XBD_STEP_IO)
			while (completions < *AT(uint32_t, XBD_OUT_IOS))
				do_io(completions++);
		if (flags & XBD_STEP_NOTIFY)
			printf("notify the guest\n");
	} while (completions || flags & (XBD_STEP_COPY | XBD_STEP_MORE));
}

int main(void)
{
	xbd_init(&core, memory, NULL);
	guest_begins(AT(void, XBD_SRING));
	*AT(uint32_t, XBD_CONFIG_ABI) = XBD_ABI_X86_64;
	*AT(uint32_t, XBD_CONFIG_ENTRIES) = 32;
	*AT(uint64_t, XBD_CONFIG_BASE) = (uintptr_t)memory;
	*AT(uint64_t, XBD_CONFIG_SECTORS) = DISK_SECTORS;
	*AT(uint32_t, XBD_CONFIG_SECTOR_UNITS) = 1;
	*AT(uint32_t, XBD_CONFIG_MAX_IO) = XBD_MAX_IO;
	*AT(uint32_t, XBD_CONFIG_BATCH) = XBD_MAX_SLOTS;
	*AT(uint32_t, XBD_CONFIG_PASS_SEGMENTS) = XBD_MAX_PASS_SEGMENTS;
	*AT(uint32_t, XBD_CONFIG_PASS_BYTES) = XBD_MAX_PASS_BYTES;
	if (xbd_version(&core) != XBD_ABI_VERSION || xbd_attach(&core) != XBD_ATTACH_OK) {
		fprintf(stderr, "the core refuses: header and core of different builds, or a bad configuration\n");
		return 1;
	}
	run();
	return guest_ends();
}
