/* engine/load.h - cold blocks come into DRAM, a run of neighbours at a time.
 *
 * Called without a lock unless they say so. 0 or -errno; a block that cannot be read stays cold, and the fault that
 * needs it says why. Thread-safety: all functions, from any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cold/codec.h"
#include "engine/file.h"
#include "mem/budget.h"

/* Puts the content of a block that the caller owns, and whose pages are all absent, into DRAM. mapper may be NULL. */
int load_place(struct ramfile *file, struct mapper *mapper, uint64_t offset, const void *raw, uint64_t length);
/* Under lock: a load of one block ended. partly: some of its pages are there, the others in the stored copy. Returns
 * true if somebody waits. */
bool load_settle(struct ramfile *file, uint64_t block, const struct codec_info *info, bool partly);
/* Brings the run of cold blocks at first into DRAM, as far as there is room; mapper may be NULL. *ret_blocks: how many
 * came. */
int load_run(struct ramfile *file, struct mapper *mapper, uint64_t first, uint64_t count, enum budget_need need,
	     enum store_use use, uint64_t *ret_blocks);
/* As many blocks as load_run() brings at once. */
uint64_t load_run_blocks(const struct ramfile *file);
/* Promotes cold blocks of a range of bytes while the budget has room; never waits for room. -EIO: the file is lost;
 * -ECANCELED by progress. */
int load_promote(struct ramfile *file, uint64_t offset, uint64_t len, file_progress_fn *progress, void *arg,
		 struct file_done *ret);
/* For struct mapper_ops.fill: data for pages that nobody else brings now. Those that the arena has stay as they are. */
int load_put_absent(struct ramfile *file, const void *data, uint64_t length, uint64_t offset);
