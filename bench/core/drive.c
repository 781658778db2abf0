// The guest and host around the C peer: host.ts in C. Reads a scenario (scenario.ts) from stdin, and writes either
// the transcript of everything the peer asked for and answered, or the median ns a request.
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "peer.h"

#define ENTRIES MAX_SLOTS
#define REQUEST 112
#define TABLE (MAX_SEGMENTS * SEGMENT_BYTES)
#define SAMPLES 100000

struct header { uint32_t record, features, batch, faults, tables, spans, budget_us, sectors; uint64_t base; };

uint8_t *memory;
static struct header header;
static uint8_t *tables;
static uint32_t produced;

static void read_all(void *to, size_t bytes) {
  if (fread(to, 1, bytes, stdin) != bytes) exit(2);
}

static void put(const void *from, size_t bytes) { fwrite(from, 1, bytes, stdout); }

static void put32(uint32_t value) { put(&value, 4); }

static uint32_t at32(uint32_t at) { return *(uint32_t *)(memory + at); }

static uint16_t *at16(uint32_t at) { return (uint16_t *)(memory + at); }

static int status_of(uint32_t gref) { return header.faults && gref % 37 == 5 ? -3 : 0; }

static void record(int flags) {
  put32(flags);
  put32(at32(OUT_INFLIGHT));
  if (flags & STEP_MAP) put(memory + MAPS, at32(OUT_MAPS) * MAP_BYTES);
  if (flags & STEP_COPY) {
    for (uint32_t i = 0; i < at32(OUT_COPIES); i++) put(memory + COPIES + i * COPY_BYTES, COPY_STATUS + 2);
  }
  if (!(flags & STEP_IO)) return;
  for (uint32_t i = 0; i < at32(OUT_IOS); i++) {
    uint32_t slot = at16(IO_LIST)[i];
    put32(slot);
    put(memory + IOS + slot * IO_BYTES, IO_LAST);
    uint32_t iovecs = *at16(IOS + slot * IO_BYTES + IO_IOVECS);
    put(memory + IOVECS + slot * IOVECS_PER_SLOT * IOVEC_BYTES, iovecs * IOVEC_BYTES);
  }
}

static void record_responses(uint32_t from) {
  for (; from != produced; from++) {
    const uint8_t *response = memory + SRING_ENTRIES + from % ENTRIES * REQUEST;
    put(response, 9);
    put(response + 10, 2);
  }
  put32(at32(SRING_REQ_EVENT));
}

// Carries grant copies out as far as the core can tell: statuses, and the segments of an INDIRECT.
static void perform_copies(uint32_t copies) {
  for (uint32_t i = 0; i < copies; i++) {
    uint8_t *copy = memory + COPIES + i * COPY_BYTES;
    uint64_t *sides = (uint64_t *)copy;
    uint32_t gref = *(uint16_t *)(copy + COPY_FLAGS) == COPY_DEST_GREF ? sides[1] : sides[0];
    *(int16_t *)(copy + COPY_STATUS) = status_of(gref);
    uint64_t local = sides[1] - header.base;
    if (local < SEGMENTS || local >= IOVECS) continue;
    memcpy(memory + local, tables + gref % header.tables * TABLE, *(uint16_t *)(copy + COPY_LENGTH));
  }
}

static void mark_copies(uint32_t copies) {
  for (uint32_t i = 0; i < copies; i++) *(int16_t *)(memory + COPIES + i * COPY_BYTES + COPY_STATUS) = 0;
}

static void perform_maps(uint32_t maps) {
  for (uint32_t i = 0; i < maps; i++)
    *(int16_t *)(memory + MAPS + i * MAP_BYTES + MAP_STATUS) = status_of(at32(MAPS + i * MAP_BYTES));
}

static uint32_t result_of(uint32_t slot) {
  return header.faults && at32(IOS + slot * IO_BYTES + IO_SECTOR) % 16 == 3 ? IO_RESULT_FAILURE : IO_RESULT_SUCCESS;
}

// Steps until the ring is at rest.
static void settle(void) {
  uint32_t completions = 0;
  int flags;
  do {
    flags = step(completions);
    if (header.record) record(flags);
    while (flags & (STEP_COPY | STEP_MAP)) {
      if (flags & STEP_MAP) perform_maps(at32(OUT_MAPS));
      if (flags & STEP_COPY) {
        if (header.record) perform_copies(at32(OUT_COPIES));
        else mark_copies(at32(OUT_COPIES));
      }
      flags = step(0);
      if (header.record) record(flags);
    }
    completions = flags & STEP_IO ? at32(OUT_IOS) : 0;
    const uint16_t *list = at16(IO_LIST);
    uint32_t *to = (uint32_t *)(memory + COMPLETIONS);
    for (uint32_t i = 0; i < completions; i++) to[i] = list[i] | result_of(list[i]) << 16;
  } while (completions || flags & STEP_MORE);
}

// Puts requests on the ring, then shows them a batch at a time; returns the ns that the latter took.
static double span(const uint8_t *requests, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    memcpy(memory + SRING_ENTRIES + (produced + i) % ENTRIES * REQUEST, requests + i * REQUEST, REQUEST);
  struct timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (uint32_t pushed = 0; pushed < count;) {
    uint32_t from = produced, batch = count - pushed < header.batch ? count - pushed : header.batch;
    pushed += batch;
    produced += batch;
    *(uint32_t *)(memory + SRING_REQ_PROD) = produced;
    settle();
    if (header.record) record_responses(from);
    *(uint32_t *)(memory + SRING_RSP_EVENT) = at32(SRING_RSP_PROD) + 1;
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  return (end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec);
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(void) {
  static double samples[SAMPLES];
  read_all(&header, sizeof header);
  uint32_t counts[header.spans];
  uint8_t *spans[header.spans];
  read_all(counts, sizeof counts);
  tables = malloc(header.tables * TABLE);
  read_all(tables, header.tables * TABLE);
  for (uint32_t i = 0; i < header.spans; i++) {
    spans[i] = malloc(counts[i] * REQUEST);
    read_all(spans[i], counts[i] * REQUEST);
  }
  memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return 2;
  *(uint32_t *)(memory + SRING_REQ_EVENT) = *(uint32_t *)(memory + SRING_RSP_EVENT) = 1;
  attach(&(struct config){.abi = ABI_X86_64, .entries = ENTRIES, .features = header.features, .domid = 7,
                          .sector_units = 1, .max_indirect = MAX_SEGMENTS, .max_io = MAX_IO, .batch = 64,
                          .max_persistent = 1056, .base = header.base, .sectors = header.sectors});
  span(spans[0], counts[0]);
  for (uint32_t slot = 0; slot < ENTRIES && !header.record; slot++) memcpy(memory + SEGMENTS + slot * TABLE, tables, TABLE);
  double spent = 0;
  uint32_t taken = 0;
  do {
    double total = 0, requests = 0;
    for (uint32_t i = 1; i < header.spans; i++) {
      total += span(spans[i], counts[i]);
      requests += counts[i];
    }
    if (header.record) return 0;
    samples[taken++] = total / requests;
    spent += total;
  } while (taken < SAMPLES && (taken < 5 || spent < header.budget_us * 1e3));
  qsort(samples, taken, sizeof samples[0], ascending);
  printf("%.3f\n", samples[taken / 2]);
}
