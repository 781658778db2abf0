/*
 * A small host of the core: one ring, a disk in memory, and a guest that writes three sectors, reads
 * them back and reads past the end. On Xen the ring would be mapped, and carry_out_copies() would be
 * IOCTL_GNTDEV_GRANT_COPY on the table as it is; the loop is the one of docs/core.md.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "blkif-core.h"
#include "blkif.h"

#define SECTORS 64
#define AT(type, offset) ((type *)(memory.data + (offset)))

static wasm_rt_memory_t memory; /* linear memory, the core's import env.memory */
static Z_blkif_instance_t core; /* one ring */
static uint8_t disk[SECTORS * 512];
static uint8_t granted[4][XBD_PAGE]; /* the guest's pages, by grant reference */

/* How wasm2c's code asks for the import. */
wasm_rt_memory_t *Z_envZ_memory(struct Z_env_instance_t *env)
{
	(void)env;
	return &memory;
}

/* ---- The guest: requests and responses as xen/include/public/io/blkif.h lays them out on x86-64 ---- */

struct request {
	uint8_t operation, segments;
	uint16_t handle;
	uint32_t pad;
	uint64_t id, sector;
	struct {
		uint32_t gref;
		uint8_t first, last;
		uint16_t pad;
	} segment[XBD_MAX_DIRECT_SEGMENTS];
};
struct response {
	uint64_t id;
	uint8_t operation, pad;
	int16_t status;
};

static void put(uint8_t operation, uint64_t sector, uint32_t gref)
{
	uint32_t index = *AT(uint32_t, XBD_SRING_REQ_PROD);
	struct request *request = AT(struct request, XBD_SRING_ENTRIES) + index % 32;

	*request = (struct request){ .operation = operation, .segments = 1, .id = 100 + index, .sector = sector };
	request->segment[0].gref = gref;
	request->segment[0].last = 2; /* sectors 0 to 2 of the page */
	__atomic_store_n(AT(uint32_t, XBD_SRING_REQ_PROD), index + 1, __ATOMIC_SEQ_CST);
}

/* ---- The host ---- */

/* Copies between the guest's pages and linear memory; every entry gets its status. */
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
		flags = Z_blkifZ_step(&core, completions);
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
	wasm_rt_init();
	Z_blkif_init_module();
	wasm_rt_allocate_memory(&memory, XBD_MEMORY_BYTES / 65536, XBD_MEMORY_BYTES / 65536);
	Z_blkif_instantiate(&core, NULL);

	*AT(uint32_t, XBD_SRING_REQ_EVENT) = *AT(uint32_t, XBD_SRING_RSP_EVENT) = 1; /* an empty ring */
	*AT(uint32_t, XBD_CONFIG_ABI) = XBD_ABI_X86_64;
	*AT(uint32_t, XBD_CONFIG_ENTRIES) = 32;
	*AT(uint64_t, XBD_CONFIG_BASE) = (uintptr_t)memory.data;
	*AT(uint64_t, XBD_CONFIG_SECTORS) = SECTORS;
	*AT(uint32_t, XBD_CONFIG_SECTOR_UNITS) = 1;
	*AT(uint32_t, XBD_CONFIG_MAX_IO) = XBD_MAX_IO;
	*AT(uint32_t, XBD_CONFIG_BATCH) = 64;
	if (Z_blkifZ_version(&core) != XBD_ABI_VERSION || Z_blkifZ_attach(&core) != XBD_ATTACH_OK) {
		fprintf(stderr, "the core refuses: header and module of different builds, or a bad configuration\n");
		return 1;
	}

	memset(granted[1], 'x', 3 * 512);
	put(XBD_BLKIF_OP_WRITE, 8, 1);
	put(XBD_BLKIF_OP_READ, 8, 2); /* waits for the write: they overlap */
	put(XBD_BLKIF_OP_READ, SECTORS - 1, 3); /* past the end */
	run();

	/* An entry of the ring has the size of a request. */
	for (uint32_t i = 0; i < *AT(uint32_t, XBD_SRING_RSP_PROD); i++) {
		struct response *response = (void *)(AT(struct request, XBD_SRING_ENTRIES) + i);
		printf("response %u: id %" PRIu64 ", status %d\n", i, response->id, response->status);
	}
	int same = !memcmp(granted[1], granted[2], 3 * 512) && !memcmp(granted[1], disk + 8 * 512, 3 * 512);
	printf("the guest read %s\n", same ? "what it wrote" : "something else");
	return same ? 0 : 1;
}
