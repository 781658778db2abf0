// The core's work in plain C: what `npm run bench:core` measures the core against (see main.ts).
//
// The same checks, states, tables and order of events as assembly/, so that both give the same bytes for the same
// ring; written as one would write it in C: structures and arrays, one thread, one file, compiled with -O2. abi.h is
// made from assembly/abi.ts. Leaves out what no pass runs through: trimming idle grants.
#include "peer.h"

// ---- State ----

enum { FREE, TAKEN, FETCHING, HELD, ADMITTED, MAPPING, COPYING, LOADED, BUSY, READ_DONE, COPYING_OUT, DONE, READY };
enum { MAPPED = 1, FAULT = 2, ALONE = 4, ACTIVE = 8, INDIRECT = 16, SECURE = 32, LARGE = 64, UNMAPPABLE = 128 };
enum { PAGE_PENDING = 1, PAGE_MAPPED, PAGE_FAILED };
#define NONE 0xffffu

struct request {
  uint8_t state, operation, flags, large;
  uint16_t segments, next;
  uint64_t id, sector, sectors;
  uint64_t order;
  uint16_t waits;
  int16_t status;
};
struct segment { uint32_t gref; uint8_t first, last; uint16_t page; };
struct iovec64 { uint64_t address, length; };
struct copy { uint64_t source, dest; uint16_t length, flags; int16_t status; uint16_t pad; };
struct io { uint8_t operation, flags; uint16_t iovecs; uint32_t length; uint64_t sector, sectors; uint16_t last, requests; uint32_t pad; };
struct map { uint32_t gref; uint16_t page; int16_t status; };
struct page { uint32_t gref, users; uint16_t state; bool touched; };
struct hash { uint32_t gref, page; };
struct entry { uint64_t index, state; uint8_t bytes[112]; };

static struct request requests[MAX_SLOTS];
static struct entry journal[MAX_SLOTS];
static uint16_t free_slots[MAX_SLOTS], pass[MAX_SLOTS], ready[MAX_SLOTS], free_large[MAX_LARGE];
static uint32_t free_count, pass_count, ready_count, large_count;
static uint16_t hazard_any[HAZARD_BUCKETS], hazard_writers[HAZARD_BUCKETS];
static uint64_t active_slots[MAX_SLOTS / 64], low, high, changing_low, changing_high;
static uint64_t admitted;
static uint32_t active, changing, barriers, held, wide;
static struct page pages[MAX_PERSISTENT];
static struct hash hashes[PERSISTENT_HASH_ENTRIES];
static uint16_t free_pages[MAX_PERSISTENT], owners[MAX_COPIES];
static uint32_t free_page_count, pages_used, maps, copies, ios;
static uint16_t answered[MAX_SLOTS];
static uint32_t answered_count;
/* Volatile, as the journal is what a process leaves behind that is killed between any two stores. */
static volatile uint64_t taken;
static uint32_t req_cons, rsp_prod, rsp_published;
static uint32_t open_read, open_write;
static bool in_round, halted, stalled;
static uint64_t counters[COUNTER_COUNT];
static struct config config;
static uint32_t stride, id_at, sector_at, body_at, grefs_at;

static uint32_t *shared(uint32_t at) { return (uint32_t *)(memory + at); }
static struct segment *segments_of(uint32_t slot) { return (struct segment *)(memory + SEGMENTS) + slot * MAX_SEGMENTS; }
static struct iovec64 *iovecs_of(uint32_t slot) { return (struct iovec64 *)(memory + IOVECS) + slot * IOVECS_PER_SLOT; }
static struct io *io_at(uint32_t slot) { return (struct io *)(memory + IOS) + slot; }
static struct copy *copy_at(uint32_t i) { return (struct copy *)(memory + COPIES) + i; }
static struct map *map_at(uint32_t i) { return (struct map *)(memory + MAPS) + i; }
static uint64_t load64(const uint8_t *from) { uint64_t value; memcpy(&value, from, 8); return value; }
static uint32_t load32(const uint8_t *from) { uint32_t value; memcpy(&value, from, 4); return value; }
static uint16_t load16(const uint8_t *from) { uint16_t value; memcpy(&value, from, 2); return value; }

