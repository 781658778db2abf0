// A vhost-user-blk client in plain C: what `npm run bench` measures the daemon's client against, on the same server. One
// virtqueue, requests of one size from one buffer each, a kick by a system call where the event index asks for it, and nothing
// besides: no guest, no copy, no check of what the server says. It looks for answers for LOOK_US before it sleeps, as the
// guests of the benchmark do.
//
//     vhost SOCKET BLOCK_BYTES DEPTH READ_PERCENT SEQUENTIAL SECONDS LOOK_US
//
// Prints one line: operations, seconds, CPU seconds, then nanoseconds: mean, p50, p90, p99, p99.9, longest.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

// ---- The protocol's numbers: vhost-user.rst of QEMU, and the virtio specification ----

enum message {
  GET_FEATURES = 1, SET_FEATURES = 2, SET_OWNER = 3, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR = 9,
  SET_VRING_BASE = 10, SET_VRING_KICK = 12, SET_VRING_CALL = 13, GET_PROTOCOL_FEATURES = 15, SET_PROTOCOL_FEATURES = 16,
  SET_VRING_ENABLE = 18, GET_CONFIG = 24,
};
#define EVENT_INDEX (1ull << 29)
#define PROTOCOL_FEATURES (1ull << 30)
#define VERSION_1 (1ull << 32)
#define CONFIG (1ull << 9)
enum { NEXT = 1, WRITE = 2 };

struct header { uint32_t request, flags, size; };
struct descriptor { uint64_t address; uint32_t length; uint16_t flags, next; };
struct answer { uint32_t head, written; };
struct record { uint32_t type, reserved; uint64_t sector; uint8_t status; };

// ---- Shared memory ----

#define RING 1024u
#define BASE 0x100000000ull
#define DESCRIPTORS_A_REQUEST 3
#define MAX_DEPTH (RING / DESCRIPTORS_A_REQUEST)
#define MOST_DATA (64u << 20)

struct shared {
  struct descriptor descriptors[RING];
  uint16_t available_flags;
  _Atomic uint16_t available;
  uint16_t heads[RING];
  _Atomic uint16_t used_event;
  _Alignas(4096) uint16_t used_flags;
  _Atomic uint16_t used;
  struct answer answers[RING];
  _Atomic uint16_t available_event;
  _Alignas(4096) struct record records[MAX_DEPTH];
  _Alignas(1 << 21) uint8_t data[MOST_DATA];
};

static struct shared *shared;
static int server;

static uint64_t address_of(const volatile void *at) { return BASE + (uint64_t)((const volatile uint8_t *)at - (uint8_t *)shared); }

static void fail(const char *what) {
  perror(what);
  exit(1);
}

// ---- Messages ----

static void tell(enum message request, const void *payload, uint32_t size, int descriptor) {
  struct header header = {request, 1, size};
  struct iovec parts[] = {{&header, sizeof header}, {(void *)payload, size}};
  union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof(int))]; } control = {0};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
  if (descriptor >= 0) {
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), &descriptor, sizeof descriptor);
  }
  if (sendmsg(server, &message, 0) != (ssize_t)(sizeof header + size)) fail("sendmsg");
}

static void hear(void *payload, uint32_t size) {
  struct header header;
  if (recv(server, &header, sizeof header, MSG_WAITALL) != sizeof header) fail("recv");
  if (header.size != size || recv(server, payload, size, MSG_WAITALL) != (ssize_t)size) fail("an answer of another size");
}

static uint64_t ask(enum message request) {
  uint64_t value;
  tell(request, NULL, 0, -1);
  hear(&value, sizeof value);
  return value;
}

static void set(enum message request, uint64_t value, int descriptor) { tell(request, &value, sizeof value, descriptor); }

