/* A block's stored copy. The table is told what the store has after each call, also after one that failed: then the key
 * is old or new, and what is known of it is no more than that it may be there. */
#include "engine/stored.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/heal.h"
#include "engine/quota.h"

/* --- reading --------------------------------------------------------------------------------------------- */

int stored_get(struct ramfile *file, struct work *work, uint64_t block, size_t *ret_length)
{
	return flow_get(file, work->use, block, work->value, work->value_cap, ret_length);
}

int stored_decode_value(struct ramfile *file, struct work *work, uint64_t block, const void *value, size_t length,
			void *raw, struct codec_info *ret)
{
	return codec_decode(work->codec, (struct store_key){ file->ino, block }, value, length, raw, ret);
}

int stored_decode(struct ramfile *file, struct work *work, uint64_t block, size_t length, void *raw,
		  struct codec_info *ret)
{
	return stored_decode_value(file, work, block, work->value, length, raw, ret);
}

/* A checksum that is wrong twice is damage; once it may have been the way here. */
int stored_get_again(struct ramfile *file, struct work *work, uint64_t block, void *raw, struct codec_info *ret)
{
	size_t length;
	int err = stored_get(file, work, block, &length);

	return err ? err : stored_decode(file, work, block, length, raw, ret);
}

/* What becomes of an error of the two above. */
int stored_failed(struct ramfile *file, const struct work *work, uint64_t block, size_t length, int err)
{
	struct codec_info info = { 0 };

	if (err == -ENOMEM)
		return err;
	if (err == -EREMOTE) {
		/* A put that failed, and was done all the same, is found out here. */
		codec_peek(work->value, length, &info);
		lock_get(&file->lock);
		blocks_set_stored(&file->blocks, block, BLOCK_AWAY_BYTES, info.ident);
		quota_settle(file, 0);
		lock_put(&file->lock);
		return err;
	}
	if (err == -ENOENT || err == -EBADMSG || err == -EPROTONOSUPPORT) {
		lock_get(&file->lock);
		blocks_set(&file->blocks, block, BLOCK_DAMAGED);
		lock_put(&file->lock);
		log_error("file %llu: block %llu cannot be read from the store: %s", (unsigned long long)file->ino,
			  (unsigned long long)block, strerror(-err));
	} /* else the store has said it, and it may pass */
	atomic_fetch_add(&file->counts.errors, 1);
	return -EIO;
}

void stored_readable(struct ramfile *file, uint64_t block)
{
	bool was_damaged;

	LOCK_SCOPE(&file->lock);
	if (block >= file->blocks.count)
		return;
	was_damaged = blocks_has(&file->blocks, block, BLOCK_DAMAGED);
	blocks_clear(&file->blocks, block, BLOCK_DAMAGED);
	heal_soon(file, block);
	if (was_damaged)
		log_info("file %llu: block %llu can be read again", (unsigned long long)file->ino,
			 (unsigned long long)block);
}

int stored_fetch(struct ramfile *file, struct work *work, uint64_t block, void *raw, struct codec_info *ret)
{
	size_t length = 0;
	int err = stored_get(file, work, block, &length);

	if (!err)
		err = stored_decode(file, work, block, length, raw, ret);
	if (err == -EBADMSG)
		err = stored_get_again(file, work, block, raw, ret);
	if (err)
		return stored_failed(file, work, block, length, err);
	stored_readable(file, block);
	return 0;
}

/* --- replacing and forgetting ---------------------------------------------------------------------------- */

int stored_forget(struct ramfile *file, uint64_t block)
{
	struct store *store = engine_store(file->engine);
	bool stored;
	int err;

	lock_get(&file->lock);
	stored = blocks_has(&file->blocks, block, BLOCK_STORED);
	lock_put(&file->lock);
	err = stored ? store->ops->remove(store, file->ino, block, 1) : 0;
	if (err)
		return err;
	lock_get(&file->lock);
	blocks_set_stored(&file->blocks, block, 0, IDENT_NONE);
	quota_settle(file, 0);
	blocks_clear(&file->blocks, block, BLOCK_DAMAGED);
	lock_put(&file->lock);
	return 0;
}

/* Somebody waits in a fault, so it is not forgotten if that would take long. */
static bool forget_at_once(struct ramfile *file, uint64_t block)
{
	struct store *store = engine_store(file->engine);
	struct store_hold hold;
	bool gone;

	store_hold(store, file->ino, &hold);
	gone = !store_is_busy(&hold, block) && !stored_forget(file, block);
	store_let_go(store, &hold);
	return gone;
}

int stored_cover_key(struct ramfile *file, uint64_t block)
{
	static const uint8_t zeros[PAGE_BYTES];
	uint64_t at = block * file->block_bytes, end;
	int err = 0;

	if (forget_at_once(file, block))
		return 0;
	lock_get(&file->lock);
	end = at + file_block_length(file, block);
	lock_put(&file->lock);
	for (; !err && at < end; at += PAGE_BYTES)
		err = arena_write_absent(&file->arena, zeros, end - at < PAGE_BYTES ? end - at : PAGE_BYTES, at);
	return err;
}

void stored_put_failed(struct ramfile *file, uint64_t block, uint32_t length_bytes)
{
	bool stored;

	lock_get(&file->lock);
	stored = blocks_has(&file->blocks, block, BLOCK_STORED);
	if (!stored && length_bytes == BLOCK_AWAY_BYTES)
		length_bytes++; /* there may be a key, which is of no use to anybody */
	/* What comes for a block that is away is the content of its identity, whichever key there is. */
	blocks_set_stored(&file->blocks, block, stored ? file->blocks.stored_bytes[block] : length_bytes,
			  blocks_away(&file->blocks, block) ? file->blocks.ident[block] : IDENT_NONE);
	quota_settle(file, 0);
	lock_put(&file->lock);
	if (!stored)
		stored_forget(file, block);
}
