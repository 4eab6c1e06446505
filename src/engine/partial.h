/* engine/partial.h - resident blocks of which the arena has a part, and their stored copy the rest.
 *
 * How it comes to that: a fill or a punch stopped half way, or the kernel wrote back some pages of a cold block. By the
 * page rule (file.h) the content is there all the same, in two places. BLOCK_PARTIAL says so. It is set by
 * partial_leave() and taken off by partial_end(), and by blocks_set_state() when the block leaves DRAM. Nobody else
 * knows the flag, or what is merged with what.
 *
 * Who may leave a block partial, because he owns it, found it cold and only some of its pages came: write (bring_cold),
 * access_write (fill_dram), load (load_settle, also for fault), cache (write_back_block). Who may, because he was about
 * to make it cold and only some of its pages went: demote (finish). And at start who finds it so: ramfile (load_arena).
 *
 * What holds while a block is partial: it has a key (BLOCK_STORED), and nobody replaces or removes the copy, but with
 * the whole content (partial_read() first) or after the rest is in the arena (partial_complete() first). A page that is
 * present in the arena wins. A page is never taken out of the arena.
 *
 * Who needs the whole block asks for it here, partial or not: partial_read() leaves the arena as it is,
 * partial_complete() makes the block an ordinary one.
 *
 * 0 or -errno: -EIO the copy cannot be read, as of stored_fetch(), or the arena; -ENOMEM, -ENOSPC. After an error
 * the block is as partial as before. "Under lock" is under file->lock. The others are called without it and block on
 * I/O, and use work->value; partial_complete() also work->raw.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/file.h"
#include "engine/work.h"
#include "mem/blocks.h"

/* Under lock. */
static inline bool partial_is(const struct ramfile *file, uint64_t block)
{
	return blocks_has(&file->blocks, block, BLOCK_PARTIAL);
}
/* Under lock, the caller owns the block: the arena has some of its pages, and its stored copy the content of others.
 * Without a key those are zeros, and the block is whole. */
void partial_leave(struct ramfile *file, uint64_t block);
/* Under lock, the caller owns the block: nothing of it is in the stored copy alone. All its pages are in the arena, or
 * its key is gone, and what the arena lacks is zeros. */
void partial_end(struct ramfile *file, uint64_t block);

/* The content of a block that is in DRAM and that the caller owns (passing state), with zeros behind the end of the
 * file. raw: block_bytes. */
int partial_read(struct ramfile *file, struct work *work, uint64_t block, void *raw);
/* The caller owns the block, which is in DRAM: all its pages come into the arena. Of one that is not partial nothing is
 * read. */
int partial_complete(struct ramfile *file, struct work *work, uint64_t block);
/* The same for a block that is at rest and that nobody owns, if it is in DRAM. Called under lock, which it drops. */
int partial_complete_at_rest(struct ramfile *file, struct work *work, uint64_t block);
/* The same for all blocks of the file. One whose copy cannot be read stays as it is, and is no error. */
int partial_complete_all(struct ramfile *file);
