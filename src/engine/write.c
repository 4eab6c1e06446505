/* Changes by system call: write, discard. None of it changes what is hot.
 *
 * A write or discard owns its blocks (UPDATING) from before the first byte changes until after the last.
 */
#include "engine/write.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "engine/away.h"
#include "engine/batch.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/heal.h"
#include "engine/mappers.h"
#include "engine/partial.h"
#include "engine/quota.h"
#include "engine/stored.h"
#include "engine/work.h"
#include "engine/write_run.h"

enum how { HOW_BUFFERED, HOW_DIRECT, HOW_ANYWAY };

/* A piece of a request that lies in one block. */
struct piece {
	uint64_t block;
	uint64_t start; /* in the block */
	uint64_t length;
	bool whole; /* the block is covered up to the end of the file */
};

static struct piece piece_at(const struct ramfile *file, uint64_t offset, uint64_t len)
{
	struct piece piece = { .block = offset / file->block_bytes, .start = offset % file->block_bytes };

	piece.length = file->block_bytes - piece.start;
	if (piece.length > len)
		piece.length = len;
	return piece;
}

/* --- write ------------------------------------------------------------------------------------------------ */

/* Replaces a part of a block that is not in DRAM. data NULL: zeros. */
static int write_cold(struct ramfile *file, struct work *work, const struct piece *piece, const uint8_t *data,
		      bool anyway, enum block_state was, enum block_state *ret)
{
	struct codec_info info;
	int err = 0;

	*ret = was;
	if (!piece->whole) {
		if (was == BLOCK_COLD)
			err = stored_fetch(file, work, piece->block, work->raw, &info);
		else
			memset(work->raw, 0, file->block_bytes);
		if (err)
			return err;
	} else {
		memset(work->raw + piece->length, 0, file->block_bytes - piece->length);
	}
	if (data)
		memcpy(work->raw + piece->start, data, piece->length);
	else
		memset(work->raw + piece->start, 0, piece->length);
	return batch_store_one(file, work, piece->block, was, anyway, ret);
}

/* The content of a cold block that the caller owns comes into the arena, which has nothing of it. Returns true if some
 * of it is there now. */
static bool bring_cold(struct ramfile *file, struct work *work, uint64_t block, uint64_t length)
{
	uint64_t offset = block * file->block_bytes;
	struct codec_info info;
	int err = stored_fetch(file, work, block, work->raw, &info);
	bool there;

	if (err)
		return false;
	err = arena_write(&file->arena, work->raw, length, offset);
	there = !err || file_has_pages(file, block);
	if (!there)
		return false;
	lock_get(&file->lock);
	blocks_set_stored(&file->blocks, block, file->blocks.stored_bytes[block], info.ident);
	if (err) /* who maps the file may have changed what came already */
		partial_leave(file, block);
	file_promoted(file, block);
	lock_put(&file->lock);
	atomic_fetch_add(&file->counts.promotions, 1);
	return true;
}

/* A buffered write is a write to memory: the block comes into DRAM, if there is room. Returns true if it is there now.
 */
static bool bring_in(struct ramfile *file, struct work *work, const struct piece *piece, enum block_state was)
{
	uint64_t length;
	bool there;

	if (!file_reserve(file, 1, BUDGET_OPTIONAL)) {
		engine_kick(file->engine);
		return false;
	}
	lock_get(&file->lock);
	length = file_block_length(file, piece->block);
	lock_put(&file->lock);
	if (was == BLOCK_HOLE)
		there = !stored_forget(file, piece->block); /* pages that stay absent shall be zeros */
	else
		there = bring_cold(file, work, piece->block, length);
	if (!there) {
		file_release(file, 1);
		return false;
	}
	if (was == BLOCK_HOLE) {
		lock_get(&file->lock);
		file_used(file, piece->block);
		lock_put(&file->lock);
	}
	return true;
}