/// Connects, and makes the first queue known. Returns the disk's size in sectors of 512 bytes.
static uint64_t connect_to(const char *path, int kick, int call) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof name.sun_path) fail("the socket's path is too long");
  strcpy(name.sun_path, path);
  server = socket(AF_UNIX, SOCK_STREAM, 0);
  if (connect(server, (struct sockaddr *)&name, sizeof name) < 0) fail(path);
  uint64_t wanted = VERSION_1 | PROTOCOL_FEATURES | EVENT_INDEX;
  if ((ask(GET_FEATURES) & wanted) != wanted) fail("the server lacks the event index");
  set(SET_PROTOCOL_FEATURES, ask(GET_PROTOCOL_FEATURES) & CONFIG, -1);
  tell(SET_OWNER, NULL, 0, -1);
  set(SET_FEATURES, wanted, -1);
  struct { uint32_t offset, size, flags; uint64_t sectors; } __attribute__((packed)) config = {0, 8, 0, 0};
  tell(GET_CONFIG, &config, sizeof config, -1);
  hear(&config, sizeof config);

  int memory = memfd_create("bench", 0);
  if (memory < 0 || ftruncate(memory, sizeof *shared) < 0) fail("memfd_create");
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  if (shared == MAP_FAILED) fail("mmap");
  // One region: both of the protocol's kinds of address begin at BASE.
  struct { uint32_t regions, padding; uint64_t guest, size, user, offset; } table = {1, 0, BASE, sizeof *shared, BASE, 0};
  tell(SET_MEM_TABLE, &table, sizeof table, memory);

  set(SET_VRING_NUM, (uint64_t)RING << 32, -1);
  set(SET_VRING_BASE, 0, -1);
  struct { uint32_t index, flags; uint64_t descriptors, used, available, log; } ring = {
    0, 0, address_of(shared->descriptors), address_of(&shared->used_flags), address_of(&shared->available_flags), 0};
  tell(SET_VRING_ADDR, &ring, sizeof ring, -1);
  set(SET_VRING_CALL, 0, call);
  set(SET_VRING_KICK, 0, kick);
  set(SET_VRING_ENABLE, 1ull << 32, -1);
  // QEMU makes what it gets non-blocking, for us as well. It has done so when it answers.
  ask(GET_FEATURES);
  if (fcntl(call, F_SETFL, 0) < 0) fail("fcntl");
  return config.sectors;
}

// ---- Load ----

static uint64_t nanoseconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static struct { uint32_t block, depth, read_percent; bool sequential; } job;
static uint64_t blocks, next_block, started[MAX_DEPTH], state = 88172645463325252ull;
static uint16_t available;

