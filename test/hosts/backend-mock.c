/*
 * Xen's libraries as examples/c-backend calls them, and a guest, in one process: xenstore is a list of keys, an event
 * channel a byte in a pipe, a granted page an element of an array. The guest is a thread, as a frontend is another machine:
 * it writes a pattern to every sector in requests of every kind, reads it back, asks for what must be refused, and closes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xenevtchn.h>
#include <xengnttab.h>
#include <xenstore.h>

#include "blkif-core.h"

#define PAGES 512
#define RING_REF 7
#define SECTORS 2048
#define RUN 32 /* pages of a large request */

static _Alignas(XBD_PAGE) uint8_t memory_of_guest[PAGES * XBD_PAGE];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { char path[160], value[32]; } keys[64];
static int watches[2], to_backend[2], to_guest[2];
static unsigned mapped, bound, copies;

static void die(const char *what, long number)
{
	fprintf(stderr, "mock: %s %ld\n", what, number);
	exit(3);
}

static uint8_t *page_of(uint32_t ref)
{
	return memory_of_guest + ref * (size_t)XBD_PAGE;
}

/* ---- xenstore ---- */

static char *find(const char *path, bool make)
{
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		if (strcmp(keys[i].path, path) == 0)
			return keys[i].value;
		if (!keys[i].path[0]) {
			if (make)
				strcpy(keys[i].path, path);
			return make ? keys[i].value : NULL;
		}
	}
	die("keys that fit:", (long)(sizeof keys / sizeof keys[0]));
	return NULL;
}

static void put(const char *path, const char *value)
{
	pthread_mutex_lock(&lock);
	strcpy(find(path, true), value);
	pthread_mutex_unlock(&lock);
	if (write(watches[1], "w", 1) != 1)
		die("no watch,", errno);
}

static long get(const char *path)
{
	pthread_mutex_lock(&lock);
	char *value = find(path, false);
	long number = value ? strtol(value, NULL, 10) : 0;
	pthread_mutex_unlock(&lock);
	return number;
}

struct xs_handle *xs_open(unsigned long flags)
{
	(void)flags;
	return (struct xs_handle *)(void *)keys;
}

void xs_close(struct xs_handle *handle)
{
	(void)handle;
}

void *xs_read(struct xs_handle *handle, xs_transaction_t transaction, const char *path, unsigned *length)
{
	(void)handle, (void)transaction, (void)length;
	pthread_mutex_lock(&lock);
	char *value = find(path, false);
	char *copy = value ? strdup(value) : NULL;
	pthread_mutex_unlock(&lock);
	return copy;
}

bool xs_write(struct xs_handle *handle, xs_transaction_t transaction, const char *path, const void *data, unsigned length)
{
	(void)handle, (void)transaction;
	if (strlen(data) != length)
		die("a value with another length than it says:", length);
	put(path, data);
	return true;
}

xs_transaction_t xs_transaction_start(struct xs_handle *handle)
{
	(void)handle;
	return 1;
}

/* The first is in conflict with another's. */
bool xs_transaction_end(struct xs_handle *handle, xs_transaction_t transaction, bool abort)
{
	static int ended;

	(void)handle, (void)transaction, (void)abort;
	errno = EAGAIN;
	return ended++ != 0;
}

bool xs_watch(struct xs_handle *handle, const char *path, const char *token)
{
	(void)handle, (void)path, (void)token;
	return write(watches[1], "w", 1) == 1;
}

int xs_fileno(struct xs_handle *handle)
{
	(void)handle;
	return watches[0];
}

char **xs_read_watch(struct xs_handle *handle, unsigned *count)
{
	char byte;

	(void)handle;
	if (read(watches[0], &byte, 1) != 1)
		die("no watch,", errno);
	*count = 0;
	return calloc(1, sizeof(char *));
}

/* ---- Event channels ---- */

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned flags)
{
	(void)logger, (void)flags;
	return (xenevtchn_handle *)(void *)to_backend;
}

int xenevtchn_close(xenevtchn_handle *handle)
{
	(void)handle;
	return 0;
}

int xenevtchn_fd(xenevtchn_handle *handle)
{
	(void)handle;
	return to_backend[0];
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *handle, uint32_t domid, evtchn_port_t port)
{
	(void)handle;
	if (domid != 5 || port != 11)
		die("a channel of nobody:", port);
	bound++;
	return 3;
}

int xenevtchn_unbind(xenevtchn_handle *handle, evtchn_port_t port)
{
	(void)handle, (void)port;
	bound--;
	return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *handle)
{
	char byte;

	(void)handle;
	return read(to_backend[0], &byte, 1) == 1 ? 3 : -1;
}

int xenevtchn_unmask(xenevtchn_handle *handle, evtchn_port_t port)
{
	(void)handle, (void)port;
	return 0;
}

int xenevtchn_notify(xenevtchn_handle *handle, evtchn_port_t port)
{
	(void)handle;
	if (port != 3 || write(to_guest[1], "n", 1) != 1)
		die("a notification that goes nowhere:", port);
	return 0;
}

/* ---- Grants: refs of 400 and more are nobody's ---- */

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned flags)
{
	(void)logger, (void)flags;
	return (xengnttab_handle *)(void *)memory_of_guest;
}

int xengnttab_close(xengnttab_handle *handle)
{
	(void)handle;
	return 0;
}

void *xengnttab_map_grant_ref(xengnttab_handle *handle, uint32_t domid, uint32_t ref, int protection)
{
	(void)handle, (void)protection;
	if (domid != 5 || ref != RING_REF)
		die("a ring of nobody:", ref);
	mapped++;
	return page_of(ref);
}

int xengnttab_unmap(xengnttab_handle *handle, void *address, uint32_t count)
{
	(void)handle, (void)address;
	mapped -= count;
	return 0;
}

