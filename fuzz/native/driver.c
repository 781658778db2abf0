/* libFuzzer's entry: plays its input as a session, and aborts where the player or the core traps. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"
#include "wasm-rt-impl.h"

static Z_session_instance_t session;
static uint8_t *input;
static size_t limit;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
  (void)argc;
  (void)argv;
  wasm_rt_init();
  Z_session_init_module();
  Z_session_instantiate(&session);
  input = Z_sessionZ_memory(&session)->data + Z_sessionZ_input(&session);
  limit = Z_sessionZ_inputBytes(&session);
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size > limit) return -1;
  memcpy(input, data, size);
  wasm_rt_trap_t trap = wasm_rt_impl_try();
  if (trap != 0) {
    uint32_t violation = Z_sessionZ_violated(&session);
    if (violation != 0)
      fprintf(stderr, "violation %u (assembly/session/format.ts)\n", violation);
    else
      fprintf(stderr, "the core trapped: %s\n", wasm_rt_strerror(trap));
    abort();
  }
  Z_sessionZ_begin(&session, (uint32_t)size);
  while (Z_sessionZ_next(&session)) continue;
  Z_sessionZ_finish(&session);
  return 0;
}