void attach(const struct config *with) {
  config = *with;
  bool narrow = config.abi == ABI_X86_32;
  stride = narrow ? 108 : 112;
  id_at = narrow ? 4 : 8;
  sector_at = narrow ? 12 : 16;
  body_at = narrow ? 20 : 24;
  grefs_at = narrow ? 24 : 28;
  for (uint32_t i = 0; i < config.entries; i++) free_slots[i] = config.entries - 1 - i;
  for (uint32_t i = 0; i < MAX_LARGE; i++) free_large[i] = i;
  for (uint32_t i = 0; i < MAX_PERSISTENT; i++) free_pages[i] = MAX_PERSISTENT - 1 - i;
  free_count = config.entries;
  large_count = config.entries < MAX_LARGE ? config.entries : MAX_LARGE;
  free_page_count = MAX_PERSISTENT;
}

static void add_to_pass(uint32_t slot) { pass[pass_count++] = slot; }
static void add_to_ready(uint32_t slot) { ready[ready_count++] = slot; }

static void release_large(struct request *r) {
  if (!(r->flags & LARGE)) return;
  r->flags &= ~LARGE;
  free_large[large_count++] = r->large;
}

static uint32_t data_of(uint32_t slot, const struct request *r) {
  return r->flags & LARGE ? DATA_LARGE + r->large * DATA_LARGE_BYTES : DATA + slot * DATA_SMALL_BYTES;
}

// ---- Order ----

static bool changes(const struct request *r) { return r->operation != BLKIF_OP_READ && r->sectors != 0; }
static bool is_barrier(const struct request *r) { return r->operation == BLKIF_OP_WRITE_BARRIER; }
static bool is_flush(const struct request *r) { return r->operation == BLKIF_OP_FLUSH_DISKCACHE; }

static bool must_follow(const struct request *later, const struct request *earlier) {
  if (is_barrier(later) || is_barrier(earlier)) return true;
  if (is_flush(later) && changes(earlier)) return true;
  return (changes(later) || changes(earlier)) && later->sectors && earlier->sectors &&
         later->sector < earlier->sector + earlier->sectors && earlier->sector < later->sector + later->sectors;
}

static bool is_wide(const struct request *r) { return ((r->sector + r->sectors) >> 8) - (r->sector >> 8) >= 16; }

static bool may_conflict(const struct request *r) {
  if (!active) return false;
  if (barriers || is_barrier(r) || (is_flush(r) && changing)) return true;
  bool writer = changes(r);
  if (!r->sectors || (!writer && !changing)) return false;
  // Outside of all that is active, as the next request of a sequential stream is.
  uint64_t end = r->sector + r->sectors;
  if (writer ? r->sector >= high || end <= low : r->sector >= changing_high || end <= changing_low) return false;
  if (wide || is_wide(r)) return true;
  const uint16_t *table = writer ? hazard_any : hazard_writers;
  uint64_t last = (end - 1) >> 8;
  for (uint64_t bucket = r->sector >> 8; bucket <= last; bucket++)
    if (table[bucket % HAZARD_BUCKETS]) return true;
  return false;
}

static void note(const struct request *r, int by) {
  active += by;
  if (is_barrier(r)) barriers += by;
  if (!r->sectors) return;
  bool writer = changes(r);
  if (writer) changing += by;
  if (is_wide(r)) {
    wide += by;
    return;
  }
  uint64_t last = (r->sector + r->sectors - 1) >> 8;
  for (uint64_t bucket = r->sector >> 8; bucket <= last; bucket++) {
    hazard_any[bucket % HAZARD_BUCKETS] += by;
    if (writer) hazard_writers[bucket % HAZARD_BUCKETS] += by;
  }
}

