/* engine/demote.h - out of DRAM: blocks of one file are demoted, in batches.
 *
 * Thread-safety: any thread, no lock held; it blocks on I/O. 0 or -errno: -EBUSY a process that is not one of the
 * mappers holds the arena, or there may be huge pages that nobody can see; -ENOMEM; those of the store and of mappers.
 * Blocks that were not demoted are resident, and as they were.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ramfile;

/* Of a batch, whatever the size of a block. */
#define DEMOTE_BLOCKS 256

struct demote_result {
	uint64_t demoted, clean, aborted; /* blocks. clean: of those demoted, with a stored copy that would do */
	uint64_t refused;                 /* a limit of what is stored leaves no room for them (quota.h) */
};

/* Blocks of the file that one batch takes at the most: more are demoted one batch after the other. */
size_t demote_at_once(const struct ramfile *file);
/* Demotes the given resident blocks (ascending), those in use excepted. soon: to make room, so that some will come
 * back: what needs not be written is put into the nearer part of the store; and what the store is moving stays, as
 * whoever put it would wait for a sync. Else that is waited for. */
int demote_blocks(struct ramfile *file, const uint32_t *block, size_t count, bool soon, struct demote_result *ret);
/* The same for who chose them a while ago: a process may map the file since, which it was not known then, so those that
 * were not absent in it for min_idle are left alone, as those in use are. */
int demote_idle(struct ramfile *file, const uint32_t *block, size_t count, bool soon, struct demote_result *ret);
