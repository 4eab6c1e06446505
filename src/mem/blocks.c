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

#define ARRAYS 6

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
		{ (void **)&blocks->generation, old, capacity },
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
	err = blocks_resize(blocks, count);
	if (err)
		blocks_fini(blocks);
	return err;
}

void blocks_fini(struct blocks *blocks)
{
	if (blocks->word)
		munmap(blocks->word, blocks->capacity * sizeof(*blocks->word));
	if (blocks->generation)
		munmap(blocks->generation, blocks->capacity * sizeof(*blocks->generation));
	if (blocks->guess)
		munmap(blocks->guess, blocks->capacity * sizeof(*blocks->guess));
	if (blocks->ident)
		munmap(blocks->ident, blocks->capacity * sizeof(*blocks->ident));
	if (blocks->stored_bytes)
		munmap(blocks->stored_bytes, blocks->capacity * sizeof(*blocks->stored_bytes));
	if (blocks->chunk)
		munmap(blocks->chunk, chunks_bytes(blocks->capacity));
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

uint32_t blocks_rounds_owed(const struct blocks *blocks, uint64_t block)
{
	const struct blocks_chunk *chunk = &blocks->chunk[block / BLOCKS_CHUNK];

	return chunk->count[BLOCKS_IN_DRAM] || !chunk->count[BLOCKS_USED] ? 0 : blocks->rounds - chunk->left_round;
}

void blocks_pay_rounds(struct blocks *blocks, uint64_t block)
{
	uint64_t first = block - block % BLOCKS_CHUNK, end = first + BLOCKS_CHUNK;
	uint32_t owed = blocks_rounds_owed(blocks, block);

	blocks->chunk[block / BLOCKS_CHUNK].left_round = blocks->rounds;
	for (uint64_t at = first; owed && at < end && at < blocks->count; at++) {
		uint64_t generation = (uint64_t)blocks->generation[at] + owed;

		if (blocks_state(blocks, at) == BLOCK_COLD)
			blocks->generation[at] = generation < BLOCK_GENERATION_MAX ? (uint8_t)generation
										   : BLOCK_GENERATION_MAX;
	}
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
			blocks->generation[block] = 0;
			blocks->guess[block] = 0;
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
	if (is && !was) {
		if (!blocks->chunk[block / BLOCKS_CHUNK].count[BLOCKS_IN_DRAM])
			blocks_pay_rounds(blocks, block);
		count_kind(blocks, block, BLOCKS_IN_DRAM, 1);
	} else if (was && !is) {
		count_kind(blocks, block, BLOCKS_IN_DRAM, -1);
		blocks->chunk[block / BLOCKS_CHUNK].left_round = blocks->rounds;
	}
	blocks->in_state[blocks_state(blocks, block)]--;
	blocks->in_state[state]++;
	blocks->word[block] = (uint16_t)((blocks->word[block] & ~BLOCK_STATE_MASK) | state);
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
	       touched * (sizeof(*blocks->word) + sizeof(*blocks->generation) + sizeof(*blocks->guess) +
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
}
