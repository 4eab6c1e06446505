/* engine/clone.h - the content of a RAM file is stored, and shared with another one.
 *
 * Thread-safety: any thread, no lock held. They block on I/O. 0 or -errno.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/file.h"

struct ramfile_cloned {
	uint64_t size_bytes;   /* of the file when it began */
	uint64_t stored_bytes; /* values that were written, of blocks that were resident and not stored */
	uint64_t shared_bytes; /* values that both files have now */
};

/* What is resident is stored as well, and stays resident; ramfile_sync() then makes it durable. Whoever maps the file
 * goes on: a block that is written meanwhile is stored as old or new. From here on no stored copy goes before a newer
 * one is there. -EIO: the file is lost, or a block is damaged. */
int ramfile_store(struct ramfile *file);
/* What was stored is, or is not, what an fsync promised. */
void ramfile_set_kept(struct ramfile *file, bool kept);
/* The content of the file becomes that of another one, by number, as far as the store goes: nothing is promoted,
 * demoted or forgotten, and resident blocks are stored as well. A block that is written meanwhile is old or new. The
 * other file is empty (size 0), nothing is stored of it, and it must not change size meanwhile; its content shows with
 * ramfile_adopt(). After an error some of it is stored beyond its end. -EBUSY: a process that maps the file has not
 * come back to this daemon yet. -EREMOTE: some of the content is on another host still. */
int ramfile_clone(struct ramfile *file, uint64_t to, file_progress_fn *progress, void *arg, struct ramfile_cloned *ret);
