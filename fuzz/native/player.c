/* What the player of sessions calls and fuzz/native does in its own way: the log is nobody's, and a violation the end. */
#include <stdio.h>
#include <stdlib.h>

/* Not in line in the player, which is not instrumented: uninstrumented.txt. */
#define APART __attribute__((noinline))
static APART uint32_t index_attach(struct xbd_core *core);
static APART uint32_t index_step(struct xbd_core *core, uint32_t n);
static APART uint32_t index_trim(struct xbd_core *core, uint32_t now);

#define ANY(bits) \
	static inline uint##bits##_t any_load##bits(const struct xbd_core *core, uint32_t at) \
	{ \
		uint##bits##_t value; \
		memcpy(&value, core->memory + at, sizeof value); \
		return value; \
	} \
	static inline void any_store##bits(const struct xbd_core *core, uint32_t at, uint##bits##_t value) \
	{ \
		memcpy(core->memory + at, &value, sizeof value); \
	}
ANY(8)
ANY(16)
ANY(32)
ANY(64)

static inline void any_fill(const struct xbd_core *core, uint32_t to, uint32_t value, uint32_t bytes)
{
	memset(core->memory + to, (int)value, bytes);
}

static inline void any_move(const struct xbd_core *core, uint32_t to, uint32_t from, uint32_t bytes)
{
	memmove(core->memory + to, core->memory + from, bytes);
}

#define session_log_line(core, word) ((void)(word))
#define session_log_field(core, value) ((void)(value))
#define session_log_signedField(core, value) ((void)(value))
#define session_log_endLine(core) ((void)0)
#define session_log_clearLog(core) ((void)0)
#define session_violation_clearViolation(core) ((void)0)

static inline void session_violation_check(const struct xbd_core *core, uint32_t good, uint32_t code)
{
	(void)core;
	if (good)
		return;
	fprintf(stderr, "violation %u (assembly/session/format.ts)\n", code);
	abort();
}

/* The player's loop over the ring, as the one call that it is in C: it was a third of the time. */
static inline void session_ring_compareRing(const struct xbd_core *core)
{
	const uint8_t *shadow = core->memory + XBD_MEMORY_BYTES;

	session_violation_check(core, memcmp(core->ring, shadow, core->session_ring_ringBytes) == 0, 1);
}
