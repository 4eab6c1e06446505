/* mem/arena.h - the DRAM of one RAM file: a sparse file on a private tmpfs, named after the inode.
 *
 * The arena outlives the daemon (the tmpfs stays mounted), so a page that is present here is never lost by a crash.
 * Reads and writes go through pread and pwrite, never through a mapping of the daemon's own: a read of a mapped hole
 * would allocate a page. Thread-safety: all functions but init and fini. 0 or -errno.
 *
 * Who maps the arena: the open file description that a process is given carries a read lock (an open file description
 * lock, fcntl(2)) on one byte whose offset is the holder's number. The lock lives exactly as long as that description:
 * as any descriptor of it, or any mapping made from it, in any process. So the kernel remembers who maps an arena while
 * no daemon runs, and a restarted daemon sees every holder before it has come back.
 *
 * A process may close all that it was given and go on with what it has mapped, and where it maps the arena by way of
 * another file its mapping has no part in that description. So whoever knows of a mapping holds the arena for it as
 * well, by a description that no process has (arena_open_held()): the daemon, and a copy of it with who outlives the
 * daemon (engine/kept.h). Several may hold an arena by the same number.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena {
	int fd;
	int dir;      /* borrowed */
	uint64_t ino; /* also its name, in decimal */
	bool created; /* by init: nobody can have put anything into it before */
};

/* Opens or creates the arena and sets its length. After an error it is as it was. */
int arena_init(struct arena *arena, int dir, uint64_t ino, uint64_t size_bytes);
void arena_fini(struct arena *arena); /* closes; the file stays */
/* Unlinks the file and gives its memory back, whoever maps it. */
int arena_remove(struct arena *arena);

int arena_read(const struct arena *arena, void *buf, size_t len, uint64_t offset); /* absent pages read as zeros */
int arena_write(const struct arena *arena, const void *buf, size_t len, uint64_t offset);
/* The same where pages are absent; those that are there stay as they are. From the start of a page on. The caller sees
 * to it that nobody else makes pages there. */
int arena_write_absent(const struct arena *arena, const void *buf, size_t len, uint64_t offset);
int arena_punch(const struct arena *arena, uint64_t offset, uint64_t len);
/* Its length, and the bytes of memory that it has, in swap too, also behind its end. */
int arena_measure(const struct arena *arena, uint64_t *ret_length, uint64_t *ret_bytes);
int arena_resize(const struct arena *arena, uint64_t size_bytes);

/* The next run of present pages at or after offset. -ENXIO: none before the end. ret_end may be NULL: to find the end
 * of a run takes time for each of its pages. */
int arena_next_data(const struct arena *arena, uint64_t offset, uint64_t *ret_start, uint64_t *ret_end);

/* Bits beside the content, for as long as the arena lives. */
enum arena_mark {
	ARENA_MARK_PLAIN = 1U << 0, /* the kernel may cache its content */
	ARENA_MARK_HUGE = 1U << 1,  /* there may be huge pages in it */
};
int arena_set_mark(const struct arena *arena, enum arena_mark mark, bool on);
bool arena_has_mark(const struct arena *arena, enum arena_mark mark);

/* A fresh open file description, for a process that will map it; not yet a holder. */
int arena_share(const struct arena *arena, bool writable, int *ret_fd);
bool arena_is(const struct arena *arena, int fd);

/* Makes the open file description of fd the holder of that number, and of no other. */
int arena_hold(int fd, uint64_t holder);
/* The arena of that inode, in a new open file description that is such a holder. -ENOENT: it has no name (any more). */
int arena_open_held(int dir, uint64_t ino, uint64_t holder, int *ret_fd);
/* The same of an arena that is open. */
int arena_share_held(const struct arena *arena, uint64_t holder, int *ret_fd);
/* Closes fd; its description holds nothing from now on, whoever has it, too. */
void arena_let_go(int fd);
/* The first holder with a number of at least from. -ENOENT: none. */
int arena_next_holder(const struct arena *arena, uint64_t from, uint64_t *ret_holder);
