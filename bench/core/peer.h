// Between the C peer (peer.c) and the program around it (drive.c).
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "abi.h"

// The CONFIG_* fields of abi.ts.
struct config {
  uint32_t abi, entries, features, domid, sector_units, max_indirect, max_io, batch, max_persistent;
  uint64_t base, sectors;
};

// Where the core has its linear memory: the ring, and the tables between core and host, at abi.ts's offsets.
extern uint8_t *memory;

void attach(const struct config *config);
int step(uint32_t completions);
