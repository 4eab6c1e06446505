/* engine/partial.h - resident blocks of which the arena has a part, and the stored copy the rest.
 *
 * 0 or -errno: -EIO the copy cannot be read, as of stored_fetch(); -ENOMEM. Called without a lock; they block on I/O.
 */
#pragma once

#include <stdint.h>

#include "engine/work.h"

struct ramfile;

/* Content of a RESIDENT block with BLOCK_PARTIAL, that the caller owns (passing state). */
int partial_read(struct ramfile *file, struct work *work, uint64_t block, void *plain);
/* Fills its absent pages from the stored copy, so that it is not partial any more. The caller owns it. */
int partial_complete(struct ramfile *file, struct work *work, uint64_t block);
/* The same for the whole file; a block whose copy cannot be read stays as it is. */
int partial_complete_all(struct ramfile *file);
