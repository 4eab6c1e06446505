/* core/away.h - blocks whose content is on another host: who waits for them, and who brings them.
 *
 * Such a block is COLD, and its stored copy is a value without content (codec.h, CODEC_AWAY): by the page rule it has
 * content, which nobody here knows. A fault on it and a call that needs what is in it want it: the block's number is
 * told to the supplier, and the one who wants it waits until somebody settles the block, whatever it is then: the
 * supplier (an access_write() with TIERFS_BLOCK_AWAY), or one who replaces or discards all of it, and so needs nothing.
 * A fault costs no thread meanwhile: BLOCK_WAITERS stays set on the block at rest, and who settles it wakes the range.
 *
 * A supplier is a number: one at a time for each file, the newest. It is first told of every block that is wanted, then
 * of those that become so. Without a supplier all who wait go on waiting.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/ramfile.h"

#define AWAY_TOLD_MAX 256 /* blocks that are told at once */

/* What is wanted and was not told yet. *supplier 0: the caller becomes the supplier, and is given its number. Waits up
 * to wait_ns for a block to be wanted. *ret_away: blocks of the file that are away. -EBUSY: there is a newer supplier.
 */
int away_wanted(struct ramfile *file, uint64_t *supplier, uint64_t wait_ns, uint64_t *block, size_t most,
		size_t *ret_count, uint64_t *ret_away);
/* That supplier is gone. */
void away_leave(struct ramfile *file, uint64_t supplier);

/* Tells whether the request that the calling thread works on was given up; NULL: never. Its waits end with -EINTR then.
 */
typedef bool away_interrupted_fn(void *arg);
void away_on_interrupt(away_interrupted_fn *fn, void *arg);
