/* A core, as replay.c wants it. */
#include <stdint.h>

/** XBD_MEMORY_BYTES that are zero, for all instances, one after the other. */
uint8_t *allocate_memory(void);
void free_memory(void);

/** Begins with a new instance. */
void begin_instance(void);

/** Calls an export, with an argument if it takes one. 0 if there is no such export. */
int call_export(const char *name, int argument, int *result);
