/*
 * libFuzzer's entry: plays its input as a session. The core is the one of scripts/build-c.mjs with small tables, in the same
 * text as the player; one block of memory serves all inputs, and only what a session begins with is set again.
 */
#include "player-and-core.c"

#include "mutate.c"

/* Everything above the player's own tables: INPUT of assembly/session/memory.ts. Longer inputs are not played. */
#define INPUT session_index_input()
#define LONGEST 65536

static struct xbd_core core;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	void *memory;
	/* No larger than what is used, so that the address sanitizer sees what lies behind. */
	if (posix_memalign(&memory, XBD_PAGE, INPUT + LONGEST) != 0)
		abort();
	memset(memory, 0, INPUT + LONGEST);
	xbd_init(&core, memory, NULL);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > LONGEST)
		return -1;
	memcpy(core.memory + INPUT, data, size);
	session_play_begin(&core, (uint32_t)size);
	while (session_play_next(&core))
		continue;
	session_play_finish(&core);
	return 0;
}