static void widen(uint64_t *from, uint64_t *to, bool first, const struct request *r) {
  uint64_t end = r->sector + r->sectors;
  if (first || r->sector < *from) *from = r->sector;
  if (first || end > *to) *to = end;
}

static void admit(uint32_t slot, struct request *r) {
  uint16_t waits = 0;
  if (may_conflict(r))
    for (uint32_t word = 0; word < MAX_SLOTS / 64; word++)
      for (uint64_t left = active_slots[word]; left; left &= left - 1)
        if (must_follow(r, &requests[word * 64 + __builtin_ctzll(left)])) waits++;
  if (r->sectors) {
    widen(&low, &high, !active, r);
    if (changes(r)) widen(&changing_low, &changing_high, !changing, r);
  }
  note(r, 1);
  r->order = ++admitted;
  active_slots[slot / 64] |= 1ull << slot % 64;
  r->flags |= ACTIVE;
  r->waits = waits;
  r->state = waits ? HELD : ADMITTED;
  if (!waits) return;
  held++;
  counters[COUNT_HELD]++;
}

static void retire(struct request *r) {
  uint32_t slot = r - requests;
  active_slots[slot / 64] &= ~(1ull << slot % 64);
  r->flags &= ~ACTIVE;
  note(r, -1);
  if (!held) return;
  for (uint32_t word = 0; word < MAX_SLOTS / 64; word++)
    for (uint64_t left = active_slots[word]; left; left &= left - 1) {
      uint32_t s = word * 64 + __builtin_ctzll(left);
      struct request *other = &requests[s];
      if (other->state != HELD || other->order < r->order || !must_follow(other, r)) continue;
      if (--other->waits) continue;
      other->state = READY;
      held--;
      add_to_ready(s);
    }
}

// ---- Persistent grants ----

static uint32_t home_of(uint32_t gref) {
  uint64_t product = gref * 0x19e3779b97f4a7u;
  return (uint32_t)(product ^ (product >> 32)) >> 20;
}

static struct hash *find(uint32_t gref) {
  uint32_t at = home_of(gref);
  while (hashes[at].page && hashes[at].gref != gref) at = (at + 1) % PERSISTENT_HASH_ENTRIES;
  return &hashes[at];
}

static void drop_page(uint32_t page) {
  uint32_t hole = find(pages[page].gref) - hashes;
  for (uint32_t at = hole;;) {
    at = (at + 1) % PERSISTENT_HASH_ENTRIES;
    if (!hashes[at].page) break;
    uint32_t home = home_of(hashes[at].gref);
    if (((at - home) % PERSISTENT_HASH_ENTRIES) < ((at - hole) % PERSISTENT_HASH_ENTRIES)) continue;
    hashes[hole] = hashes[at];
    hole = at;
  }
  hashes[hole] = (struct hash){0, 0};
  pages[page].state = 0;
  pages_used--;
  free_pages[free_page_count++] = page;
}

static uint32_t use_page(uint32_t gref) {
  struct hash *hash = find(gref);
  if (hash->page) {
    struct page *known = &pages[hash->page - 1];
    if (known->state == PAGE_FAILED) return NONE;
    known->users++;
    known->touched = true;
    return hash->page - 1;
  }
  if (pages_used >= config.max_persistent) return NONE;
  uint32_t page = free_pages[--free_page_count];
  pages_used++;
  *hash = (struct hash){gref, page + 1};
  pages[page] = (struct page){gref, 1, PAGE_PENDING, true};
  *map_at(maps++) = (struct map){gref, page, -1};
  return page;
}

static void leave_page(uint32_t page) {
  if (--pages[page].users == 0 && pages[page].state == PAGE_FAILED) drop_page(page);
}

static void settle_maps(void) {
  for (uint32_t i = 0; i < maps; i++) {
    uint32_t page = map_at(i)->page;
    pages[page].state = map_at(i)->status == 0 ? PAGE_MAPPED : PAGE_FAILED;
    if (pages[page].state == PAGE_FAILED && !pages[page].users) drop_page(page);
  }
  counters[COUNT_MAPS] += maps;
  maps = 0;
}