int xengnttab_grant_copy(xengnttab_handle *handle, uint32_t count, xengnttab_grant_copy_segment_t *list)
{
	(void)handle;
	for (uint32_t i = 0; i < count; i++, list++) {
		bool out = list->flags == 2;
		union xengnttab_copy_ptr *theirs = out ? &list->dest : &list->source;
		uint32_t ref = theirs->foreign.ref;
		if (theirs->foreign.domid != 5 || theirs->foreign.offset + list->len > XBD_PAGE)
			die("a copy that leaves its page, of grant", ref);
		list->status = ref < 400 ? 0 : -3;
		if (list->status)
			continue;
		uint8_t *page = page_of(ref) + theirs->foreign.offset;
		memcpy(out ? page : list->dest.virt, out ? list->source.virt : page, list->len);
		copies++;
	}
	return 0;
}

/* ---- The guest ---- */

#define FRONT "/local/domain/5/device/vbd/51712/"
#define BACK "/local/domain/0/backend/vbd/5/51712/"

static _Atomic uint32_t *index_at(unsigned field)
{
	return (_Atomic uint32_t *)(void *)page_of(RING_REF) + field;
}

static uint32_t produced, consumed;

/* One request and its response: `count` pages from `ref` on, whole; more than 11 through the indirect page 100. */
static int ask(uint8_t operation, uint64_t sector, uint32_t ref, uint16_t count)
{
	uint8_t *entry = page_of(RING_REF) + 64 + produced % 32 * 112;
	bool indirect = count > 11;
	uint8_t *table = indirect ? page_of(100) : entry + 24;
	uint64_t id = UINT64_C(0x1122334400000000) + produced;
	char byte;
	int16_t status;

	memset(entry, 0, 112);
	memcpy(entry + 8, &id, 8);
	memcpy(entry + 16, &sector, 8);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t segment[2] = { ref + i, 7 << 8 };
		memcpy(table + 8 * i, segment, 8);
	}
	entry[0] = indirect ? 6 : operation;
	entry[1] = indirect ? operation : (uint8_t)count;
	if (indirect) {
		uint32_t page = 100;
		memcpy(entry + 2, &count, 2);
		memcpy(entry + 28, &page, 4);
	}
	atomic_store(index_at(0), ++produced);
	if (produced - atomic_load(index_at(1)) < 1 && write(to_backend[1], "e", 1) != 1)
		die("no event,", errno);
	for (;;) {
		atomic_store(index_at(3), consumed + 1);
		if (atomic_load(index_at(2)) != consumed)
			break;
		if (read(to_guest[0], &byte, 1) != 1)
			die("no notification,", errno);
	}
	entry = page_of(RING_REF) + 64 + consumed++ % 32 * 112;
	if (memcmp(entry, &id, 8) != 0)
		die("a response to another request than", (long)produced);
	memcpy(&status, entry + 10, 2);
	return status;
}

static void expect(int status, int wanted, const char *what)
{
	if (status != wanted) {
		fprintf(stderr, "mock: %s: status %d\n", what, status);
		exit(3);
	}
}

static void write_and_read(uint16_t count)
{
	uint8_t *written = page_of(200), *found = page_of(300);

	for (uint64_t sector = 0; sector + count * 8u <= SECTORS; sector += count * 8u) {
		for (size_t i = 0; i < count * (size_t)XBD_PAGE; i++)
			written[i] = (uint8_t)(i * 7 + (i >> 9) + sector + count);
		expect(ask(XBD_BLKIF_OP_WRITE, sector, 200, count), 0, "a write");
		expect(ask(XBD_BLKIF_OP_READ, sector, 300, count), 0, "a read");
		if (memcmp(written, found, count * (size_t)XBD_PAGE) != 0)
			die("other data than was written, at sector", (long)sector);
	}
}

static void wait_for_state(long state)
{
	while (get(BACK "state") != state)
		usleep(1000);
}

static void *guest(void *unused)
{
	wait_for_state(2);
	atomic_store(index_at(1), 1);
	put(FRONT "ring-ref", "7");
	put(FRONT "event-channel", "11");
	put(FRONT "protocol", "x86_64-abi");
	put(FRONT "state", "3");
	wait_for_state(4);
	if (get(BACK "sectors") != SECTORS)
		die("a disk of sectors:", get(BACK "sectors"));
	write_and_read(1);
	write_and_read(11);
	write_and_read(RUN);
	expect(ask(XBD_BLKIF_OP_FLUSH_DISKCACHE, 0, 0, 0), 0, "a flush");
	expect(ask(XBD_BLKIF_OP_READ, SECTORS, 300, 1), XBD_BLKIF_RSP_ERROR, "a read past the end");
	expect(ask(XBD_BLKIF_OP_WRITE, 0, 400, 1), XBD_BLKIF_RSP_ERROR, "a write from a page of nobody");
	expect(ask(XBD_BLKIF_OP_WRITE_BARRIER, 0, 200, 1), XBD_BLKIF_RSP_EOPNOTSUPP, "a barrier");
	put(FRONT "state", "5");
	wait_for_state(5);
	put(FRONT "state", "6");
	wait_for_state(6);
	printf("%u requests, %u copies, every byte right\n", produced, copies);
	return unused;
}

static pthread_t thread;

static void end(void)
{
	pthread_join(thread, NULL);
	if (mapped || bound)
		die("mapped or bound in the end:", mapped + bound);
}

/* Before main(), which is the backend's. */
__attribute__((constructor)) static void begin(void)
{
	if (pipe(watches) || pipe(to_backend) || pipe(to_guest) || pthread_create(&thread, NULL, guest, NULL))
		die("no pipes,", errno);
	atexit(end);
}
