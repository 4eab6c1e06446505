/* engine/write.h - write and discard, as by system call. What is hot stays so, and nothing else becomes it.
 *
 * Offsets and lengths are bytes. Thread-safety: any thread, no lock held; they block on I/O, on blocks in passing
 * states and on demotion batches. 0 or -errno: -EIO the file is lost, or a block of which a part is written is damaged;
 * -ENOSPC the store has no room; -EDQUOT what is stored has come to a limit (quota.h); -EFBIG beyond the end; what
 * away_wait() says of blocks that are away.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ramfile;

/* direct: as O_DIRECT; alignment has been checked by the caller. Else what is written comes into DRAM, if
 * there is room. */
int ramfile_write(struct ramfile *file, const void *buf, size_t len, uint64_t offset, bool direct);
/* The same as a system call has it: where a limit of what is stored ends it half way, *ret_len is what was written, and
 * it has not failed. */
int write_by_call(struct ramfile *file, const void *buf, size_t len, uint64_t offset, bool direct, size_t *ret_len);
/* What the kernel writes back of a mapping, which must not fail: no limit of what is stored holds for it. */
int write_anyway(struct ramfile *file, const void *buf, size_t len, uint64_t offset);
/* Becomes a hole; edges inside a page are zeroed. Beyond the end: ignored. */
int ramfile_discard(struct ramfile *file, uint64_t offset, uint64_t len);
/* Whole blocks, up to end, become holes. */
int write_discard_blocks(struct ramfile *file, uint64_t first, uint64_t end);
/* Blocks of the run that a punch left in the arena: a part of a huge page that could not be split just then. It was
 * zeroed instead, so it is right, and stays resident. */
int write_find_left(struct ramfile *file, uint64_t first, uint64_t count, uint8_t *left);