// ---- Data ----

static bool room_for(uint32_t wanted) { return copies + wanted <= MAX_COPIES; }

static void add_copy(uint32_t slot, uint32_t gref, uint32_t offset, uint32_t local, uint32_t bytes, bool to_guest) {
  uint64_t grant = gref | (uint64_t)offset << 32 | (uint64_t)config.domid << 48;
  uint64_t address = config.base + local;
  *copy_at(copies) = (struct copy){to_guest ? address : grant, to_guest ? grant : address, bytes,
                                   to_guest ? COPY_DEST_GREF : COPY_SOURCE_GREF, -1, 0};
  owners[copies++] = slot;
}

static void copy_segments(uint32_t slot, const struct request *r, bool to_guest) {
  const struct segment *segment = segments_of(slot);
  uint32_t local = data_of(slot, r);
  for (uint32_t i = 0; i < r->segments; i++, segment++) {
    uint32_t bytes = (segment->last - segment->first + 1) * 512;
    add_copy(slot, segment->gref, segment->first * 512, local, bytes, to_guest);
    local += bytes;
  }
}

static void settle_copies(void) {
  for (uint32_t i = 0; i < copies; i++)
    if (copy_at(i)->status) requests[owners[i]].flags |= FAULT;
  counters[COUNT_COPIES] += copies;
  copies = 0;
}

enum { NO_ROOM, TO_BE_MAPPED, ALL_MAPPED };

static int use_segments(uint32_t slot, const struct request *r) {
  struct segment *segments = segments_of(slot);
  uint32_t hits = 0;
  for (uint32_t i = 0; i < r->segments; i++) {
    uint32_t page = use_page(segments[i].gref);
    if (page == NONE) {
      while (i-- > 0) leave_page(segments[i].page);
      return NO_ROOM;
    }
    segments[i].page = page;
    if (pages[page].state == PAGE_MAPPED) hits++;
  }
  counters[COUNT_PERSISTENT_HITS] += hits;
  return hits == r->segments ? ALL_MAPPED : TO_BE_MAPPED;
}

static void leave_segments(uint32_t slot, struct request *r) {
  if (!(r->flags & MAPPED)) return;
  r->flags &= ~MAPPED;
  for (uint32_t i = 0; i < r->segments; i++) leave_page(segments_of(slot)[i].page);
}

static bool all_mapped(uint32_t slot, const struct request *r) {
  for (uint32_t i = 0; i < r->segments; i++)
    if (pages[segments_of(slot)[i].page].state != PAGE_MAPPED) return false;
  return true;
}

static void copy_in(uint32_t slot, struct request *r) {
  if (r->operation == BLKIF_OP_READ) {
    r->state = LOADED;
  } else if (room_for(r->segments)) {
    copy_segments(slot, r, false);
    r->state = COPYING;
  }
}

static void mapped(struct request *r) {
  release_large(r);
  r->state = LOADED;
}

static void settle_mapping(uint32_t slot, struct request *r) {
  if (all_mapped(slot, r)) {
    mapped(r);
    return;
  }
  leave_segments(slot, r);
  r->flags |= UNMAPPABLE;
  r->state = ADMITTED;
  copy_in(slot, r);
}

static void place_data(uint32_t slot, struct request *r) {
  if (!r->segments) {
    r->state = LOADED;
    return;
  }
  bool persistent = config.features & FEATURE_PERSISTENT && !(r->flags & UNMAPPABLE);
  int found = persistent ? use_segments(slot, r) : NO_ROOM;
  if (found == NO_ROOM) {
    copy_in(slot, r);
    return;
  }
  r->flags |= MAPPED;
  r->state = MAPPING;
  if (found == ALL_MAPPED) mapped(r);
}

// ---- I/Os ----

static uint32_t append(struct iovec64 *table, uint32_t used, uint64_t address, uint32_t bytes) {
  if (used && table[used - 1].address + table[used - 1].length == address) {
    table[used - 1].length += bytes;
    return used;
  }
  table[used] = (struct iovec64){address, bytes};
  return used + 1;
}

