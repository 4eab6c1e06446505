/* engine/mappers.h - the processes that map a RAM file, called one after the other; and who else has its arena.
 *
 * Calls into mappers are made without a lock. A mapper that is leaving is not called any more, and leaves when no call
 * is under way (attach.h).
 * Thread-safety: all functions, from any thread.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/lock.h"
#include "engine/mapper.h"

struct ramfile;

/* A file's part. */
struct mappers {
	struct lock lock;
	pthread_cond_t idle; /* the users of one became 0 */
	struct mapper *list; /* under lock */
	unsigned int count;  /* under lock */
};

/* Calls fn on every mapper of the file, without a lock. Returns how many. */
typedef void mappers_fn(void *arg, struct mapper *mapper);
unsigned int mappers_each(struct ramfile *file, mappers_fn *fn, void *arg);
/* For work that outlives the call that began it: counts as a call into the mapper until it is dropped. False: the
 * mapper is leaving. */
bool mappers_hold(struct ramfile *file, struct mapper *mapper);
void mappers_drop(struct ramfile *file, struct mapper *mapper);
/* There is a mapper, and of each it is known that it is about to be removed. */
bool mappers_all_end(struct ramfile *file);
/* attach_remove() was called. */
bool mappers_leaves(struct ramfile *file, const struct mapper *mapper);
/* Every thread of the mappers that waits for the blocks tries again. */
void mappers_wake(struct ramfile *file, uint64_t first, uint64_t count);
/* Write-protects, or lifts it, in every mapper. Returns the first error. on: after an error writers are not stopped,
 * somewhere. Off: who cannot be let go tries again. */
int mappers_protect(struct ramfile *file, uint64_t offset, uint64_t length, bool on);
int mappers_protect_in(struct mapper *mapper, uint64_t offset, uint64_t length, bool on); /* in that one */
int mappers_protect_runs(struct ramfile *file, const struct mapper_run *run, size_t count, bool on);
/* What is mapped now, in any of them: used has an entry for each block of the runs, one behind the other. */
void mappers_look_runs(struct ramfile *file, const struct mapper_run *run, size_t count, uint8_t *used);
/* The mapper has dropped what a zap round asked for; with NULL: look whether all of them have. */
void mappers_zapped(struct ramfile *file, struct mapper *mapper, uint64_t round);

/* --- who has the arena --- */

/* A new descriptor of the arena; the caller closes it. -EIO: the file is lost; those of open(2). */
int mappers_arena_fd(struct ramfile *file, bool writable, int *ret_fd);
/* True if fd is this file's arena. */
bool mappers_owns_arena(struct ramfile *file, int fd);
/* True while any process holds the arena, whether it is a mapper or has yet to come back to a daemon that was
 * restarted. Takes no lock. */
bool mappers_have_arena(const struct ramfile *file);
/* Under lock: somebody writes to the arena without the kernel's page cache, or may at any moment. */
bool mappers_attached(struct ramfile *file);
/* Holds the arena by that number, too, with a descriptor that the caller ends by arena_let_go(). -EIO: the file is
 * lost; those of open(2) and fcntl(2). */
int mappers_hold_arena(struct ramfile *file, uint64_t holder, int *ret_fd);
/* The holder of that number is there. */
bool mappers_is_held_by(const struct ramfile *file, uint64_t holder);
/* True while a process holds the arena that is not one of our mappers: nothing can be protected from it. */
bool mappers_stranger(struct ramfile *file);