static int write_piece(struct ramfile *file, struct work *work, struct piece *piece, const uint8_t *data, enum how how)
{
	enum block_state was, now;
	uint64_t at = piece->block * file->block_bytes + piece->start;
	bool away;
	int err = 0;

	lock_get(&file->lock);
	do {
		file_wait_owner(file, piece->block);
		if (at + piece->length > file->size_bytes) {
			lock_put(&file->lock);
			return -EFBIG; /* truncated meanwhile */
		}
		piece->whole = piece->start == 0 && piece->length == file_block_content(file, piece->block);
		away = blocks_away(&file->blocks, piece->block);
		if (away && !piece->whole)
			err = away_wait(file, piece->block, AWAY_FOR_CALL);
	} while (!err && away && !piece->whole);
	if (err) {
		lock_put(&file->lock);
		return err;
	}
	was = file_begin_update(file, piece->block);
	if (was != BLOCK_RESIDENT)
		file_visit(file, clock_ns());
	lock_put(&file->lock);

	if (was != BLOCK_RESIDENT && how != HOW_DIRECT && !away && bring_in(file, work, piece, was))
		was = BLOCK_RESIDENT;
	if (was == BLOCK_RESIDENT) {
		err = partial_complete(file, work, piece->block);
		if (!err)
			err = arena_write(&file->arena, data, piece->length, at);
		now = BLOCK_RESIDENT;
	} else {
		err = write_cold(file, work, piece, data, how == HOW_ANYWAY, was, &now);
	}
	file_end_update(file, piece->block, now);
	if (!err)
		heal_written(file, piece->block);
	return err;
}

/* *ret_done: what was written before an error. */
static int write_all(struct ramfile *file, const uint8_t *data, size_t len, uint64_t offset, enum how how,
		     size_t *ret_done)
{
	struct work *work;
	size_t done = 0;
	int err;

	*ret_done = 0;
	err = work_get(engine_works(file->engine), STORE_DIRECT, &work);
	if (err)
		return err;
	err = file_begin_change(file);
	if (err) {
		work_put(engine_works(file->engine), work);
		return err;
	}
	while (!err && done < len) {
		struct piece piece = piece_at(file, offset + done, len - done);
		size_t run = 0;

		if (how == HOW_DIRECT)
			err = write_run(file, data + done, offset + done, len - done, &run);
		if (!err && !run) {
			err = write_piece(file, work, &piece, data + done, how);
			run = piece.length;
		}
		done += err ? 0 : run;
	}
	file_end_change(file);
	work_put(engine_works(file->engine), work);
	*ret_done = done;
	return err;
}

int ramfile_write(struct ramfile *file, const void *buf, size_t len, uint64_t offset, bool direct)
{
	size_t done;

	return write_all(file, buf, len, offset, direct ? HOW_DIRECT : HOW_BUFFERED, &done);
}

int write_by_call(struct ramfile *file, const void *buf, size_t len, uint64_t offset, bool direct, size_t *ret_len)
{
	size_t done;
	int err = write_all(file, buf, len, offset, direct ? HOW_DIRECT : HOW_BUFFERED, &done);

	if (err && (err != -EDQUOT || !done))
		return err;
	*ret_len = done;
	return 0;
}

int write_anyway(struct ramfile *file, const void *buf, size_t len, uint64_t offset)
{
	size_t done;

	return write_all(file, buf, len, offset, HOW_ANYWAY, &done);
}

/* --- discard ---------------------------------------------------------------------------------------------- */

/* The stored copy of a resident block of which a part shall become zeros. After an fsync it may be what is left of the
 * rest after a loss of power, so a newer one takes its place. */
static int cover_stored(struct ramfile *file, struct work *work, const struct piece *piece)
{
	uint64_t length, content;
	enum block_state ignored;
	bool stored;
	int err;

	lock_get(&file->lock);
	stored = blocks_has(&file->blocks, piece->block, BLOCK_STORED);
	length = file_block_length(file, piece->block);
	content = file_block_content(file, piece->block);
	lock_put(&file->lock);
	if (!stored || !atomic_load(&file->kept))
		return stored_forget(file, piece->block);
	err = arena_read(&file->arena, work->raw, length, piece->block * file->block_bytes);
	if (err)
		return err;
	memset(work->raw + content, 0, file->block_bytes - content);
	memset(work->raw + piece->start, 0, piece->length);
	return batch_store_one(file, work, piece->block, BLOCK_RESIDENT, true, &ignored);
}

