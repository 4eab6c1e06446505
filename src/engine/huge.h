/* engine/huge.h - huge pages of an arena: made for fresh memory, taken apart when the budget comes near.
 *
 * Thread-safety: any thread unless it is said; without a lock unless it is said. A split that the kernel refuses is not
 * an error: the blocks stay in DRAM.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct mapper;
struct ramfile;

/* A file's part. */
struct huge {
	bool marked; /* under the file's lock: the arena may have huge pages, and says so to a later daemon */
	uint64_t next_split_ns; /* the scanner's thread only */
};

/* Called with the lock held, the block a HOLE and reserved. True: the unit was filled, maybe by a huge page, and the
 * lock is dropped. False: nothing was done. */
bool huge_zero_unit(struct ramfile *file, struct mapper *mapper, uint64_t block);
/* Splits the large pages of a run of blocks that the caller owns. held: what engine_look_holds() said of them, and says
 * then. */
void huge_split_blocks(struct ramfile *file, uint64_t first, uint64_t count, uint8_t *held);
/* Splits up to most huge units that overlap the range of blocks. Returns how many were. */
uint64_t huge_split_units(struct ramfile *file, uint64_t first, uint64_t count, uint64_t most);
/* The same for the file, a part at a time. True: there is more to do at once. Demoter thread only. */
bool huge_split_some(struct ramfile *file, uint64_t now_ns);
/* After the table was loaded: which units may be huge, by the mark of an earlier daemon. */
void huge_load(struct ramfile *file);
/* There may be huge pages in the arena, and nobody could tell: nothing of it may be demoted. */
bool huge_is_opaque(const struct ramfile *file);