static uint32_t add_iovecs(uint32_t lead, uint32_t used, uint32_t slot, const struct request *r) {
  struct iovec64 *table = iovecs_of(lead);
  if (!(r->flags & MAPPED)) return append(table, used, config.base + data_of(slot, r), (uint32_t)r->sectors << 9);
  const struct segment *segment = segments_of(slot);
  for (uint32_t i = 0; i < r->segments; i++, segment++)
    used = append(table, used, config.base + PERSISTENT + segment->page * PAGE + segment->first * 512,
                  (segment->last - segment->first + 1) * 512);
  return used;
}

static bool join(uint32_t lead, uint32_t slot, struct request *r) {
  struct io *io = io_at(lead);
  uint32_t bytes = (uint32_t)r->sectors << 9;
  if (io->sector + io->sectors != r->sector || io->length + bytes > config.max_io) return false;
  if (io->iovecs + (r->flags & MAPPED ? r->segments : 1u) > IOVECS_PER_SLOT) return false;
  io->iovecs = add_iovecs(lead, io->iovecs, slot, r);
  io->length += bytes;
  io->sectors += r->sectors;
  io_at(slot)->requests = 0;
  requests[io->last].next = slot;
  io->last = slot;
  io->requests++;
  counters[COUNT_MERGED]++;
  return true;
}

static void open_io(uint32_t slot, const struct request *r) {
  struct io *io = io_at(slot);
  bool discard = r->operation == BLKIF_OP_DISCARD;
  *io = (struct io){.sector = r->sector, .sectors = r->sectors, .last = slot, .requests = 1};
  if (r->operation == BLKIF_OP_READ) io->operation = IO_READ;
  else io->operation = discard ? IO_DISCARD : r->segments ? IO_WRITE : IO_FLUSH;
  if (discard) io->flags = r->flags & SECURE ? IO_SECURE : 0;
  else if (r->segments && is_flush(r)) io->flags = IO_PREFLUSH;
  else if (r->segments && is_barrier(r)) io->flags = IO_PREFLUSH | IO_FUA;
  if (r->segments) {
    io->length = (uint32_t)r->sectors << 9;
    io->iovecs = add_iovecs(slot, 0, slot, r);
  }
  ((uint16_t *)(memory + IO_LIST))[ios++] = slot;
  counters[COUNT_IOS]++;
}

static void plan(uint32_t slot, struct request *r) {
  bool reads = r->operation == BLKIF_OP_READ;
  bool joins = (reads || r->operation == BLKIF_OP_WRITE) && !(r->flags & ALONE);
  uint32_t *open = reads ? &open_read : &open_write;
  r->state = BUSY;
  if (joins && *open != NONE && join(*open, slot, r)) return;
  open_io(slot, r);
  if (joins) *open = slot;
}

// ---- Ends of requests ----

static void finish(struct request *r, int status) {
  if (r->flags & ACTIVE) retire(r);
  r->status = status;
  r->state = DONE;
}

static void answer(uint32_t slot, struct request *r) {
  leave_segments(slot, r);
  release_large(r);
  *(volatile uint64_t *)&journal[slot].state = JOURNAL_ANSWERED | (uint64_t)rsp_prod << 32;
  answered[answered_count++] = slot;
  uint8_t *to = memory + SRING_ENTRIES + (rsp_prod & (config.entries - 1)) * stride;
  memcpy(to, &r->id, 8);
  to[8] = r->operation;
  memcpy(to + 10, &r->status, 2);
  rsp_prod++;
  r->state = FREE;
}

static int status_of(const struct request *r, uint32_t result) {
  if (result == IO_RESULT_SUCCESS) return BLKIF_RSP_OKAY;
  counters[COUNT_IO_ERRORS]++;
  bool optional = is_flush(r) || is_barrier(r) || r->operation == BLKIF_OP_DISCARD;
  return optional && result == IO_RESULT_UNSUPPORTED ? BLKIF_RSP_EOPNOTSUPP : BLKIF_RSP_ERROR;
}