/* Part of a resident block: its pages leave the arena, so that the memory is free. The stored copy must go first, for
 * an absent page means the stored copy. */
static int discard_resident(struct ramfile *file, struct work *work, const struct piece *piece, enum block_state *ret)
{
	uint64_t block_start = piece->block * file->block_bytes;
	uint64_t block_end = block_start + file->block_bytes;
	uint64_t start;
	int err;

	*ret = BLOCK_RESIDENT;
	lock_get(&file->lock);
	file->punches[piece->block % PUNCH_SLOTS]++;
	lock_put(&file->lock);
	err = partial_complete(file, work, piece->block);
	if (!err)
		err = cover_stored(file, work, piece);
	if (!err)
		err = arena_punch(&file->arena, block_start + piece->start, piece->length);
	if (err)
		return err;
	err = arena_next_data(&file->arena, block_start, &start, NULL);
	if (err == -ENXIO || (!err && start >= block_end))
		*ret = BLOCK_HOLE;
	return err == -ENXIO ? 0 : err;
}

static int discard_piece(struct ramfile *file, struct work *work, struct piece *piece)
{
	enum block_state was, now;
	int err = 0;

	lock_get(&file->lock);
	file_wait_owner(file, piece->block);
	while (!err && piece->block < file->blocks.count && blocks_away(&file->blocks, piece->block)) {
		err = away_wait(file, piece->block, AWAY_FOR_CALL);
		file_wait_owner(file, piece->block);
	}
	if (err || piece->block >= file->blocks.count || blocks_empty(&file->blocks, piece->block)) {
		lock_put(&file->lock);
		return err;
	}
	was = file_begin_update(file, piece->block);
	lock_put(&file->lock);
	if (was == BLOCK_RESIDENT)
		err = discard_resident(file, work, piece, &now);
	else
		err = write_cold(file, work, piece, NULL, true, was, &now);
	if (was == BLOCK_RESIDENT && now == BLOCK_HOLE)
		file_release(file, 1);
	file_end_update(file, piece->block, now);
	return err;
}

/* Blocks of the run that the punch left in the arena: a part of a huge page that could not be split just then. It was
 * zeroed instead, so it is right, and stays resident. */
int write_find_left(struct ramfile *file, uint64_t first, uint64_t count, uint8_t *left)
{
	uint64_t offset = first * file->block_bytes, end = offset + count * file->block_bytes, start, stop;
	int err = 0;

	while (offset < end && (err = arena_next_data(&file->arena, offset, &start, &stop)) == 0) {
		for (uint64_t block = start / file->block_bytes;
		     block < first + count && block * file->block_bytes < stop; block++)
			left[block - first] = 1;
		offset = stop;
	}
	return err == -ENXIO ? 0 : err;
}

