/* blkif-core.c, in a block of memory that is no larger than it has to be. */
#include <stdlib.h>
#include <string.h>

#include "blkif-core.h"
#include "instance.h"

static struct xbd_core core;
static uint8_t *memory;

uint8_t *allocate_memory(void)
{
	memory = aligned_alloc(XBD_PAGE, XBD_MEMORY_BYTES);
	if (!memory)
		abort();
	return memset(memory, 0, XBD_MEMORY_BYTES);
}

void free_memory(void)
{
	free(memory);
}

void begin_instance(void)
{
	/* What it keeps outside its memory is its own to begin with. */
	memset(&core, 0xa5, sizeof core);
	xbd_init(&core, memory, NULL);
}

int call_export(const char *name, int argument, int *result)
{
	if (strcmp(name, "version") == 0)
		*result = xbd_version(&core);
	else if (strcmp(name, "attach") == 0)
		*result = xbd_attach(&core);
	else if (strcmp(name, "recover") == 0)
		*result = xbd_recover(&core);
	else if (strcmp(name, "step") == 0)
		*result = xbd_step(&core, argument);
	else if (strcmp(name, "idle") == 0)
		*result = xbd_idle(&core);
	else if (strcmp(name, "trim") == 0)
		*result = xbd_trim(&core, argument);
	else
		return 0;
	return 1;
}
