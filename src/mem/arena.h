/* mem/arena.h - the DRAM of one RAM file: a sparse file on a private tmpfs, named after the inode.
 *
 * The arena outlives the daemon (the tmpfs stays mounted), so a page that is present here is never lost by a crash.
 * Reads and writes go through pread and pwrite, never through a mapping of the daemon's own: a read of a mapped hole would
 * allocate a page. Thread-safety: all functions but init and fini. 0 or -errno.
 *
 * Who maps the arena: every descriptor that is handed to a process carries a shared flock(2). As long as such a descriptor
 * or a mapping made from it exists anywhere, arena_seal() fails. That is how a restarted daemon knows that a process
 * still maps the file, before that process has come back.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena {
	int fd;
	int dir;      /* borrowed */
	uint64_t ino; /* also its name, in decimal */
	bool sealed;  /* we hold the exclusive lock; owner: callers serialize seal and unseal */
};

/* Opens or creates the arena and sets its length. */
int arena_init(struct arena *arena, int dir, uint64_t ino, uint64_t size_bytes);
void arena_fini(struct arena *arena); /* closes; the file stays */
int arena_remove(struct arena *arena); /* unlinks the file */

int arena_read(const struct arena *arena, void *buf, size_t len, uint64_t offset); /* absent pages read as zeros */
int arena_write(const struct arena *arena, const void *buf, size_t len, uint64_t offset);
int arena_punch(const struct arena *arena, uint64_t offset, uint64_t len);
int arena_resize(const struct arena *arena, uint64_t size_bytes);

/* The next run of present pages at or after offset. -ENXIO: none before the end. */
int arena_next_data(const struct arena *arena, uint64_t offset, uint64_t *ret_start, uint64_t *ret_end);

/* A fresh descriptor that carries the shared lock, for a process that will map it. The arena must not be sealed. */
int arena_share(const struct arena *arena, bool writable, int *ret_fd);
bool arena_is(const struct arena *arena, int fd);

/* Takes the exclusive lock: nobody maps the arena, and nobody can be given it until arena_unseal(). -EBUSY: somebody does. */
int arena_seal(struct arena *arena);
void arena_unseal(struct arena *arena);
