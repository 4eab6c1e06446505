/* mem/blocks.h - the table of one RAM file: state, flags, age and stored copy of every block.
 *
 * The table is anonymous memory in which a hole costs nothing (all-zero entries are never touched). It is a plain
 * array: every access happens under the lock of the file that owns it.
 *
 * States. A block is at rest in HOLE, COLD or RESIDENT. LOADING, STORING and UPDATING are passing states: exactly one
 * thread owns the block, works on it without a lock, and ends the state. Everybody else waits (or sets BLOCK_WAITERS
 * and is woken).
 *
 *   HOLE      no bytes anywhere: not in the arena, and no key in the store (but for BLOCK_STORED, left by a write that
 *             failed)
 *   COLD      the only copy is in the store
 *   RESIDENT  in the arena; a key in the store may exist (BLOCK_STORED) and may be out of date
 *   LOADING   HOLE or COLD on the way to RESIDENT: the arena is being filled
 *   STORING   RESIDENT on the way to COLD or HOLE: write-protected, being copied. A write fault takes it back to
 *             RESIDENT until BLOCK_COMMITTING is set; after that it will be punched
 *   UPDATING  was in any state at rest: changed or looked at in place by a read, write or discard of the daemon
 *
 *   from \ to   HOLE            COLD              RESIDENT            LOADING   STORING  UPDATING
 *   HOLE        -               -                 -                   fault     -        write, discard
 *   COLD        -               -                 -                   fault     -        write, discard
 *   RESIDENT    -               -                 -                   -         demote   write, discard, late fault
 *   LOADING     failed (hole)   failed (cold)     filled              -         -        -
 *   STORING     punched (zero)  punched           cancelled, failed   -         -        cancelled by a fault
 *   UPDATING    discarded       direct write      written             -         -        -
 *
 * blocks_set_state() asserts this table. Who makes each transition, as FILE: FUNCTION, of engine/. All end by
 * file_settle().
 *
 *   HOLE to LOADING      fault: zero_run(); huge: huge_zero_unit(), a whole unit
 *   COLD to LOADING      fault: cold_fault(); load: begin_load(), for read-ahead and promotion
 *   RESIDENT to STORING  demote: take()
 *   any to UPDATING      file: file_begin_update(), for write, resize; batch: batch_take(), for write_run, clone,
 *                        access_write; cache: take_for_write_back()
 *   COLD to UPDATING     access_read: read_alone(); read: missing_copy()
 *   RESIDENT to UPDATING fault: refresh(); huge: take_unit(); partial: partial_complete_at_rest()
 *   STORING to UPDATING  fault: refresh(); cache: take_for_write_back(). The batch loses the block
 *   out of LOADING       fault: zero_run(), load_one(); load: end_load(); huge: huge_zero_unit()
 *   out of STORING       demote: finish()
 *   out of UPDATING      file: file_end_update(), for most; write: discard_run(); batch: batch_settle();
 *                        huge: give_back(); fault: refresh(); cache: write_back_block()
 *
 * Flags beside the states. x: may be set; !: is set; -: never.
 *
 *               HOLE  COLD  RESIDENT  LOADING  STORING  UPDATING
 *   WAITERS     -     away  owned     x        x        x         at rest: of what is away, or OWNED
 *   PINNED      x     x     x         x        x        x
 *   OWNED       -     -     x         -        x        x
 *   COMMITTING  -     -     -         -        x        -
 *   STORED      x     !     x         x        x        x
 *   PARTIAL     -     -     x         x        x        x         only with STORED: engine/partial.h
 *   away        -     x     -         x        -        x         BLOCK_AWAY_BYTES
 *   DAMAGED     x     x     x         x        x        x         of the stored copy, whatever the block is
 *   ZAPPED      x     x     x         x        x        x         has a meaning from a zap to its look
 *   CACHED      x     x     x         x        x        x         says what the kernel has, not what is here
 *   HUGE        x     x     x         x        x        x         of the first block of a unit
 *   POISONED    x     x     x         x        x        x         says what processes have, not what is here
 *
 * blocks_check() knows the first seven rows.
 *
 * The summary. A file may have far more address space than content, so nobody walks the whole table: the summary
 * counts, for each chunk of blocks and for each group of chunks, those of every kind below, and blocks_next() and
 * blocks_next_part() skip what has none. A walk costs what it meets, and a step for each group.
 *
 * Ages. A block does not grow older by being visited: it has the round at which its age began, and rounds are counted
 * for the whole table. Blocks that may be demoted, as far as the table knows, are counted by that round (struct
 * blocks_ages) where state, flag, tier or age change, so that nobody walks a table to learn how many there are of an
 * age. mem/heat.h says what ages mean.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ident.h"

enum block_state {
	BLOCK_HOLE,
	BLOCK_COLD,
	BLOCK_RESIDENT,
	BLOCK_LOADING,
	BLOCK_STORING,
	BLOCK_UPDATING,
};
#define BLOCK_STATES 6

/* Flags of a block, beside its state. */
#define BLOCK_WAITERS (1U << 3)    /* somebody waits for the passing state to end */
#define BLOCK_PINNED (1U << 4)     /* never demoted */
#define BLOCK_OWNED (1U << 5)      /* a demotion batch holds it, also after it was cancelled */
#define BLOCK_DAMAGED (1U << 6)    /* its stored copy failed its checksum */
#define BLOCK_STORED (1U << 7)     /* a key in the store may exist */
#define BLOCK_ZAPPED (1U << 8)     /* its page-table entries were dropped in the last zap round */
#define BLOCK_COMMITTING (1U << 9) /* STORING that can not be cancelled any more */
#define BLOCK_TIER_SHIFT 10
#define BLOCK_TIER_MASK (3U << BLOCK_TIER_SHIFT)
#define BLOCK_PARTIAL (1U << 12)  /* resident, and its absent pages are in the stored copy */
#define BLOCK_CACHED (1U << 13)   /* the kernel's page cache may hold pages of it (a plain mapping) */
#define BLOCK_HUGE (1U << 14)     /* the 2 MiB that begin here may be a huge page, or may have been one */
#define BLOCK_POISONED (1U << 15) /* a process may be poisoned where it maps the block (engine/heal.h) */
#define BLOCK_STATE_MASK 7U
#define BLOCK_TIERS 4
#define BLOCK_KEPT (BLOCK_PINNED | BLOCK_OWNED | BLOCK_DAMAGED)