static uint64_t random_number(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

static void put(uint32_t id, uint64_t now) {
  bool read = random_number() % 100 < job.read_percent;
  uint64_t block = job.sequential ? next_block++ % blocks : random_number() % blocks;
  struct record *record = &shared->records[id];
  *record = (struct record){read ? 0 : 1, 0, block * (job.block / 512), 0xff};
  struct descriptor *chain = &shared->descriptors[id * DESCRIPTORS_A_REQUEST];
  uint16_t head = (uint16_t)(id * DESCRIPTORS_A_REQUEST);
  chain[0] = (struct descriptor){address_of(record), 16, NEXT, (uint16_t)(head + 1)};
  chain[1] = (struct descriptor){address_of(shared->data + (size_t)id * job.block), job.block,
                                 (uint16_t)(NEXT | (read ? WRITE : 0)), (uint16_t)(head + 2)};
  chain[2] = (struct descriptor){address_of(&record->status), 1, WRITE, 0};
  shared->heads[available++ % RING] = head;
  started[id] = now;
}

/// Shows the server what was put on the ring since `before`, and wakes it if it wants that.
static void publish(uint16_t before, int kick) {
  atomic_store(&shared->available, available);
  uint16_t event = atomic_load(&shared->available_event);
  if ((uint16_t)(available - event - 1) >= (uint16_t)(available - before)) return;
  if (eventfd_write(kick, 1) < 0) fail("eventfd_write");
}

/// Returns when there are answers that were not `seen`.
static void wait_for_answers(uint16_t seen, int call, uint64_t look) {
  for (uint64_t end = nanoseconds() + look; atomic_load(&shared->used) == seen;) {
    if (look > 0 && nanoseconds() < end) continue;
    atomic_store(&shared->used_event, seen);
    if (atomic_load(&shared->used) != seen) return;
    eventfd_t value;
    if (eventfd_read(call, &value) < 0) fail("eventfd_read");
  }
}

// ---- Latency: buckets of a 64th of a power of two ----

#define FINE 6
static uint64_t histogram[64 << FINE], longest, total;

static void record_latency(uint64_t time) {
  uint32_t shift = time < (1 << FINE) ? 0 : 63 - (uint32_t)__builtin_clzll(time) - FINE;
  histogram[(shift << FINE) + (time >> shift)]++;
  total += time;
  if (time > longest) longest = time;
}

static uint64_t quantile(uint64_t operations, double part) {
  uint64_t seen = 0;
  for (uint32_t i = 0; i < 64 << FINE; i++) {
    seen += histogram[i];
    if (seen < (uint64_t)((double)operations * part)) continue;
    uint32_t shift = i < (2 << FINE) ? 0 : (i >> FINE) - 1;
    return (uint64_t)(i - (shift << FINE)) << shift;
  }
  return longest;
}

/// Runs until `end`, and until all is answered: the server writes to this memory. Returns how many ended in time.
static uint64_t run(uint64_t end, uint64_t look, int kick, int call) {
  uint64_t operations = 0;
  uint32_t running = job.depth;
  for (uint32_t id = 0; id < job.depth; id++) put(id, nanoseconds());
  publish(0, kick);
  for (uint16_t seen = 0; running > 0;) {
    wait_for_answers(seen, call, look);
    uint16_t used = atomic_load(&shared->used), before = available;
    uint64_t now = nanoseconds();
    for (; seen != used; seen++) {
      uint32_t id = shared->answers[seen % RING].head / DESCRIPTORS_A_REQUEST;
      if (shared->records[id].status != 0) exit(fprintf(stderr, "vhost: a request has failed\n") > 0);
      if (now >= end) {
        running--;
        continue;
      }
      operations++;
      record_latency(now - started[id]);
      put(id, now);
    }
    if (available != before) publish(before, kick);
  }
  return operations;
}

static double seconds_of(struct timeval time) { return (double)time.tv_sec + (double)time.tv_usec / 1e6; }

int main(int count, char **words) {
  if (count != 8) return fprintf(stderr, "vhost SOCKET BLOCK_BYTES DEPTH READ_PERCENT SEQUENTIAL SECONDS LOOK_US\n"), 2;
  job.block = (uint32_t)atoi(words[2]);
  job.depth = (uint32_t)atoi(words[3]);
  job.read_percent = (uint32_t)atoi(words[4]);
  job.sequential = atoi(words[5]) != 0;
  double seconds = atof(words[6]);
  if (job.depth == 0 || job.depth > MAX_DEPTH || (uint64_t)job.depth * job.block > MOST_DATA)
    return fprintf(stderr, "vhost: no room for so many requests of this size\n"), 2;
  int kick = eventfd(0, 0), call = eventfd(0, 0);
  blocks = connect_to(words[1], kick, call) / (job.block / 512);
  memset(shared->data, 0x5a, (size_t)job.depth * job.block);
  uint64_t operations = run(nanoseconds() + (uint64_t)(seconds * 1e9), (uint64_t)atoi(words[7]) * 1000, kick, call);
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf("%llu %.6f %.6f %llu", (unsigned long long)operations, seconds, seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime),
         (unsigned long long)(operations ? total / operations : 0));
  const double parts[] = {0.5, 0.9, 0.99, 0.999};
  for (uint32_t i = 0; i < 4; i++) printf(" %llu", (unsigned long long)quantile(operations, parts[i]));
  printf(" %llu\n", (unsigned long long)longest);
  return 0;
}
