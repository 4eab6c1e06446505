/* core/mapper.h - what the engine asks of a process that maps a RAM file.
 *
 * Two implementations: map/attached.c (userfaultfd and an agent in the process) and the tests' simulated process. All
 * offsets are bytes in the file, multiples of 4 KiB. Calls return 0 or -errno and may block for microseconds, never on
 * I/O; the engine holds no lock across them. Parts of a range that the process does not map (any more) are skipped
 * silently, so a mapper that is going away is not an error.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mapper;
struct ramfile;

struct mapper_ops {
	/* Write-protects, or lifts the protection and wakes the writers that wait. */
	int (*protect)(struct mapper *mapper, uint64_t offset, uint64_t length, bool on);
	/* Puts data where pages are missing, maps it and wakes the waiters. 0, also where a page was there already;
	 * -ENOENT: nothing of the range is mapped here (the caller fills the arena itself). */
	int (*fill)(struct mapper *mapper, uint64_t offset, const void *data, uint64_t length);
	/* The same with zeros. */
	int (*fill_zero)(struct mapper *mapper, uint64_t offset, uint64_t length);
	/* Lets every thread that waits for the range try again. */
	int (*wake)(struct mapper *mapper, uint64_t offset, uint64_t length);
	/* Touching the range raises SIGBUS from now on; wakes the waiters. -EOPNOTSUPP where the kernel cannot. */
	int (*poison)(struct mapper *mapper, uint64_t offset, uint64_t length);
	/* Sets used[i] for each block of [first, first + count) that has a page mapped now; leaves the others as they are. */
	int (*look)(struct mapper *mapper, uint64_t first, uint64_t count, uint8_t *used);
	/* Asks the process to drop its page-table entries for the blocks with mark[i] != 0. Answers later by
	 * ramfile_zapped(file, mapper, round). A mapper that never answers keeps its blocks from being demoted. */
	int (*zap)(struct mapper *mapper, uint64_t first, uint64_t count, const uint8_t *mark, uint64_t round);
};

/* Every implementation begins with this. Fields are the engine's, under the file's mapper lock. */
struct mapper {
	const struct mapper_ops *ops;
	struct ramfile *file;      /* immutable once added */
	struct mapper *next;
	uint64_t zap_round;        /* last round it acknowledged */
	unsigned int users;        /* calls in progress; removal waits for 0 */
	bool leaving;
};