static void split(uint32_t slot, uint32_t left) {
  counters[COUNT_SPLITS]++;
  for (; left; left--, slot = requests[slot].next) {
    requests[slot].flags |= ALONE;
    requests[slot].state = LOADED;
    add_to_ready(slot);
  }
}

static void complete(uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    uint32_t slot = shared(COMPLETIONS)[i] & 0xffff, result = shared(COMPLETIONS)[i] >> 16;
    if (slot >= config.entries || requests[slot].state != BUSY) continue;
    uint32_t left = io_at(slot)->requests;
    if (!left) continue;
    if (result != IO_RESULT_SUCCESS && left > 1) {
      split(slot, left);
      continue;
    }
    for (; left; left--) {
      struct request *r = &requests[slot];
      uint32_t next = r->next;
      if (result == IO_RESULT_SUCCESS && r->operation == BLKIF_OP_READ && !(r->flags & MAPPED)) {
        r->state = READ_DONE;
        add_to_ready(slot);
        retire(r);
      } else {
        finish(r, status_of(r, result));
        answer(slot, r);
      }
      slot = next;
    }
  }
}

// ---- Decoding ----

static bool refuse(struct request *r, int status, int reason) {
  r->status = status;
  r->state = DONE;
  counters[reason]++;
  return false;
}

static bool decode_indirect(struct request *r, const uint8_t *copy) {
  r->operation = copy[1];
  if (!config.max_indirect) return refuse(r, BLKIF_RSP_EOPNOTSUPP, COUNT_BAD_OPERATION);
  if (r->operation > BLKIF_OP_WRITE) return refuse(r, BLKIF_RSP_ERROR, COUNT_BAD_OPERATION);
  uint16_t segments = load16(copy + 2);
  if (!segments || segments > config.max_indirect) return refuse(r, BLKIF_RSP_ERROR, COUNT_BAD_SEGMENTS);
  r->segments = segments;
  r->flags = INDIRECT;
  return true;
}

static bool decode_discard(struct request *r, const uint8_t *copy) {
  if (!(config.features & (FEATURE_DISCARD | FEATURE_READ_ONLY)))
    return refuse(r, BLKIF_RSP_EOPNOTSUPP, COUNT_BAD_OPERATION);
  r->sectors = load64(copy + body_at);
  if (config.features & FEATURE_SECURE_DISCARD && copy[1] & BLKIF_DISCARD_SECURE) r->flags = SECURE;
  return true;
}

static bool decode(uint32_t slot, struct request *r, const uint8_t *copy) {
  uint8_t operation = copy[0];
  r->flags = 0;
  r->operation = operation;
  r->id = load64(copy + id_at);
  r->sector = load64(copy + sector_at);
  r->sectors = 0;
  r->segments = 0;
  r->status = 0;
  if (operation == BLKIF_OP_INDIRECT) return decode_indirect(r, copy);
  if (operation == BLKIF_OP_DISCARD) return decode_discard(r, copy);
  if (operation > BLKIF_OP_FLUSH_DISKCACHE) return refuse(r, BLKIF_RSP_EOPNOTSUPP, COUNT_BAD_OPERATION);
  uint32_t needed = is_barrier(r) ? FEATURE_BARRIER : is_flush(r) ? FEATURE_FLUSH : 0;
  if ((config.features & needed) != needed) return refuse(r, BLKIF_RSP_EOPNOTSUPP, COUNT_BAD_OPERATION);
  uint8_t segments = copy[1];
  if (segments > MAX_DIRECT_SEGMENTS || (!segments && !needed))
    return refuse(r, BLKIF_RSP_ERROR, COUNT_BAD_SEGMENTS);
  r->segments = segments;
  memcpy(segments_of(slot), copy + body_at, segments * SEGMENT_BYTES);
  return true;
}

