/* mem/heat.h - which blocks are idle: generations, zap rounds, and the choice of what to demote.
 *
 * A round has two halves. Zap: the page-table entries of every resident block of generation 0 are dropped in every
 * mapper (the pages stay in the arena; a later access maps them again). Look, some time later: a block that is mapped
 * again was in use and is of generation 0; one that stayed absent is one round older. A block of generation 1 or more
 * is never zapped again, so "absent since its zap" is exact: nothing but a zap removes an entry, and any use puts it
 * back. A KVM guest is seen as well: a zap reaches its second-level page tables, and its next access faults the page
 * in.
 *
 * Why it must be exact: a page into which a device is writing was mapped when the I/O began, and user space cannot see
 * the device's hold on it. Only a block that was absent for min_idle may be demoted. Where the kernel shows the hold, a
 * process that stands still is not zapped: its blocks grow older though they are mapped (map/still.h).
 *
 * No clock and no lock of its own: time comes in, the caller holds the lock of the file. Words as in the kernel's
 * multi-gen LRU (Documentation/admin-guide/mm/multigen_lru.rst): generation is age, tier is how often it came back.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/blocks.h"

#define HEAT_RING 256
#define HEAT_TIER_MAX 3

struct heat {
	uint64_t round;                  /* number of the last finished look; 0: none yet */
	uint64_t zap_done_ns[HEAT_RING]; /* when all mappers had acknowledged the zap of a round */
	uint64_t
		absent_ns[HEAT_RING]; /* the same by the round of the table (blocks.h) that ended it; 0: it was slept */
	uint64_t leave_age_256th;     /* generation at which blocks are demoted, averaged over 256; 0: none was */
};

/* First half: sets mark[i] for each block of [first, first + count) that must be zapped. Returns how many. */
uint64_t heat_mark(struct blocks *blocks, uint64_t first, uint64_t count, uint8_t *mark);
/* All mappers have acknowledged. */
void heat_zapped(struct heat *heat, uint64_t now_ns);

struct heat_seen {
	uint64_t returned; /* zapped blocks that were mapped again: each cost its owner a minor fault a page */
	uint64_t idle;     /* resident blocks that were not */
};
/* Second half, for a part of the file: used[i] as the mappers saw it. Parts of which nothing is in DRAM need no call.
 * heat_looked() once after the last part: all blocks grow older by it that were not seen in use, and the cold ones. */
void heat_look(struct blocks *blocks, uint64_t first, uint64_t count, const uint8_t *used, struct heat_seen *seen);
void heat_looked(struct heat *heat, struct blocks *blocks);
/* So many rounds were left out, because nobody needed them: blocks grew older all the same, but for those of which it
 * is not known since when they are idle. */
void heat_slept(struct heat *heat, struct blocks *blocks, uint64_t rounds);

/* The lowest generation whose blocks are known to have been absent for so long; above BLOCK_GENERATION_MAX: none. Those
 * of any above it were, too, up to the number of the round. */
unsigned int heat_idle_generation(const struct heat *heat, const struct blocks *blocks, uint64_t least_ns,
				  uint64_t now_ns);

/* The block was brought into DRAM, or was seen in use outside of a look. */
void heat_used(struct blocks *blocks, uint64_t block);
/* The same of a file that nobody maps, where nobody has to look: it grows older by itself from here on. */
void heat_begin(struct blocks *blocks, uint64_t block);
/* The file has slept for so many rounds, and will not any more, or the block leaves DRAM. If it is of generation 0 it
 * is that much older. */
void heat_wake(struct blocks *blocks, uint64_t block, uint64_t slept);
/* A cold block comes back: moves its tier up if a little more DRAM would have kept it, down if it was away for long. */
void heat_promoted(const struct heat *heat, struct blocks *blocks, uint64_t block);
/* A cold block counts from now on as one that came back once more. False: it is not cold, or counts for most. */
bool heat_favour(struct blocks *blocks, uint64_t block);
/* These were picked to make room: what "a little more DRAM" means is known from their age. */
void heat_leave(struct heat *heat, const struct blocks *blocks, const uint32_t *block, size_t count);

/* A generation that came from elsewhere (another host, a file, the time before an attach) proves nothing about a
 * resident block. It is kept as a guess beside the generation: as soon as one look has shown that the block is idle, it
 * is ranked as if it were that old; any use clears it. */
/* What to tell of the block's age, here or to another host: generation, or guess if that is older. 0 for a hole. */
uint8_t heat_age(const struct blocks *blocks, uint64_t block);
void heat_set_age(struct blocks *blocks, uint64_t block, uint8_t generation);
/* It is no longer known to be absent, and was not seen in use either: its generation is a guess from here on. */
void heat_doubt(struct blocks *blocks, uint64_t block);

struct heat_filter {
	uint64_t first, count; /* blocks */
	uint64_t min_idle_ns;
	uint64_t now_ns;
	uint64_t slept;     /* rounds for which nobody looked: blocks of generation 0 are taken for that old */
	bool mapped;        /* false: nobody maps the file attached, every resident block is idle */
	bool stored;        /* only those that have a stored copy */
	unsigned int older; /* if mapped: without a stored copy only if idle for so many rounds more than that */
	bool cached;        /* pick among the blocks that the kernel's page cache holds, instead of the resident ones */
};

/* Blocks are compared by class: a higher class is demoted first. It is the generation, halved for each
 * tier: a block that keeps coming back may stay unused for longer. Lowest tier first among equals. */
#define HEAT_CLASSES ((BLOCK_GENERATION_MAX + 1) * (HEAT_TIER_MAX + 1))

/* Adds the blocks of the whole table that may be demoted to in_class[], so that several files can be weighed together.
 * By what is counted, without a walk. With guesses there may be more of a class and above it than is said, never less;
 * the sum is right. Not for what is cached. */
void heat_census(const struct heat *heat, const struct blocks *blocks, const struct heat_filter *filter,
		 uint64_t in_class[static HEAT_CLASSES]);
/* The same by a walk over the part, and exact. */
void heat_count(const struct heat *heat, const struct blocks *blocks, const struct heat_filter *filter,
		uint64_t in_class[static HEAT_CLASSES]);
/* The highest class from which on upwards there are at least wanted blocks; 0 if there are fewer in all. */
unsigned int heat_threshold(const uint64_t in_class[static HEAT_CLASSES], uint64_t wanted);
/* The next part from first on, of at most so many blocks, that may have some of that class and above; false: there is
 * none. Not for what is cached. */
bool heat_next_part(const struct blocks *blocks, struct heat_filter *filter, unsigned int lowest_class, uint64_t first,
		    uint64_t most);
/* Picks at most max blocks of that class and above, ascending. Returns how many. */
size_t heat_pick(const struct heat *heat, struct blocks *blocks, const struct heat_filter *filter,
		 unsigned int lowest_class, uint32_t *ret, size_t max);

/* What heat_census() says is what a walk finds. Aborts if not. */
void heat_check(const struct heat *heat, const struct blocks *blocks, const struct heat_filter *filter);
