/* engine/away.h - blocks whose content is on another host: who waits for them, and who brings them.
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

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ramfile;

#define AWAY_TOLD_MAX 256 /* blocks that are told at once */

/* What is wanted and was not told yet. *supplier 0: the caller becomes the supplier, and is given its number. Waits up
 * to wait_ns for a block to be wanted. *ret_away: blocks of the file that are away. -EBUSY: there is a newer supplier.
 */
int away_wanted(struct ramfile *file, uint64_t *supplier, uint64_t wait_ns, uint64_t *block, size_t most,
		size_t *ret_count, uint64_t *ret_away);
/* That supplier is gone. */
void away_leave(struct ramfile *file, uint64_t supplier);

/* --- inside the engine --- */

#define AWAY_RING 256U

/* Who wants what is away, and who brings it. Under the file's lock. */
struct away {
	pthread_cond_t wanted;    /* a block became wanted, or the supplier changed */
	uint32_t ring[AWAY_RING]; /* blocks that are wanted and were not told yet */
	unsigned int head, waiting;
	bool tell_all; /* the table says what is wanted, from next on */
	uint64_t next;
	uint64_t supplier;  /* 0: nobody */
	uint64_t suppliers; /* how many there were */
};

/* Under lock: the block, which is away and at rest, shall be brought. */
void away_want(struct ramfile *file, uint64_t block);

enum away_for { AWAY_FOR_CALL, AWAY_FOR_FILL, AWAY_FOR_WRITE_BACK };

/* Under lock, which is dropped meanwhile: waits until the block is at rest and not away. -EINTR (interrupt_on());
 * -EREMOTE: too many threads wait already for calls, which may fail; -EINVAL: the fill is to be refused now, see
 * cache_fill(). */
int away_wait(struct ramfile *file, uint64_t block, enum away_for what);
/* The same; it wants all up to last, which the caller needs next, meanwhile. */
int away_wait_run(struct ramfile *file, uint64_t block, uint64_t last, enum away_for what);
/* Under lock: blocks that are away and wanted. */
uint64_t away_count_wanted(const struct ramfile *file);