static uint32_t sum_segments(uint32_t slot, uint32_t count) {
  uint32_t total = 0, alignment = config.sector_units - 1;
  const struct segment *segment = segments_of(slot);
  for (uint32_t i = 0; i < count; i++, segment++) {
    uint32_t first = segment->first, last = segment->last;
    if (last > 7 || first > last || ((first | (last + 1)) & alignment)) return 0;
    total += last - first + 1;
  }
  return total;
}

static bool validate(uint32_t slot, struct request *r) {
  if (r->segments) {
    r->sectors = sum_segments(slot, r->segments);
    if (!r->sectors) return refuse(r, BLKIF_RSP_ERROR, COUNT_BAD_SEGMENTS);
  }
  if (config.features & FEATURE_READ_ONLY && r->operation != BLKIF_OP_READ &&
      (r->operation == BLKIF_OP_WRITE || r->operation == BLKIF_OP_DISCARD || r->sectors))
    return refuse(r, BLKIF_RSP_ERROR, COUNT_READ_ONLY);
  if (!r->sectors && r->operation != BLKIF_OP_DISCARD) return true;
  if (r->sector > config.sectors || r->sectors > config.sectors - r->sector)
    return refuse(r, BLKIF_RSP_ERROR, COUNT_BAD_RANGE);
  if ((r->sector | r->sectors) & (config.sector_units - 1)) return refuse(r, BLKIF_RSP_ERROR, COUNT_BAD_RANGE);
  counters[COUNT_SEGMENTS] += r->segments;
  if (r->operation == BLKIF_OP_READ) counters[COUNT_SECTORS_READ] += r->sectors;
  else if (r->operation != BLKIF_OP_DISCARD) counters[COUNT_SECTORS_WRITTEN] += r->sectors;
  return true;
}

// ---- The pass ----

static uint32_t req_prod(void) { return __atomic_load_n(shared(SRING_REQ_PROD), __ATOMIC_SEQ_CST); }

static void take_requests(void) {
  stalled = config.batch == 0;
  if (halted || stalled) return;
  uint32_t claimed = req_prod() - req_cons;
  halted = claimed > config.entries - (req_cons - rsp_published);
  if (halted) return;
  for (uint32_t left = claimed < config.batch ? claimed : config.batch; left; left--) {
    uint32_t slot = free_slots[--free_count];
    const uint8_t *from = memory + SRING_ENTRIES + (req_cons & (config.entries - 1)) * stride;
    uint8_t *copy = journal[slot].bytes;
    memcpy(copy, from, 104);
    memcpy(copy + stride - 8, from + stride - 8, 8);
    journal[slot].index = taken;
    bool large = copy[0] == BLKIF_OP_INDIRECT && load16(copy + 2) > MAX_DIRECT_SEGMENTS;
    if (large && !large_count) {
      free_slots[free_count++] = slot;
      stalled = true;
      return;
    }
    struct request *r = &requests[slot];
    req_cons++;
    *(volatile uint64_t *)&journal[slot].state = JOURNAL_BUSY;
    taken++;
    r->state = TAKEN;
    if (!decode(slot, r, copy)) {
      answer(slot, r);
      continue;
    }
    if (large) {
      r->large = free_large[--large_count];
      r->flags |= LARGE;
    }
    add_to_pass(slot);
  }
}

static void enter(uint32_t slot, struct request *r) {
  if (!validate(slot, r)) return;
  counters[r->operation == BLKIF_OP_DISCARD ? COUNT_DISCARD : COUNT_READ + r->operation]++;
  if (r->flags & INDIRECT) counters[COUNT_INDIRECT]++;
  if (r->operation == BLKIF_OP_DISCARD && !r->sectors) {
    finish(r, BLKIF_RSP_OKAY);
    return;
  }
  admit(slot, r);
  if (r->state == ADMITTED) place_data(slot, r);
}

static bool failed(struct request *r) {
  if (!(r->flags & FAULT)) return false;
  counters[COUNT_BAD_GRANT]++;
  finish(r, BLKIF_RSP_ERROR);
  return true;
}

