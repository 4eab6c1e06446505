/* The arrays are separate mappings, so that each is touched only where it says something: a file that never had a
 * stored copy has no hashes in memory. They grow with mremap, which moves page tables instead of bytes. */
#include "mem/blocks.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MIN_CAPACITY 4096

static const char *const STATE_NAMES[BLOCK_STATES] = {
	[BLOCK_HOLE] = "hole",       [BLOCK_COLD] = "cold",       [BLOCK_RESIDENT] = "resident",
	[BLOCK_LOADING] = "loading", [BLOCK_STORING] = "storing", [BLOCK_UPDATING] = "updating",
};

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

const char *block_state_name(enum block_state state)
{
	return STATE_NAMES[state];
}

static int array_resize(void **array, uint64_t old_count, uint64_t count, size_t entry_bytes)
{
	void *fresh;

	if (*array)
		fresh = mremap(*array, old_count * entry_bytes, count * entry_bytes, MREMAP_MAYMOVE);
	else
		fresh = mmap(NULL, count * entry_bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
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

#define ARRAYS 5

static int grow(struct blocks *blocks, uint64_t capacity)
{
	const struct {
		void **array;
		size_t entry_bytes;
	} part[ARRAYS] = {
		{ (void **)&blocks->word, sizeof(*blocks->word) },
		{ (void **)&blocks->generation, sizeof(*blocks->generation) },
		{ (void **)&blocks->guess, sizeof(*blocks->guess) },
		{ (void **)&blocks->content_hash, sizeof(*blocks->content_hash) },
		{ (void **)&blocks->stored_bytes, sizeof(*blocks->stored_bytes) },
	};
	uint64_t old = blocks->capacity;
	int err = 0, grown = 0;

	while (!err && grown < ARRAYS) {
		err = array_resize(part[grown].array, old, capacity, part[grown].entry_bytes);
		grown += !err;
	}
	/* All of them have the length that capacity says: what was added goes again. */
	while (err && grown--)
		array_cut(part[grown].array, old * part[grown].entry_bytes, capacity * part[grown].entry_bytes);
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
	if (blocks->content_hash)
		munmap(blocks->content_hash, blocks->capacity * sizeof(*blocks->content_hash));
	if (blocks->stored_bytes)
		munmap(blocks->stored_bytes, blocks->capacity * sizeof(*blocks->stored_bytes));
	memset(blocks, 0, sizeof(*blocks));
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
	for (uint64_t block = count; block < blocks->count; block++) {
		assert(blocks_state(blocks, block) == BLOCK_HOLE);
		blocks_set_pinned(blocks, block, false);
		blocks_set_cached(blocks, block, false);
		blocks_set_huge(blocks, block, false);
		if (blocks->word[block])
			blocks->word[block] = 0;
		if (blocks->generation[block])
			blocks->generation[block] = 0;
		if (blocks->guess[block])
			blocks->guess[block] = 0;
	}
	blocks->in_state[BLOCK_HOLE] += count - blocks->count;
	blocks->count = count;
	return 0;
}

void blocks_place(struct blocks *blocks, uint64_t block, enum block_state state)
{
	blocks->in_state[blocks_state(blocks, block)]--;
	blocks->in_state[state]++;
	blocks->word[block] = (uint16_t)((blocks->word[block] & ~BLOCK_STATE_MASK) | state);
}

void blocks_set_state(struct blocks *blocks, uint64_t block, enum block_state state)
{
	assert(ALLOWED[blocks_state(blocks, block)][state]);
	blocks_place(blocks, block, state);
	if (state != BLOCK_STORING)
		blocks_clear(blocks, block, BLOCK_COMMITTING);
	if (state == BLOCK_COLD || state == BLOCK_HOLE)
		blocks_clear(blocks, block, BLOCK_PARTIAL);
}

void blocks_set_stored(struct blocks *blocks, uint64_t block, uint32_t length_bytes, uint64_t content_hash)
{
	if (!length_bytes && !blocks_has(blocks, block, BLOCK_STORED))
		return;
	blocks->stored_total_bytes += length_bytes;
	blocks->stored_total_bytes -= blocks->stored_bytes[block];
	blocks->away += length_bytes == BLOCK_AWAY_BYTES;
	blocks->away -= blocks_away(blocks, block);
	blocks->stored_bytes[block] = length_bytes;
	blocks->content_hash[block] = content_hash;
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
	set_counted(blocks, block, BLOCK_CACHED, &blocks->cached, on);
}

void blocks_set_huge(struct blocks *blocks, uint64_t block, bool on)
{
	set_counted(blocks, block, BLOCK_HUGE, &blocks->huge, on);
}

uint64_t blocks_memory_bytes(const struct blocks *blocks)
{
	uint64_t touched = blocks->count - blocks->in_state[BLOCK_HOLE];

	return touched * (sizeof(*blocks->word) + sizeof(*blocks->generation) + sizeof(*blocks->guess) +
			  sizeof(*blocks->content_hash) + sizeof(*blocks->stored_bytes));
}

static void check_failed(uint64_t block, const char *what)
{
	fprintf(stderr, "tierfs: block table: block %llu: %s\n", (unsigned long long)block, what);
	abort();
}

void blocks_check(const struct blocks *blocks)
{
	uint64_t in_state[BLOCK_STATES] = { 0 };
	uint64_t pinned = 0, cached = 0, huge = 0, away = 0, stored_bytes = 0;

	for (uint64_t block = 0; block < blocks->count; block++) {
		enum block_state state = blocks_state(blocks, block);

		if ((unsigned int)state >= BLOCK_STATES)
			check_failed(block, "no such state");
		in_state[state]++;
		if (blocks_has(blocks, block, BLOCK_PINNED))
			pinned++;
		cached += blocks_has(blocks, block, BLOCK_CACHED);
		huge += blocks_has(blocks, block, BLOCK_HUGE);
		away += blocks_away(blocks, block);
		if (blocks_has(blocks, block, BLOCK_PARTIAL) && !blocks_has(blocks, block, BLOCK_STORED))
			check_failed(block, "partial without a stored copy");
		if (state == BLOCK_COLD && !blocks_has(blocks, block, BLOCK_STORED))
			check_failed(block, "cold without a stored copy");
		if (blocks_away(blocks, block) && state != BLOCK_COLD && state != BLOCK_LOADING &&
		    state != BLOCK_UPDATING)
			check_failed(block, "away and not cold");
		if (blocks_has(blocks, block, BLOCK_COMMITTING) && state != BLOCK_STORING)
			check_failed(block, "committing and not storing");
		if (blocks_has(blocks, block, BLOCK_OWNED) &&
		    (state == BLOCK_HOLE || state == BLOCK_COLD || state == BLOCK_LOADING))
			check_failed(block, "owned by a demotion and not resident");
		if (blocks_has(blocks, block, BLOCK_WAITERS) && !blocks_passing(blocks, block) &&
		    !blocks_has(blocks, block, BLOCK_OWNED) && !blocks_away(blocks, block))
			check_failed(block, "waiters at rest");
		if (blocks_has(blocks, block, BLOCK_STORED))
			stored_bytes += blocks->stored_bytes[block];
	}
	for (int state = 0; state < BLOCK_STATES; state++)
		if (in_state[state] != blocks->in_state[state])
			check_failed(0, "the count of a state is wrong");
	if (pinned != blocks->pinned || cached != blocks->cached || huge != blocks->huge || away != blocks->away ||
	    stored_bytes != blocks->stored_total_bytes)
		check_failed(0, "a total is wrong");
}
