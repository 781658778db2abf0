/* The guest of host.c: three requests on a ring of one page, as xen/include/public/io/blkif.h lays them out on x86-64. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "blkif-core.h"

#define DISK_SECTORS 64
#define BYTES (3 * 512)

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

static uint8_t *ring; /* the page that it shares with the backend: four indices, then 32 entries */
static uint8_t granted[4][XBD_PAGE]; /* its other pages, by grant reference */

static uint32_t *index_at(uint32_t field)
{
	return (uint32_t *)(ring + field - XBD_SRING);
}

static void *entry(uint32_t index)
{
	return (struct request *)(ring + XBD_SRING_ENTRIES - XBD_SRING) + index % 32;
}

static void put(uint8_t operation, uint64_t sector, uint32_t gref)
{
	uint32_t index = *index_at(XBD_SRING_REQ_PROD);
	struct request *request = entry(index);

	*request = (struct request){ .operation = operation, .segments = 1, .id = 100 + index, .sector = sector };
	request->segment[0].gref = gref;
	request->segment[0].last = BYTES / 512 - 1;
	__atomic_store_n(index_at(XBD_SRING_REQ_PROD), index + 1, __ATOMIC_SEQ_CST);
}

static void guest_begins(void *shared_page)
{
	ring = shared_page;
	*index_at(XBD_SRING_REQ_EVENT) = *index_at(XBD_SRING_RSP_EVENT) = 1; /* an empty ring */
	memset(granted[1], 'x', BYTES);
	put(XBD_BLKIF_OP_WRITE, 8, 1);
	put(XBD_BLKIF_OP_READ, 8, 2); /* waits for the write: they overlap */
	put(XBD_BLKIF_OP_READ, DISK_SECTORS - 1, 3); /* past the end */
}

/* Prints the responses; 0 if the guest has read what it wrote. */
static int guest_ends(void)
{
	for (uint32_t i = 0; i < *index_at(XBD_SRING_RSP_PROD); i++) {
		struct response *response = entry(i);
		printf("response %u: id %" PRIu64 ", status %d\n", i, response->id, response->status);
	}
	int differs = memcmp(granted[1], granted[2], BYTES) != 0;
	printf("the guest read %s\n", differs ? "something else" : "what it wrote");
	return differs;
}
