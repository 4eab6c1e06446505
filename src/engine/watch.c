/* engine/watch.c - see watch.h. */
#include "engine/watch.h"

#include <errno.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/file.h"
#include "mem/arena.h"

/* What is in an arena and what was reserved are read one after the other, so a little more is no reason to walk, unless
 * it stays. */
#define OVER_BYTES (UINT64_C(256) << 10)
#define OVER_LOOKS 4U
/* Of the table, that are looked at while it is locked. */
#define LOCKED_BLOCKS 4096U
/* Nothing was found for so long: it is forgotten. */
#define FORGIVEN_NS (60 * NS_PER_S)

/* Under lock: takes the blocks of the run that may have no page; how many. */
static uint64_t take_absent(struct ramfile *file, uint64_t first, uint64_t count, enum block_state *was)
{
	uint64_t taken = 0;

	for (uint64_t i = 0; i < count; i++) {
		enum block_state state;

		was[i] = BLOCK_UPDATING;
		if (first + i >= file->blocks.count)
			continue;
		state = blocks_state(&file->blocks, first + i);
		if (state != BLOCK_HOLE && state != BLOCK_COLD)
			continue;
		was[i] = file_begin_update(file, first + i);
		file->punches[(first + i) % PUNCH_SLOTS]++;
		taken++;
	}
	return taken;
}

/* Bytes of pages in a range. To look for the end of a run of pages would walk over all of it, each time. */
static uint64_t count_bytes(struct ramfile *file, uint64_t offset, uint64_t end)
{
	uint64_t start, bytes = 0;

	for (uint64_t at = offset; at < end && !arena_next_data(&file->arena, at, &start, NULL) && start < end;
	     at = start + PAGE_BYTES)
		bytes += PAGE_BYTES;
	return bytes;
}

/* The caller owns the blocks. Bytes that were in the arena, and are not any more: a page stays, as zeros, if it is a
 * part of a large one that somebody holds, and nobody has made that. */
static uint64_t take_away(struct ramfile *file, uint64_t first, uint64_t count)
{
	uint64_t offset = first * file->block_bytes, end = offset + count * file->block_bytes;
	uint64_t before = count_bytes(file, offset, end), after;

	if (!before || arena_punch(&file->arena, offset, end - offset))
		return 0;
	after = count_bytes(file, offset, end);
	return after < before ? before - after : 0;
}

static uint64_t clean_run(struct ramfile *file, uint64_t first, uint64_t count)
{
	enum block_state was[RUN_BLOCKS];
	uint64_t bytes = 0, taken, next;

	lock_get(&file->lock);
	taken = take_absent(file, first, count, was);
	lock_put(&file->lock);
	for (uint64_t i = 0; taken && i < count; i = next) {
		next = i + 1;
		if (was[i] == BLOCK_UPDATING)
			continue;
		while (next < count && was[next] != BLOCK_UPDATING)
			next++;
		bytes += take_away(file, first + i, next - i);
		for (uint64_t block = i; block < next; block++)
			file_end_update(file, first + block, was[block]);
	}
	return bytes;
}

/* The next block that may have no page, from that one on; UINT64_MAX: there is none. */
static uint64_t next_absent(struct ramfile *file, uint64_t block)
{
	enum block_state state;
	uint64_t end;

	for (;; lock_put(&file->lock)) {
		lock_get(&file->lock);
		end = block + LOCKED_BLOCKS < file->blocks.count ? block + LOCKED_BLOCKS : file->blocks.count;
		for (; block < end; block++) {
			state = blocks_state(&file->blocks, block);
			if (state == BLOCK_HOLE || state == BLOCK_COLD)
				break;
		}
		if (block < end || end >= file->blocks.count)
			break;
	}
	lock_put(&file->lock);
	return block < end ? block : UINT64_MAX;
}

/* What is resident is passed over by the table: the kernel would walk over each of its pages to find its end, and keep
 * everybody else from the arena meanwhile. */
static uint64_t clean(struct ramfile *file)
{
	uint64_t start, bytes = 0, next = 0;

	while ((next = next_absent(file, next)) != UINT64_MAX &&
	       !arena_next_data(&file->arena, next * file->block_bytes, &start, NULL)) {
		if (start / file->block_bytes > next) {
			next = start / file->block_bytes;
			continue;
		}
		bytes += clean_run(file, next, RUN_BLOCKS);
		next += RUN_BLOCKS;
	}
	return bytes;
}

/* While nobody changes the size. *ret_bytes: what was in the arena behind the file's end. */
static bool restore_length(struct ramfile *file, uint64_t *ret_bytes)
{
	uint64_t bytes = file_memory_bytes(file), length, before, after;
	bool odd;

	if (arena_measure(&file->arena, &length, &before))
		return false;
	odd = length != bytes;
	if (odd && arena_resize(&file->arena, bytes)) {
		log_error("file %llu: its arena keeps a length that is not the file's", (unsigned long long)file->ino);
		return false;
	}
	/* Memory can lie behind the end, too. */
	if (!arena_punch(&file->arena, bytes, (uint64_t)INT64_MAX - bytes) &&
	    !arena_measure(&file->arena, &length, &after) && after < before)
		*ret_bytes += before - after;
	return odd;
}

static bool try_restore_length(struct ramfile *file, uint64_t *ret_bytes)
{
	bool odd;

	if (!file_try_resize(file))
		return false;
	odd = restore_length(file, ret_bytes);
	file_end_resize(file);
	return odd;
}

/* A length that is not the file's may be that of a file whose size changes just now. */
static bool is_odd(struct ramfile *file, uint64_t length)
{
	struct watch *watch = &file->watch;
	bool again = watch->odd_bytes == length + 1;

	watch->odd_bytes = length != file_memory_bytes(file) ? length + 1 : 0;
	return watch->odd_bytes && again;
}

static bool is_over(struct ramfile *file, uint64_t there)
{
	struct watch *watch = &file->watch;
	uint64_t may = atomic_load(&file->dram_blocks) * file->block_bytes;

	watch->over = there > may ? watch->over + 1 : 0;
	return there > may && (there - may > OVER_BYTES || watch->over >= OVER_LOOKS);
}

void watch_look(struct ramfile *file, uint64_t now_ns, struct watch_seen *ret)
{
	struct watch *watch = &file->watch;
	uint64_t length, there;
	bool odd, over;

	*ret = (struct watch_seen){ .taken_bytes = 0 };
	if (atomic_load(&file->lost) || arena_measure(&file->arena, &length, &there))
		return;
	if (watch->caught && now_ns > watch->caught_ns + FORGIVEN_NS)
		watch->caught = 0;
	odd = is_odd(file, length);
	over = is_over(file, there);
	if (odd || over)
		ret->resized = try_restore_length(file, &ret->taken_bytes);
	if (over)
		ret->taken_bytes += clean(file);
	atomic_fetch_add(&file->counts.foreign_bytes, ret->taken_bytes);
	/* A little may be an accident of a program that forks. */
	if (!ret->resized && ret->taken_bytes < OVER_BYTES)
		return;
	watch->odd_bytes = 0;
	watch->caught_ns = now_ns;
	ret->caught = ++watch->caught;
}