static void advance(uint32_t slot, struct request *r, bool behind_fetch) {
  switch (r->state) {
    case TAKEN:
      if (!(r->flags & INDIRECT)) {
        if (!behind_fetch) enter(slot, r);
      } else if (room_for(1)) {
        uint32_t table = SEGMENTS + slot * MAX_SEGMENTS * SEGMENT_BYTES;
        add_copy(slot, load32(journal[slot].bytes + grefs_at), 0, table, r->segments * SEGMENT_BYTES, false);
        r->state = FETCHING;
      }
      return;
    case FETCHING:
      if (!behind_fetch && !failed(r)) enter(slot, r);
      return;
    case ADMITTED:
      place_data(slot, r);
      return;
    case MAPPING:
      settle_mapping(slot, r);
      return;
    case COPYING:
      if (!failed(r)) r->state = LOADED;
      return;
    case READ_DONE:
      if (!room_for(r->segments)) return;
      copy_segments(slot, r, true);
      r->state = COPYING_OUT;
      return;
    case COPYING_OUT:
      if (!failed(r)) finish(r, BLKIF_RSP_OKAY);
      return;
  }
}

static void advance_all(void) {
  bool fetching = false;
  for (uint32_t i = 0; i < pass_count; i++) {
    struct request *r = &requests[pass[i]];
    advance(pass[i], r, fetching);
    if (r->state == DONE) answer(pass[i], r);
    else if (r->state <= FETCHING && r->state != FREE) fetching = true;
  }
}

static bool publish(void) {
  *shared(OUT_REQ_CONS) = req_cons;
  *shared(OUT_RSP_PROD) = rsp_prod;
  uint32_t fresh = rsp_prod - rsp_published;
  if (!fresh) return false;
  counters[COUNT_RESPONSES] += fresh;
  counters[COUNT_PUSHES]++;
  __atomic_store_n(shared(SRING_RSP_PROD), rsp_prod, __ATOMIC_SEQ_CST);
  rsp_published = rsp_prod;
  for (uint32_t i = 0; i < answered_count; i++) {
    *(volatile uint64_t *)&journal[answered[i]].state = JOURNAL_FREE;
    free_slots[free_count++] = answered[i];
  }
  answered_count = 0;
  if (rsp_prod - __atomic_load_n(shared(SRING_RSP_EVENT), __ATOMIC_SEQ_CST) >= fresh) return false;
  counters[COUNT_NOTIFICATIONS]++;
  return true;
}

static bool final_check(void) {
  if (req_prod() != req_cons) return true;
  __atomic_store_n(shared(SRING_REQ_EVENT), req_cons + 1, __ATOMIC_SEQ_CST);
  return req_prod() != req_cons;
}

static int end_of_pass(void) {
  ios = 0;
  open_read = open_write = NONE;
  for (uint32_t i = 0; i < pass_count; i++)
    if (requests[pass[i]].state == LOADED) plan(pass[i], &requests[pass[i]]);
  pass_count = 0;
  *shared(OUT_IOS) = ios;
  int flags = ios ? STEP_IO : 0;
  if (halted) return flags | STEP_HALTED;
  return ready_count || (!stalled && final_check()) ? flags | STEP_MORE : flags;
}

int step(uint32_t completions) {
  if (in_round) {
    settle_maps();
    settle_copies();
  } else {
    complete(completions);
    for (uint32_t i = 0; i < ready_count; i++) {
      if (requests[ready[i]].state == READY) requests[ready[i]].state = ADMITTED;
      add_to_pass(ready[i]);
    }
    ready_count = 0;
    take_requests();
  }
  advance_all();
  in_round = copies || maps;
  *shared(OUT_COPIES) = copies;
  *shared(OUT_MAPS) = maps;
  int notify = publish() ? STEP_NOTIFY : 0;
  *shared(OUT_INFLIGHT) = config.entries - free_count;
  if (in_round) return (copies ? STEP_COPY : 0) | (maps ? STEP_MAP : 0) | notify;
  return end_of_pass() | notify;
}
