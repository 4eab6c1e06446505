/* engine/heal.h - poison is taken off when a block has content again.
 *
 * Who touches a block that cannot be read is poisoned (mapper.h): the kernel raises SIGBUS at every touch, and asks
 * nobody any more. So the engine remembers which blocks may be poisoned in some process (BLOCK_POISONED). When one is
 * well, because it can be read, was written or was discarded, a fault is served for it (retry.h) as if a process had
 * touched it. That brings it into DRAM, and there the poison is taken off in every process.
 *
 * A new daemon does not know what the last one poisoned: there it lasts until the process maps the file anew.
 *
 * Thread-safety: all functions, from any thread.
 */
#pragma once

#include <stdint.h>

struct mapper;
struct ramfile;

/* Under lock: the block was poisoned, and may be well now. If it is in a passing state it is found out later. */
void heal_soon(struct ramfile *file, uint64_t block);
/* The same without the lock, after a write. */
void heal_written(struct ramfile *file, uint64_t block);
/* Under lock: mapper has met the poisoned block in a passing state, whose end may not be the last word. */
void heal_later(struct ramfile *file, struct mapper *mapper, uint64_t block);
/* Without a lock: takes the poison off. The block is the caller's, and is becoming RESIDENT. 0, or: it is poisoned
 * still. -EAGAIN: it may be healed later; -EIO: there are pages that nobody can give. */
int heal_now(struct ramfile *file, uint64_t block, uint64_t length);
