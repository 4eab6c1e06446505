/* The arrays are separate mappings, so that each is touched only where it says something: a file that never had a
 * stored copy has no hashes in memory. They grow with mremap, which moves page tables instead of bytes.
 *
 * Who only reads an entry that was never written touches a page of zeros, and page tables: little, but for terabytes of
 * address space not nothing. So the walks ask the summary, and leave alone what is not used. */
#include "mem/blocks.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MIN_CAPACITY 4096
#define PAGE 4096U

/* Row: from; column: to. The table of blocks.h. */
static const bool ALLOWED[BLOCK_STATES][BLOCK_STATES] = {
	[BLOCK_HOLE] = { [BLOCK_LOADING] = true, [BLOCK_UPDATING] = true },
	[BLOCK_COLD] = { [BLOCK_LOADING] = true, [BLOCK_UPDATING] = true },
	[BLOCK_RESIDENT] = { [BLOCK_STORING] = true, [BLOCK_UPDATING] = true },
	[BLOCK_LOADING] = { [BLOCK_HOLE] = true, [BLOCK_COLD] = true, [BLOCK_RESIDENT] = true },
	[BLOCK_STORING] = { [BLOCK_HOLE] = true,
			    [BLOCK_COLD] = true,
			    [BLOCK_RESIDENT] = true,
			    [BLOCK_UPDATING] = true },
	[BLOCK_UPDATING] = { [BLOCK_HOLE] = true, [BLOCK_COLD] = true, [BLOCK_RESIDENT] = true },
};

static int array_resize(void **array, size_t old_bytes, size_t bytes)
{
	void *fresh;

	if (*array)
		fresh = mremap(*array, old_bytes, bytes, MREMAP_MAYMOVE);
	else
		fresh = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (fresh == MAP_FAILED)
		return -ENOMEM;
	*array = fresh;
	return 0;
}

static void array_cut(void **array, size_t bytes, size_t from_bytes)
{
	munmap((char *)*array + bytes, from_bytes - bytes);
	if (!bytes)
		*array = NULL;
}

#define ARRAYS 6 /* that grow with the table */

static uint64_t chunks_of(uint64_t blocks)
{
	return (blocks + BLOCKS_CHUNK - 1) / BLOCKS_CHUNK;
}