/* Whole blocks, many at a time: one key range, one punch. */
static int discard_run(struct ramfile *file, uint64_t first, uint64_t count)
{
	struct store *store = engine_store(file->engine);
	bool stored = false, forgotten, waiters = false;
	uint64_t in_dram = 0, kept = 0;
	CLEANUP_FREE uint8_t *was = calloc(count, 1);
	CLEANUP_FREE uint8_t *left = calloc(count, 1);
	int err = 0;

	if (!was || !left)
		return -ENOMEM;
	lock_get(&file->lock);
	for (uint64_t i = 0; i < count; i++) {
		was[i] = (uint8_t)file_begin_update(file, first + i);
		stored |= blocks_has(&file->blocks, first + i, BLOCK_STORED);
		in_dram += was[i] == BLOCK_RESIDENT;
		file->punches[(first + i) % PUNCH_SLOTS]++;
	}
	lock_put(&file->lock);
	if (stored)
		err = store->ops->remove(store, file->ino, first, count);
	forgotten = !err;
	if (!err && in_dram)
		err = arena_punch(&file->arena, first * file->block_bytes, count * file->block_bytes);
	if (!err && in_dram)
		err = write_find_left(file, first, count, left);
	lock_get(&file->lock);
	for (uint64_t i = 0; i < count; i++) {
		bool stays = was[i] == BLOCK_RESIDENT && (err || left[i]);

		/* Without the key absent pages are zeros, also where the punch failed then. */
		if (forgotten) {
			blocks_set_stored(&file->blocks, first + i, 0, IDENT_NONE);
			blocks_clear(&file->blocks, first + i, BLOCK_DAMAGED);
			partial_end(file, first + i);
		}
		if (!err) {
			blocks_set_tier(&file->blocks, first + i, 0);
			heat_used(&file->blocks, first + i);
		}
		kept += stays;
		waiters |= file_settle(file, first + i,
				       stays       ? BLOCK_RESIDENT
				       : forgotten ? BLOCK_HOLE
						   : (enum block_state)was[i]);
	}
	quota_settle(file, 0);
	lock_put(&file->lock);
	file_release(file, in_dram - kept);
	if (waiters)
		mappers_wake(file, first, count);
	return err;
}

/* The next blocks of [*first, end) that are worth discarding: from the first that is not empty. False: none. */
static bool next_discard(struct ramfile *file, uint64_t *first, uint64_t end, uint64_t *ret_count)
{
	uint64_t block = *first, part, count;

	LOCK_SCOPE(&file->lock);
	while (blocks_next_part(&file->blocks, block, BLOCKS_USED, SCAN_BLOCKS, &part, &count) && part < end) {
		for (block = part; block < part + count && block < end && blocks_empty(&file->blocks, block); block++)
			;
		if (block == end)
			return false;
		if (block == part + count)
			continue;
		*first = block;
		*ret_count = (part + count < end ? part + count : end) - block;
		return true;
	}
	return false;
}

int write_discard_blocks(struct ramfile *file, uint64_t first, uint64_t end)
{
	uint64_t count;

	while (next_discard(file, &first, end, &count)) {
		int err;

		/* Taking blocks in ascending order while others wait for one of them cannot deadlock: nobody else holds
		 * more than one run, and runs are taken in ascending order everywhere. */
		err = discard_run(file, first, count);
		if (err)
			return err;
		first += count;
	}
	return 0;
}

int ramfile_discard(struct ramfile *file, uint64_t offset, uint64_t len)
{
	uint64_t size = file_size(file);
	uint64_t end, memory_end = file_whole_pages(size), first_whole, end_whole;
	struct work *work;
	int err;

	if (offset >= size || !len)
		return 0;
	/* Up to the end, the rest of the last page goes as well: else it would stay in DRAM. */
	end = len >= size - offset ? memory_end : offset + len;
	err = work_get(engine_works(file->engine), STORE_DIRECT, &work);
	if (err)
		return err;
	err = file_begin_change(file);
	if (err) {
		work_put(engine_works(file->engine), work);
		return err;
	}
	first_whole = (offset + file->block_bytes - 1) / file->block_bytes;
	end_whole = end == memory_end ? (end + file->block_bytes - 1) / file->block_bytes : end / file->block_bytes;
	while (!err && offset < end) {
		struct piece piece = piece_at(file, offset, end - offset);

		if (piece.block >= first_whole && piece.block < end_whole) {
			err = write_discard_blocks(file, first_whole, end_whole);
			offset = end_whole * file->block_bytes;
			continue;
		}
		/* Inside a page there is nothing to punch: fallocate(2) of the arena zeroes the edges. */
		err = discard_piece(file, work, &piece);
		offset += piece.length;
	}
	file_end_change(file);
	work_put(engine_works(file->engine), work);
	return err;
}
