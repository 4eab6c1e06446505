/* engine/mappers.h - the processes that map a RAM file, called one after the other; and who else has its arena.
 *
 * Calls into mappers are made without a lock. A mapper that is leaving is not called any more, and leaves when no call
 * is under way (attach.h).
 * Thread-safety: all functions, from any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/mapper.h"

struct ramfile;

/* Calls fn on every mapper of the file, without a lock. Returns how many. */
typedef void ramfile_mapper_fn(void *arg, struct mapper *mapper);
unsigned int ramfile_each_mapper(struct ramfile *file, ramfile_mapper_fn *fn, void *arg);
/* For work that outlives the call that began it: counts as a call into the mapper until it is dropped. False: the
 * mapper is leaving. */
bool ramfile_hold_mapper(struct ramfile *file, struct mapper *mapper);
void ramfile_drop_mapper(struct ramfile *file, struct mapper *mapper);
/* ramfile_remove_mapper() was called. */
bool ramfile_mapper_leaves(struct ramfile *file, const struct mapper *mapper);
/* Every thread of the mappers that waits for the blocks tries again. */
void ramfile_wake(struct ramfile *file, uint64_t first, uint64_t count);
/* Write-protects, or lifts it, in every mapper. Returns the first error. on: after an error writers are not stopped,
 * somewhere. Off: who cannot be let go tries again. */
int ramfile_protect(struct ramfile *file, uint64_t offset, uint64_t length, bool on);
int ramfile_protect_in(struct mapper *mapper, uint64_t offset, uint64_t length, bool on); /* in that one */
int ramfile_protect_runs(struct ramfile *file, const struct mapper_run *run, size_t count, bool on);
/* What is mapped now, in any of them: used has an entry for each block of the runs, one behind the other. */
void ramfile_look_runs(struct ramfile *file, const struct mapper_run *run, size_t count, uint8_t *used);
/* The mapper has dropped what a zap round asked for; with NULL: look whether all of them have. */
void ramfile_zapped(struct ramfile *file, struct mapper *mapper, uint64_t round);

/* --- who has the arena --- */

/* A new descriptor of the arena; the caller closes it. -EIO: the file is lost; those of open(2). */
int ramfile_arena_fd(struct ramfile *file, bool writable, int *ret_fd);
/* True if fd is this file's arena. */
bool ramfile_owns_arena(struct ramfile *file, int fd);
/* True while any process holds the arena, whether it is a mapper or has yet to come back to a daemon that was
 * restarted. Takes no lock. */
bool ramfile_is_held(const struct ramfile *file);
/* Under lock: somebody writes to the arena without the kernel's page cache, or may at any moment. */
bool ramfile_is_attached(struct ramfile *file);
/* True while a process holds the arena that is not one of our mappers: nothing can be protected from it. */
bool ramfile_has_stranger(struct ramfile *file);
