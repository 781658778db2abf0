#include <stdatomic.h>
#include <string.h>

/* Tables are little endian, and iovecs and copies carry native addresses of 64 bits. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "blkif-core: this machine is big endian: Xen runs on none that is"
#endif

#define CHECK(condition) _Static_assert(condition, #condition)
CHECK(XBD_MAX_RING_PAGES >= 1 && XBD_MAX_RING_PAGES <= 16 && (XBD_MAX_RING_PAGES & (XBD_MAX_RING_PAGES - 1)) == 0);
CHECK(XBD_MAX_SEGMENTS >= XBD_MAX_DIRECT_SEGMENTS && XBD_MAX_SEGMENTS <= 256);
CHECK(XBD_MAX_COPIES >= XBD_MAX_SEGMENTS && XBD_MAX_COPIES <= 4096 && XBD_MAX_COPIES % 4 == 0);
CHECK(XBD_MAX_PERSISTENT >= 1 && XBD_MAX_PERSISTENT <= 2048 && (XBD_MAX_PERSISTENT & (XBD_MAX_PERSISTENT - 1)) == 0);
CHECK(XBD_MAX_LARGE >= 1 && XBD_MAX_LARGE <= 64);
CHECK(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2);

/*
 * XBD_CHECKED, for tests, ends the program where an access leaves the memory, or where one that is not atomic reaches what
 * the guest can write.
 */
#ifdef XBD_CHECKED
#include <stdlib.h>
#define PRIVATE(at, bytes) ((uint64_t)(at) + (bytes) <= XBD_SRING ? (void)0 : abort())
#define SHARED(at, bytes) ((at) >= XBD_SRING && (uint64_t)(at) + (bytes) <= XBD_PERSISTENT ? (void)0 : abort())
#else
#define PRIVATE(at, bytes) ((void)0)
#define SHARED(at, bytes) ((void)0)
#endif

/* Memory of the core's and the host's alone. Through memcpy, because tables of 4 and of 8 bytes lie one behind the other. */
#define ACCESS(bits) \
	static inline uint##bits##_t load##bits(const struct xbd_core *core, uint32_t at) \
	{ \
		uint##bits##_t value; \
		PRIVATE(at, sizeof value); \
		memcpy(&value, core->memory + at, sizeof value); \
		return value; \
	} \
	static inline void store##bits(const struct xbd_core *core, uint32_t at, uint##bits##_t value) \
	{ \
		PRIVATE(at, sizeof value); \
		memcpy(core->memory + at, &value, sizeof value); \
	}
ACCESS(8)
ACCESS(16)
ACCESS(32)
ACCESS(64)

static inline void fill(const struct xbd_core *core, uint32_t to, uint32_t value, uint32_t bytes)
{
	PRIVATE(to, bytes);
	memset(core->memory + to, (int)value, bytes);
}

static inline void move(const struct xbd_core *core, uint32_t to, uint32_t from, uint32_t bytes)
{
	PRIVATE(to, bytes);
	PRIVATE(from, bytes);
	memmove(core->memory + to, core->memory + from, bytes);
}

static inline uint32_t count_trailing_zeros(uint64_t value)
{
#ifdef __GNUC__
	return (uint32_t)__builtin_ctzll(value);
#else
	uint32_t zeros = 0;

	for (; !(value & 1); value >>= 1)
		zeros++;
	return zeros;
#endif
}

/* ---- What others see while the core runs: assembly/shared.ts ---- */

static inline _Atomic uint32_t *shared32(const struct xbd_core *core, uint32_t at)
{
	SHARED(at, 4);
	return (_Atomic uint32_t *)(void *)(core->ring + (at - XBD_SRING));
}

/* An index of the ring. The order is that of ring.h's read, write and full barriers. */
static inline uint32_t shared_loadShared(const struct xbd_core *core, uint32_t at)
{
	return atomic_load_explicit(shared32(core, at), memory_order_seq_cst);
}

static inline void shared_storeShared(const struct xbd_core *core, uint32_t at, uint32_t value)
{
	atomic_store_explicit(shared32(core, at), value, memory_order_seq_cst);
}

/*
 * Words of a ring entry, each read once: the compiler may not look again, whatever the guest does (XSA-155). In words of 4
 * bytes, because entries of x86_32-abi are not aligned to more.
 */
static inline void shared_copyEntry4(const struct xbd_core *core, uint32_t to, uint32_t from)
{
	store32(core, to, atomic_load_explicit(shared32(core, from), memory_order_relaxed));
}

static inline void shared_copyEntry8(const struct xbd_core *core, uint32_t to, uint32_t from)
{
	shared_copyEntry4(core, to, from);
	shared_copyEntry4(core, to + 4, from + 4);
}

static inline void shared_copyEntry16(const struct xbd_core *core, uint32_t to, uint32_t from)
{
	shared_copyEntry8(core, to, from);
	shared_copyEntry8(core, to + 8, from + 8);
}

/* Never the padding between the fields (XSA-216). */
static inline void shared_storeResponse(const struct xbd_core *core, uint32_t to, uint64_t id, uint32_t operation,
	uint32_t status)
{
	uint8_t *response = core->ring + (to - XBD_SRING);

	SHARED(to, 12);
	atomic_store_explicit(shared32(core, to), (uint32_t)id, memory_order_relaxed);
	atomic_store_explicit(shared32(core, to + 4), (uint32_t)(id >> 32), memory_order_relaxed);
	atomic_store_explicit((_Atomic uint8_t *)(response + 8), (uint8_t)operation, memory_order_relaxed);
	atomic_store_explicit((_Atomic uint16_t *)(void *)(response + 10), (uint16_t)status, memory_order_relaxed);
}

/*
 * A store to the journal. Who recovers reads what this process has stored when it was killed, so it is the compiler that
 * must keep the order, and the word whole.
 */
static inline void shared_storeOrdered(const struct xbd_core *core, uint32_t at, uint64_t value)
{
	PRIVATE(at, sizeof value);
	atomic_signal_fence(memory_order_seq_cst);
	atomic_store_explicit((_Atomic uint64_t *)(void *)(core->memory + at), value, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
}