/* Whole pages. */
static size_t chunks_bytes(uint64_t blocks)
{
	return (chunks_of(blocks) * sizeof(struct blocks_chunk) + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static uint64_t groups_of(uint64_t blocks)
{
	return (blocks + BLOCKS_GROUP - 1) / BLOCKS_GROUP;
}

/* Longer than capacity says, it is harmless. */
static int grow_groups(struct blocks *blocks, uint64_t capacity)
{
	uint64_t old = groups_of(blocks->capacity), groups = groups_of(capacity);
	struct blocks_group *fresh;

	if (groups == old)
		return 0;
	fresh = reallocarray(blocks->group, groups, sizeof(*fresh));
	if (!fresh)
		return -ENOMEM;
	memset(fresh + old, 0, (groups - old) * sizeof(*fresh));
	blocks->group = fresh;
	return 0;
}

static int grow(struct blocks *blocks, uint64_t capacity)
{
	uint64_t old = blocks->capacity;
	const struct {
		void **array;
		size_t old_bytes, bytes;
	} part[ARRAYS] = {
		{ (void **)&blocks->word, old * sizeof(*blocks->word), capacity * sizeof(*blocks->word) },
		{ (void **)&blocks->born, old * sizeof(*blocks->born), capacity * sizeof(*blocks->born) },
		{ (void **)&blocks->guess, old, capacity },
		{ (void **)&blocks->ident, old * sizeof(*blocks->ident), capacity * sizeof(*blocks->ident) },
		{ (void **)&blocks->stored_bytes, old * sizeof(*blocks->stored_bytes),
		  capacity * sizeof(*blocks->stored_bytes) },
		{ (void **)&blocks->chunk, chunks_bytes(old), chunks_bytes(capacity) },
	};
	int err = grow_groups(blocks, capacity), grown = 0;

	while (!err && grown < ARRAYS) {
		err = array_resize(part[grown].array, part[grown].old_bytes, part[grown].bytes);
		grown += !err;
	}
	/* All of them have the length that capacity says: what was added goes again. */
	while (err && grown--)
		array_cut(part[grown].array, part[grown].old_bytes, part[grown].bytes);
	if (!err)
		blocks->capacity = capacity;
	return err;
}

int blocks_init(struct blocks *blocks, uint64_t count)
{
	int err;

	memset(blocks, 0, sizeof(*blocks));
	blocks->rounds = BLOCKS_FIRST_ROUND;
	err = array_resize((void **)&blocks->ages, 0, sizeof(*blocks->ages));
	if (!err)
		err = blocks_resize(blocks, count);
	if (err)
		blocks_fini(blocks);
	return err;
}

void blocks_fini(struct blocks *blocks)
{
	if (blocks->word)
		munmap(blocks->word, blocks->capacity * sizeof(*blocks->word));
	if (blocks->born)
		munmap(blocks->born, blocks->capacity * sizeof(*blocks->born));
	if (blocks->guess)
		munmap(blocks->guess, blocks->capacity * sizeof(*blocks->guess));
	if (blocks->ident)
		munmap(blocks->ident, blocks->capacity * sizeof(*blocks->ident));
	if (blocks->stored_bytes)
		munmap(blocks->stored_bytes, blocks->capacity * sizeof(*blocks->stored_bytes));
	if (blocks->chunk)
		munmap(blocks->chunk, chunks_bytes(blocks->capacity));
	if (blocks->ages)
		munmap(blocks->ages, sizeof(*blocks->ages));
	free(blocks->group);
	memset(blocks, 0, sizeof(*blocks));
}

/* --- the summary ------------------------------------------------------------------------------------------ */

static void count_kind(struct blocks *blocks, uint64_t block, enum blocks_kind kind, int by)
{
	struct blocks_chunk *chunk = &blocks->chunk[block / BLOCKS_CHUNK];
	struct blocks_group *group = &blocks->group[block / BLOCKS_GROUP];

	chunk->count[kind] = (uint16_t)(chunk->count[kind] + by);
	group->count[kind] += (uint32_t)by;
}

/* The block says something from here on. */
static void use_chunk(struct blocks *blocks, uint64_t block)
{
	if (!blocks->chunk[block / BLOCKS_CHUNK].count[BLOCKS_USED])
		count_kind(blocks, block, BLOCKS_USED, 1);
}

uint64_t blocks_next(const struct blocks *blocks, uint64_t block, enum blocks_kind kind)
{
	while (block < blocks->count) {
		if (!blocks->group[block / BLOCKS_GROUP].count[kind])
			block += BLOCKS_GROUP - block % BLOCKS_GROUP;
		else if (!blocks->chunk[block / BLOCKS_CHUNK].count[kind])
			block += BLOCKS_CHUNK - block % BLOCKS_CHUNK;
		else
			return block;
	}
	return blocks->count;
}

bool blocks_next_part(const struct blocks *blocks, uint64_t block, enum blocks_kind kind, uint64_t most,
		      uint64_t *ret_first, uint64_t *ret_count)
{
	uint64_t first = blocks_next(blocks, block, kind), end = first;

	while (end < blocks->count && end - first < most && blocks->chunk[end / BLOCKS_CHUNK].count[kind])
		end += BLOCKS_CHUNK - end % BLOCKS_CHUNK;
	if (end == first)
		return false;
	if (end > blocks->count)
		end = blocks->count;
	*ret_first = first;
	*ret_count = end - first < most ? end - first : most;
	return true;
}

/* --- ages --------------------------------------------------------------------------------------------------- */

/* Where something of which the age began at that round is counted. */
static unsigned int slot_of(const struct blocks *blocks, uint32_t born)
{
	return blocks->rounds - born < BLOCK_GENERATION_MAX ? born % BLOCKS_AGES : BLOCKS_OLD;
}

static void count_in(const struct blocks *blocks, struct blocks_ages *ages, uint64_t block, uint32_t by)
{
	uint32_t born = blocks->born[block];
	uint8_t guess = blocks->guess[block], tier = blocks_tier(blocks, block);

	if (!guess && !born) {
		ages->young[tier] += by;
	} else if (!guess) {
		ages->idle[slot_of(blocks, born)][tier] += by;
	} else if (!born) {
		ages->young_guess[guess][tier] += by;
	} else {
		ages->idle_guess[slot_of(blocks, born - guess)][tier] += by;
		ages->idle_proof[slot_of(blocks, born)] += by;
	}
}

/* The block is one of BLOCKS_FREE from here on (by: 1), or it is not (-1). */
static void count_age(struct blocks *blocks, uint64_t block, int by)
{
	struct blocks_chunk *chunk = &blocks->chunk[block / BLOCKS_CHUNK];
	uint32_t oldest = blocks_older_round(blocks, block);
	bool all_young = !chunk->count[BLOCKS_IDLE] && !blocks->guesses;

	if (by > 0 && (!chunk->count[BLOCKS_FREE] || all_young || (int32_t)(oldest - chunk->oldest) < 0))
		chunk->oldest = oldest;
	count_kind(blocks, block, BLOCKS_FREE, by);
	if (blocks->born[block])
		count_kind(blocks, block, BLOCKS_IDLE, by);
	if (blocks->guess[block])
		blocks->guesses += (uint64_t)by;
	count_in(blocks, blocks->ages, block, (uint32_t)by);
}

void blocks_set_word(struct blocks *blocks, uint64_t block, unsigned int word)
{
	const unsigned int counted = BLOCK_STATE_MASK | BLOCK_KEPT | BLOCK_TIER_MASK;
	bool changes = (blocks->word[block] ^ word) & counted;

	if (changes && blocks_free(blocks, block))
		count_age(blocks, block, -1);
	blocks->word[block] = (uint16_t)word;
	if (changes && blocks_free(blocks, block))
		count_age(blocks, block, 1);
}

void blocks_set_age(struct blocks *blocks, uint64_t block, uint32_t born, uint8_t guess)
{
	bool counted = blocks_free(blocks, block);

	/* Entries that say nothing are not touched. */
	if (blocks->born[block] == born && blocks->guess[block] == guess)
		return;
	if (counted)
		count_age(blocks, block, -1);
	if (blocks->born[block] != born)
		blocks->born[block] = born;
	if (blocks->guess[block] != guess)
		blocks->guess[block] = guess;
	if (counted)
		count_age(blocks, block, 1);
}

/* What was in the slot is old now. */
static void merge_slot(struct blocks_ages *ages, unsigned int slot)
{
	for (unsigned int tier = 0; tier < BLOCK_TIERS; tier++) {
		if (ages->idle[slot][tier]) {
			ages->idle[BLOCKS_OLD][tier] += ages->idle[slot][tier];
			ages->idle[slot][tier] = 0;
		}
		if (ages->idle_guess[slot][tier]) {
			ages->idle_guess[BLOCKS_OLD][tier] += ages->idle_guess[slot][tier];
			ages->idle_guess[slot][tier] = 0;
		}
	}
	if (ages->idle_proof[slot]) {
		ages->idle_proof[BLOCKS_OLD] += ages->idle_proof[slot];
		ages->idle_proof[slot] = 0;
	}
}

/* The round that is called by a number less by so much. What is of a generation stays of it. */
static uint32_t renumber(const struct blocks *blocks, uint32_t round, uint32_t by, uint32_t oldest)
{
	return (blocks->rounds - round < oldest ? round : blocks->rounds - oldest) - by;
}

/* Slots stay what they are. */
static void start_anew(struct blocks *blocks)
{
	uint32_t by = (blocks->rounds - BLOCKS_FIRST_ROUND - BLOCKS_AGES) / BLOCKS_AGES * BLOCKS_AGES;
	uint64_t first, part;

	for (uint64_t at = 0; blocks_next_part(blocks, at, BLOCKS_USED, BLOCKS_CHUNK, &first, &part);
	     at = first + part) {
		struct blocks_chunk *chunk = &blocks->chunk[first / BLOCKS_CHUNK];

		chunk->oldest = renumber(blocks, chunk->oldest, by, 2 * BLOCK_GENERATION_MAX);
		for (uint64_t block = first; block < first + part; block++)
			if (blocks->born[block])
				blocks->born[block] = renumber(blocks, blocks->born[block], by, BLOCK_GENERATION_MAX);
	}
	blocks->rounds -= by;
}

void blocks_add_rounds(struct blocks *blocks, uint32_t rounds)
{
	for (uint32_t i = 0; i < rounds && i < BLOCKS_AGES; i++)
		merge_slot(blocks->ages, (blocks->rounds + i + 1 - BLOCK_GENERATION_MAX) % BLOCKS_AGES);
	blocks->rounds += rounds;
	if (blocks->rounds >= BLOCKS_LAST_ROUND)
		start_anew(blocks);
}

void blocks_set_oldest(struct blocks *blocks, uint64_t block, uint32_t round)
{
	blocks->chunk[block / BLOCKS_CHUNK].oldest = round;
}

/* --- the table -------------------------------------------------------------------------------------------- */

/* Nothing is left of the blocks from there on. */
static void forget(struct blocks *blocks, uint64_t count)
{
	uint64_t first, part;

	for (uint64_t at = count; blocks_next_part(blocks, at, BLOCKS_USED, BLOCKS_CHUNK, &first, &part);
	     at = first + part) {
		for (uint64_t block = first; block < first + part; block++) {
			assert(blocks_state(blocks, block) == BLOCK_HOLE);
			blocks_set_pinned(blocks, block, false);
			blocks_set_cached(blocks, block, false);
			blocks_set_huge(blocks, block, false);
			blocks->word[block] = 0;
			blocks_set_age(blocks, block, 0, 0);
		}
		if (first % BLOCKS_CHUNK == 0)
			count_kind(blocks, first, BLOCKS_USED, -1);
	}
}

int blocks_resize(struct blocks *blocks, uint64_t count)
{
	uint64_t capacity = blocks->capacity ? blocks->capacity : MIN_CAPACITY;
	int err;

	while (capacity < count)
		capacity *= 2;
	if (capacity != blocks->capacity) {
		err = grow(blocks, capacity);
		if (err)
			return err;
	}
	forget(blocks, count);
	blocks->in_state[BLOCK_HOLE] += count - blocks->count;
	blocks->count = count;
	return 0;
}

static bool in_dram(enum block_state state)
{
	return state != BLOCK_HOLE && state != BLOCK_COLD;
}

void blocks_place(struct blocks *blocks, uint64_t block, enum block_state state)
{
	bool was = in_dram(blocks_state(blocks, block)), is = in_dram(state);

	use_chunk(blocks, block);
	if (is != was)
		count_kind(blocks, block, BLOCKS_IN_DRAM, is ? 1 : -1);
	blocks->in_state[blocks_state(blocks, block)]--;
	blocks->in_state[state]++;
	blocks_set_word(blocks, block, (blocks->word[block] & ~BLOCK_STATE_MASK) | state);
	/* What is cold grows older from the day on, and of a hole nothing is known. */
	if (state == BLOCK_COLD)
		blocks_set_age(blocks, block, blocks_older_round(blocks, block), 0);
	else if (state == BLOCK_HOLE)
		blocks_set_age(blocks, block, 0, 0);
}

static void check_failed(uint64_t block, const char *what)
{
	fprintf(stderr, "tierfs: block table: block %llu: %s\n", (unsigned long long)block, what);
	abort();
}

/* The flags of a block fit its state. */
static void check_block(const struct blocks *blocks, uint64_t block)
{
	enum block_state state = blocks_state(blocks, block);

	if ((unsigned int)state >= BLOCK_STATES)
		check_failed(block, "no such state");
	if (blocks_has(blocks, block, BLOCK_PARTIAL) && !blocks_has(blocks, block, BLOCK_STORED))
		check_failed(block, "partial without a stored copy");
	if (state == BLOCK_COLD && !blocks_has(blocks, block, BLOCK_STORED))
		check_failed(block, "cold without a stored copy");
	if (blocks_away(blocks, block) && state != BLOCK_COLD && state != BLOCK_LOADING && state != BLOCK_UPDATING)
		check_failed(block, "away and not cold");
	if (blocks_has(blocks, block, BLOCK_COMMITTING) && state != BLOCK_STORING)
		check_failed(block, "committing and not storing");
	if (blocks_has(blocks, block, BLOCK_OWNED) &&
	    (state == BLOCK_HOLE || state == BLOCK_COLD || state == BLOCK_LOADING))
		check_failed(block, "owned by a demotion and not resident");
	if (blocks_has(blocks, block, BLOCK_WAITERS) && !blocks_passing(blocks, block) &&
	    !blocks_has(blocks, block, BLOCK_OWNED) && !blocks_away(blocks, block))
		check_failed(block, "waiters at rest");
}

void blocks_set_state(struct blocks *blocks, uint64_t block, enum block_state state)
{
	assert(ALLOWED[blocks_state(blocks, block)][state]);
	blocks_place(blocks, block, state);
	if (state != BLOCK_STORING)
		blocks_clear(blocks, block, BLOCK_COMMITTING);
	if (state == BLOCK_COLD || state == BLOCK_HOLE)
		blocks_clear(blocks, block, BLOCK_PARTIAL);
#ifdef TIERFS_DEBUG
	check_block(blocks, block);
#endif
}

void blocks_set_stored(struct blocks *blocks, uint64_t block, uint32_t length_bytes, struct tierfs_ident ident)
{
	if (!length_bytes && !blocks_has(blocks, block, BLOCK_STORED))
		return;
	use_chunk(blocks, block);
	blocks->stored_total_bytes += length_bytes;
	blocks->stored_total_bytes -= blocks->stored_bytes[block];
	blocks->away += length_bytes == BLOCK_AWAY_BYTES;
	blocks->away -= blocks_away(blocks, block);
	blocks->stored_bytes[block] = length_bytes;
	blocks->ident[block] = ident;
	if (length_bytes)
		blocks_set(blocks, block, BLOCK_STORED);
	else
		blocks_clear(blocks, block, BLOCK_STORED);
}

static void set_counted(struct blocks *blocks, uint64_t block, unsigned int flag, uint64_t *counter, bool on)
{
	if (on == blocks_has(blocks, block, flag))
		return;
	if (on) {
		use_chunk(blocks, block);
		blocks_set(blocks, block, flag);
		++*counter;
	} else {
		blocks_clear(blocks, block, flag);
		--*counter;
	}
}

void blocks_set_pinned(struct blocks *blocks, uint64_t block, bool on)
{
	set_counted(blocks, block, BLOCK_PINNED, &blocks->pinned, on);
}

void blocks_set_cached(struct blocks *blocks, uint64_t block, bool on)
{
	if (on != blocks_has(blocks, block, BLOCK_CACHED))
		count_kind(blocks, block, BLOCKS_CACHED, on ? 1 : -1);
	set_counted(blocks, block, BLOCK_CACHED, &blocks->cached, on);
}

void blocks_set_huge(struct blocks *blocks, uint64_t block, bool on)
{
	if (on != blocks_has(blocks, block, BLOCK_HUGE))
		count_kind(blocks, block, BLOCKS_HUGE, on ? 1 : -1);
	set_counted(blocks, block, BLOCK_HUGE, &blocks->huge, on);
}

uint64_t blocks_memory_bytes(const struct blocks *blocks)
{
	uint64_t touched = blocks->count - blocks->in_state[BLOCK_HOLE];

	return groups_of(blocks->count) * sizeof(*blocks->group) +
	       (blocks->in_state[BLOCK_RESIDENT] ? sizeof(*blocks->ages) : 0) +
	       touched * (sizeof(*blocks->word) + sizeof(*blocks->born) + sizeof(*blocks->guess) +
			  sizeof(*blocks->ident) + sizeof(*blocks->stored_bytes));
}

static void check_summary(const struct blocks *blocks)
{
	struct blocks_group sum = { 0 };

	for (uint64_t chunk = 0; chunk < chunks_of(blocks->count); chunk++) {
		struct blocks_chunk has = { 0 };
		bool used = blocks->chunk[chunk].count[BLOCKS_USED];
		uint64_t first = chunk * BLOCKS_CHUNK;

		for (uint64_t block = first; block < first + BLOCKS_CHUNK && block < blocks->count; block++) {
			has.count[BLOCKS_IN_DRAM] += in_dram(blocks_state(blocks, block));
			has.count[BLOCKS_CACHED] += blocks_has(blocks, block, BLOCK_CACHED);
			has.count[BLOCKS_HUGE] += blocks_has(blocks, block, BLOCK_HUGE);
			has.count[BLOCKS_FREE] += blocks_free(blocks, block);
			has.count[BLOCKS_IDLE] += blocks_free(blocks, block) && blocks->born[block];
			if (blocks->word[block] && !used)
				check_failed(block, "says something, and its chunk does not");
		}
		has.count[BLOCKS_USED] = used;
		for (int kind = 0; kind < BLOCKS_KINDS; kind++) {
			if (has.count[kind] != blocks->chunk[chunk].count[kind])
				check_failed(first, "the summary of its chunk is wrong");
			sum.count[kind] += has.count[kind];
		}
		if ((chunk + 1) % (BLOCKS_GROUP / BLOCKS_CHUNK) && chunk + 1 < chunks_of(blocks->count))
			continue;
		if (memcmp(&sum, &blocks->group[first / BLOCKS_GROUP], sizeof(sum)) != 0)
			check_failed(first, "the summary of its group is wrong");
		sum = (struct blocks_group){ 0 };
	}
}

/* The counts of ages, and what chunks say of their oldest, against the entries. */
static void check_ages(const struct blocks *blocks)
{
	struct blocks_ages *ages = calloc(1, sizeof(*ages));
	uint64_t guesses = 0;

	if (!ages)
		return; /* out of memory; nothing is known */
	for (uint64_t block = 0; block < blocks->count; block++) {
		uint32_t born = blocks->born[block];

		if (blocks_state(blocks, block) == BLOCK_COLD && (!born || blocks->guess[block]))
			check_failed(block, "cold without an age");
		if (!blocks_free(blocks, block))
			continue;
		count_in(blocks, ages, block, 1);
		guesses += blocks->guess[block] > 0;
		if ((born || blocks->guess[block]) &&
		    (int32_t)(blocks_older_round(blocks, block) - blocks->chunk[block / BLOCKS_CHUNK].oldest) < 0)
			check_failed(block, "older than its chunk says");
	}
	if (guesses != blocks->guesses || memcmp(ages, blocks->ages, sizeof(*ages)) != 0)
		check_failed(0, "the counts of ages are wrong");
	free(ages);
}

void blocks_check(const struct blocks *blocks)
{
	uint64_t in_state[BLOCK_STATES] = { 0 };
	uint64_t pinned = 0, cached = 0, huge = 0, away = 0, stored_bytes = 0;

	for (uint64_t block = 0; block < blocks->count; block++) {
		check_block(blocks, block);
		in_state[blocks_state(blocks, block)]++;
		pinned += blocks_has(blocks, block, BLOCK_PINNED);
		cached += blocks_has(blocks, block, BLOCK_CACHED);
		huge += blocks_has(blocks, block, BLOCK_HUGE);
		away += blocks_away(blocks, block);
		if (blocks_has(blocks, block, BLOCK_STORED))
			stored_bytes += blocks->stored_bytes[block];
	}
	for (int state = 0; state < BLOCK_STATES; state++)
		if (in_state[state] != blocks->in_state[state])
			check_failed(0, "the count of a state is wrong");
	if (pinned != blocks->pinned || cached != blocks->cached || huge != blocks->huge || away != blocks->away ||
	    stored_bytes != blocks->stored_total_bytes)
		check_failed(0, "a total is wrong");
	check_summary(blocks);
	check_ages(blocks);
}
