/*
 * What a C compiler makes of the published structures (xen/include/public/io/blkif.h and ring.h,
 * linux/include/uapi/xen/gntdev.h): declared here once more, with plain types and natural alignment.
 *
 * layout.test.ts compiles this for x86-64 and for i386, without linking, and reads two sections of the object file:
 * ".offsets", records of a name and a number, and ".samples", records of a name and the bytes of a structure whose
 * fields have the values of layouts.md. So it needs neither an i386 C library nor a processor that runs i386 code.
 */
#include <stddef.h>
#include <stdint.h>

struct segment {
	uint32_t gref;
	uint8_t first_sect;
	uint8_t last_sect;
};

struct request {
	uint8_t operation;
	uint8_t nr_segments;
	uint16_t handle;
	uint64_t id;
	uint64_t sector_number;
	struct segment seg[11];
};

struct discard {
	uint8_t operation;
	uint8_t flag;
	uint16_t handle;
	uint64_t id;
	uint64_t sector_number;
	uint64_t nr_sectors;
};

struct indirect {
	uint8_t operation;
	uint8_t indirect_op;
	uint16_t nr_segments;
	uint64_t id;
	uint64_t sector_number;
	uint16_t handle;
	uint32_t indirect_grefs[8];
#ifdef __i386__
	uint64_t pad;
#endif
};

struct response {
	uint64_t id;
	uint8_t operation;
	int16_t status;
};

union entry {
	struct request request;
	struct response response;
};

struct sring {
	uint32_t req_prod, req_event;
	uint32_t rsp_prod, rsp_event;
	uint8_t pad[48];
	union entry ring[1];
};

/* The host's side of the core's tables is 64-bit, whatever the guest's layout is. */
struct copy_side {
	union {
		uint64_t virt;
		struct {
			uint32_t ref;
			uint16_t offset;
			uint16_t domid;
		} foreign;
	};
};

struct grant_copy {
	struct copy_side source;
	struct copy_side dest;
	uint16_t len;
	uint16_t flags;
	int16_t status;
};

struct offset {
	char name[44];
	uint32_t value;
};

#define OFFSET(structure, field) { #structure "." #field, offsetof(struct structure, field) }
#define SIZE(structure) { #structure, sizeof(struct structure) }

__attribute__((section(".offsets"), used)) const struct offset offsets[] = {
	OFFSET(sring, req_prod), OFFSET(sring, req_event), OFFSET(sring, rsp_prod), OFFSET(sring, rsp_event),
	OFFSET(sring, ring),
	{ "entry", sizeof(union entry) },
	OFFSET(request, operation), OFFSET(request, nr_segments), OFFSET(request, handle), OFFSET(request, id),
	OFFSET(request, sector_number), OFFSET(request, seg), SIZE(request),
	OFFSET(segment, gref), OFFSET(segment, first_sect), OFFSET(segment, last_sect), SIZE(segment),
	OFFSET(discard, operation), OFFSET(discard, flag), OFFSET(discard, handle), OFFSET(discard, id),
	OFFSET(discard, sector_number), OFFSET(discard, nr_sectors), SIZE(discard),
	OFFSET(indirect, operation), OFFSET(indirect, indirect_op), OFFSET(indirect, nr_segments),
	OFFSET(indirect, id), OFFSET(indirect, sector_number), OFFSET(indirect, handle),
	OFFSET(indirect, indirect_grefs), SIZE(indirect),
	OFFSET(response, id), OFFSET(response, operation), OFFSET(response, status), SIZE(response),
	OFFSET(grant_copy, source), OFFSET(grant_copy, source.foreign.ref), OFFSET(grant_copy, source.foreign.offset),
	OFFSET(grant_copy, source.foreign.domid), OFFSET(grant_copy, dest), OFFSET(grant_copy, len),
	OFFSET(grant_copy, flags), OFFSET(grant_copy, status), SIZE(grant_copy),
};

/* The values of layouts.md. */
#define HANDLE 0x0203
#define ID 0x1122334455667788
#define SECTOR 0xa0b0c0d0e10
#define WHOLE { 0x05060708, 0, 7 }
#define PART { 0x01020304, 1, 6 }

struct named_request {
	char name[16];
	union {
		struct request request;
		struct discard discard;
		struct indirect indirect;
		uint8_t bytes[112];
	};
};

__attribute__((section(".samples"), used)) const struct named_request samples[] = {
	{ "READ", .request = { 0, 2, HANDLE, ID, SECTOR, { PART, WHOLE } } },
	{ "WRITE", .request = { 1, 2, HANDLE, ID, SECTOR, { PART, WHOLE } } },
	{ "WRITE_BARRIER", .request = { 2, 1, HANDLE, ID, SECTOR, { PART } } },
	{ "FLUSH_DISKCACHE", .request = { 3, 0, HANDLE, ID, UINT64_MAX, { { 0, 0, 0 } } } },
	{ "DISCARD", .discard = { 5, 0, HANDLE, ID, SECTOR, 0x10203040508 } },
	{ "INDIRECT", .indirect = { .operation = 6, .indirect_op = 1, .nr_segments = 2, .id = ID,
		.sector_number = SECTOR, .handle = HANDLE, .indirect_grefs = { 0x0a0b0c0d } } },
};