/* A stored copy of this length says that the content is away: on another host, to come later. */
#define BLOCK_AWAY_BYTES 32U

#define BLOCK_GENERATION_MAX 255
#define BLOCKS_FIRST_ROUND 1024
/* Rounds are counted up to here and then from below again, so that the distance of two of them never wraps. */
#define BLOCKS_LAST_ROUND (UINT32_C(1) << 30)

#define BLOCKS_CHUNK UINT64_C(1024)                  /* blocks */
#define BLOCKS_GROUP (UINT64_C(1024) * BLOCKS_CHUNK) /* blocks */

enum blocks_kind {
	BLOCKS_USED,    /* chunks that ever had a block that says something; all others are holes without a flag */
	BLOCKS_IN_DRAM, /* blocks that are neither HOLE nor COLD */
	BLOCKS_CACHED,  /* with BLOCK_CACHED */
	BLOCKS_HUGE,    /* with BLOCK_HUGE */
	BLOCKS_FREE,    /* blocks that may be demoted if they are idle: RESIDENT, and none of BLOCK_KEPT */
	BLOCKS_IDLE,    /* those of them of which the age has begun */
};
#define BLOCKS_KINDS 6

struct blocks_chunk {
	uint16_t count[BLOCKS_KINDS];
	uint32_t oldest; /* none of its BLOCKS_FREE is taken for older than if its age had begun at this round */
};

struct blocks_group {
	uint32_t count[BLOCKS_KINDS];
};

/* Round r is counted in slot r % BLOCKS_AGES. What is BLOCK_GENERATION_MAX rounds old or older is in the last one. */
#define BLOCKS_AGES 256
#define BLOCKS_OLD BLOCKS_AGES

/* How many BLOCKS_FREE there are, by tier and the round at which their age began. Memory that is touched where it says
 * something. */
struct blocks_ages {
	uint32_t young[BLOCK_TIERS]; /* of generation 0 */
	uint32_t idle[BLOCKS_AGES + 1][BLOCK_TIERS];
	/* Those with a guess: of generation 0, by the guess; the others by the round at which their age would have
	 * begun by it, and, once more, at which it did. */
	uint32_t young_guess[BLOCKS_AGES][BLOCK_TIERS];
	uint32_t idle_guess[BLOCKS_AGES + 1][BLOCK_TIERS];
	uint32_t idle_proof[BLOCKS_AGES + 1];
};

struct blocks {
	uint16_t *word;             /* state and flags */
	uint32_t *born;             /* round at which its age began; 0: it is of generation 0 until somebody says so */
	uint8_t *guess;             /* rounds that a resident block is taken to be older once it is seen idle */
	struct tierfs_ident *ident; /* of the stored copy's content */
	uint32_t *stored_bytes;     /* length of the stored copy; 0: none */
	struct blocks_chunk *chunk; /* the summary */
	struct blocks_group *group;
	struct blocks_ages *ages;
	uint32_t rounds;   /* scans of the file, counted from BLOCKS_FIRST_ROUND on, so that no age begins at 0 */
	uint64_t count;    /* blocks in the file */
	uint64_t capacity; /* entries that the arrays hold */
	uint64_t in_state[BLOCK_STATES]; /* how many blocks are in each state */
	uint64_t pinned, cached, huge;   /* blocks with the flag */
	uint64_t guesses;                /* BLOCKS_FREE with a guess */
	uint64_t away;                   /* blocks whose content is away */
	uint64_t stored_total_bytes;     /* sum of stored_bytes */
};

int blocks_init(struct blocks *blocks, uint64_t count);
void blocks_fini(struct blocks *blocks); /* takes a zeroed struct */
/* Blocks beyond a smaller count must be holes. -ENOMEM: nothing changed. */
int blocks_resize(struct blocks *blocks, uint64_t count);

