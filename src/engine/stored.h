/* engine/stored.h - a block's stored copy: read, replaced, forgotten; and what the table says of it afterwards.
 *
 * The caller owns the block (file.h) and holds no lock; all functions block on the store. 0 or -errno: -EIO the copy is
 * damaged or missing, or the store failed; -EREMOTE it is away (away.h); -ENOSPC; -ENOMEM.
 * Thread-safety: all functions, for blocks of different owners.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cold/codec.h"
#include "engine/work.h"
#include "mem/blocks.h"

struct ramfile;

/* Gets the value of a block into work->value. Errors of the store. */
int stored_get(struct ramfile *file, struct work *work, uint64_t block, size_t *ret_length);
/* Checks and expands a value that the store has of the block: nobody else in the engine asks the codec for that.
 * -EBADMSG: damaged, maybe on the way here only; -EREMOTE: it is away; -EPROTONOSUPPORT. ret may be NULL. */
int stored_decode_value(struct ramfile *file, struct work *work, uint64_t block, const void *value, size_t length,
			void *raw, struct codec_info *ret);
/* The same with what stored_get() got. */
int stored_decode(struct ramfile *file, struct work *work, uint64_t block, size_t length, void *raw,
		  struct codec_info *ret);
/* Both once more, after -EBADMSG. */
int stored_get_again(struct ramfile *file, struct work *work, uint64_t block, void *raw, struct codec_info *ret);
/* What becomes of an error of the three above, the last of which got length bytes: it is counted, logged and kept in
 * the table. Returns -ENOMEM, -EREMOTE or -EIO. */
int stored_failed(struct ramfile *file, const struct work *work, uint64_t block, size_t length, int err);
/* Reads and decodes a stored block of the caller's (passing state). -EIO and a log line if it is damaged or missing. */
int stored_fetch(struct ramfile *file, struct work *work, uint64_t block, void *raw, struct codec_info *ret);
/* The stored copy of the block was read and is good: it is not damaged any more, and who was poisoned gets it. Without
 * a lock. */
void stored_readable(struct ramfile *file, uint64_t block);
/* Removes the stored copy of a block that the caller owns. */
int stored_forget(struct ramfile *file, uint64_t block);
/* Before pages of a hole that the caller owns come into the arena: a key that a failed write has left would show
 * through those that are absent after a crash. It is removed; while the store refuses that, the whole block is given
 * pages of zeros, which win over it. */
int stored_cover_key(struct ramfile *file, uint64_t block);
/* A put for a block that the caller owns failed, so its key is old or new. A hole shall stay one after a crash, too:
 * its key is removed. If that fails as well the table remembers that there may be a key. */
void stored_put_failed(struct ramfile *file, uint64_t block, uint32_t length_bytes);
