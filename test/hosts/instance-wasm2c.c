/* blkif-plain.wasm, of which wasm2c made C. */
#include <stdint.h>
#include <string.h>

#include "blkif-core.h"
#include "blkif.h"
#include "instance.h"

struct Z_env_instance_t {
	wasm_rt_memory_t memory;
};

wasm_rt_memory_t *Z_envZ_memory(struct Z_env_instance_t *env)
{
	return &env->memory;
}

static struct Z_env_instance_t env;
static Z_blkif_instance_t core;

uint8_t *allocate_memory(void)
{
	wasm_rt_init();
	Z_blkif_init_module();
	wasm_rt_allocate_memory(&env.memory, XBD_MEMORY_BYTES / 65536, XBD_MEMORY_BYTES / 65536);
	return env.memory.data;
}

void free_memory(void)
{
	wasm_rt_free_memory(&env.memory);
}

void begin_instance(void)
{
	Z_blkif_instantiate(&core, &env);
}

int call_export(const char *name, int argument, int *result)
{
	if (strcmp(name, "version") == 0)
		*result = (int)Z_blkifZ_version(&core);
	else if (strcmp(name, "attach") == 0)
		*result = (int)Z_blkifZ_attach(&core);
	else if (strcmp(name, "step") == 0)
		*result = (int)Z_blkifZ_step(&core, (u32)argument);
	else if (strcmp(name, "trim") == 0)
		*result = (int)Z_blkifZ_trim(&core, (u32)argument);
	else
		return 0;
	return 1;
}
