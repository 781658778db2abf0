/* Compiled by header.test.ts: the generated header is complete, and its numbers fit each other and the world. */
#include <stddef.h>
#include <stdint.h>
#include "blkif-core.h"
#include "blkif-core.h"

#define CHECK(condition) _Static_assert(condition, #condition)

CHECK(XBD_ABI_VERSION >= 1);

/* blkif.h and ring.h. */
CHECK(XBD_BLKIF_OP_READ == 0 && XBD_BLKIF_OP_DISCARD == 5 && XBD_BLKIF_OP_INDIRECT == 6);
CHECK(XBD_BLKIF_RSP_OKAY == 0 && XBD_BLKIF_RSP_ERROR == -1 && XBD_BLKIF_RSP_EOPNOTSUPP == -2);
CHECK(-XBD_BLKIF_RSP_ERROR == 1);
CHECK(XBD_SRING_RSP_PROD - XBD_SRING == 8 && XBD_SRING_ENTRIES - XBD_SRING == 64);

/* Flags are bits of their own. */
CHECK((XBD_STEP_COPY | XBD_STEP_MAP | XBD_STEP_IO | XBD_STEP_NOTIFY | XBD_STEP_MORE | XBD_STEP_HALTED) == 63);
CHECK((XBD_FEATURE_READ_ONLY ^ XBD_FEATURE_FLUSH ^ XBD_FEATURE_BARRIER ^ XBD_FEATURE_DISCARD ^
       XBD_FEATURE_SECURE_DISCARD ^ XBD_FEATURE_PERSISTENT) == 63);

/* Tables have the alignment of what is in them, and windows that of pages. */
CHECK(XBD_CONFIG_BASE % 8 == 0 && XBD_CONFIG_SECTORS % 8 == 0 && XBD_COUNTERS % 8 == 0);
CHECK(XBD_IOS % 8 == 0 && XBD_IOVECS % 8 == 0 && XBD_COPIES % 8 == 0 && XBD_MAPS % 4 == 0);
CHECK(XBD_JOURNAL % XBD_PAGE == 0 && XBD_JOURNAL_ENTRIES % XBD_PAGE == 0);
CHECK(XBD_DATA % XBD_PAGE == 0 && XBD_DATA_LARGE % XBD_PAGE == 0);
CHECK(XBD_SRING % XBD_PAGE == 0 && XBD_PERSISTENT % XBD_PAGE == 0 && XBD_MEMORY_BYTES % 65536 == 0);

/* What the guest can write lies above all that the core trusts. */
CHECK(XBD_TABLES_END <= XBD_DATA && XBD_DATA < XBD_SRING && XBD_SRING < XBD_PERSISTENT);
CHECK(XBD_MEMORY_BYTES - XBD_PERSISTENT == XBD_MAX_PERSISTENT * XBD_PAGE);

/* The prototypes are there, with these types. */
int32_t (*const without[])(void) = { xbd_version, xbd_attach };
int32_t (*const with[])(int32_t) = { xbd_step, xbd_trim };