static inline enum block_state blocks_state(const struct blocks *blocks, uint64_t block)
{
	return (enum block_state)(blocks->word[block] & BLOCK_STATE_MASK);
}

/* A hole that has no key either. */
static inline bool blocks_empty(const struct blocks *blocks, uint64_t block)
{
	return !(blocks->word[block] & (BLOCK_STATE_MASK | BLOCK_STORED));
}

static inline bool blocks_passing(const struct blocks *blocks, uint64_t block)
{
	return blocks_state(blocks, block) >= BLOCK_LOADING;
}

static inline bool blocks_has(const struct blocks *blocks, uint64_t block, unsigned int flag)
{
	return blocks->word[block] & flag;
}

/* It may be demoted if it is idle. */
static inline bool blocks_free(const struct blocks *blocks, uint64_t block)
{
	return (blocks->word[block] & (BLOCK_STATE_MASK | BLOCK_KEPT)) == BLOCK_RESIDENT;
}

/* State, flags and tier at once. */
void blocks_set_word(struct blocks *blocks, uint64_t block, unsigned int word);

static inline void blocks_set(struct blocks *blocks, uint64_t block, unsigned int flags)
{
	if (flags & BLOCK_KEPT)
		blocks_set_word(blocks, block, blocks->word[block] | flags);
	else
		blocks->word[block] |= (uint16_t)flags;
}

static inline void blocks_clear(struct blocks *blocks, uint64_t block, unsigned int flags)
{
	if (flags & BLOCK_KEPT)
		blocks_set_word(blocks, block, blocks->word[block] & ~flags);
	else
		blocks->word[block] &= (uint16_t)~flags;
}

/* Only cold blocks are, and those that a thread owns and found cold. Who waits for one sets BLOCK_WAITERS, also at
 * rest. */
static inline bool blocks_away(const struct blocks *blocks, uint64_t block)
{
	return blocks->stored_bytes[block] == BLOCK_AWAY_BYTES;
}

static inline uint8_t blocks_tier(const struct blocks *blocks, uint64_t block)
{
	return (uint8_t)((blocks->word[block] & BLOCK_TIER_MASK) >> BLOCK_TIER_SHIFT);
}

static inline void blocks_set_tier(struct blocks *blocks, uint64_t block, uint8_t tier)
{
	blocks_set_word(blocks, block,
			(blocks->word[block] & ~BLOCK_TIER_MASK) | ((unsigned int)tier << BLOCK_TIER_SHIFT));
}

/* Changes the state along the table above. */
void blocks_set_state(struct blocks *blocks, uint64_t block, enum block_state state);
/* Sets the state without regard to the table: for rebuilding after a start. */
void blocks_place(struct blocks *blocks, uint64_t block, enum block_state state);
/* Records what the store holds for the block now; length 0: no key. */
void blocks_set_stored(struct blocks *blocks, uint64_t block, uint32_t length_bytes, struct tierfs_ident ident);
void blocks_set_pinned(struct blocks *blocks, uint64_t block, bool on);
void blocks_set_cached(struct blocks *blocks, uint64_t block, bool on);
void blocks_set_huge(struct blocks *blocks, uint64_t block, bool on);

/* The first block from there on whose chunk has some of the kind; the table's count if there is none. */
uint64_t blocks_next(const struct blocks *blocks, uint64_t block, enum blocks_kind kind);
/* The same, and how many blocks from there on lie in neighbouring chunks like that, at most that many. False: none. */
bool blocks_next_part(const struct blocks *blocks, uint64_t block, enum blocks_kind kind, uint64_t most,
		      uint64_t *ret_first, uint64_t *ret_count);
/* Rounds since its age began; saturates. */
static inline uint8_t blocks_generation(const struct blocks *blocks, uint64_t block)
{
	uint32_t born = blocks->born[block], age = blocks->rounds - born;

	return !born ? 0 : age < BLOCK_GENERATION_MAX ? (uint8_t)age : BLOCK_GENERATION_MAX;
}

/* The round at which its age began, as far as it is known or guessed. */
static inline uint32_t blocks_older_round(const struct blocks *blocks, uint64_t block)
{
	return (blocks->born[block] ? blocks->born[block] : blocks->rounds) - blocks->guess[block];
}

/* For heat.h: its age began at that round, or 0, and it is taken for so many rounds older. */
void blocks_set_age(struct blocks *blocks, uint64_t block, uint32_t born, uint8_t guess);
/* So many rounds have gone by. Once in BLOCKS_LAST_ROUND of them a walk over all that is used; what is older than
 * generations reach is as old as they reach from then on. */
void blocks_add_rounds(struct blocks *blocks, uint32_t rounds);
/* None of the BLOCKS_FREE of the block's chunk is taken for older than if its age had begun then. */
void blocks_set_oldest(struct blocks *blocks, uint64_t block, uint32_t round);

/* Bytes of memory that the table can touch at the most. */
uint64_t blocks_memory_bytes(const struct blocks *blocks);

/* Counters agree with the entries, flags fit states. Aborts with the block's number. Debug builds look at the flags of
 * each block whose state is set. */
void blocks_check(const struct blocks *blocks);
