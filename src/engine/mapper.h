/* engine/mapper.h - what the engine asks of a process that maps a RAM file.
 *
 * Two implementations: map/mapping_ops.c (userfaultfd and an agent in the process) and the tests' process. All
 * offsets are bytes in the file, multiples of 4 KiB. Calls return 0 or -errno and may block for microseconds, never on
 * I/O; the engine holds no lock across them. Parts of a range that the process does not map (any more) are skipped
 * silently, so a mapper that is going away is not an error.
 *
 * A process that keeps its address space locked does not hold up the caller: protect, look and split then answer -EBUSY
 * or -ETIMEDOUT after a tenth of a second at most, and at once from then on. What they may still do late is undone
 * before they work again. Everything that waits in the process is woken then.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/sequence.h"

struct mapper;
struct waits_sum;

/* A part of the file, in bytes. */
struct mapper_run {
	uint64_t offset, length;
};

struct mapper_ops {
	/* The calling thread, which was given a fault, begins to wait for the store or to do something long (on), or is
	 * done with that: a good time to tell others of further faults, or not to. May be NULL. */
	void (*waiting)(struct mapper *mapper, bool on);
	/* Write-protects, or lifts the protection and wakes the writers that wait. */
	int (*protect)(struct mapper *mapper, uint64_t offset, uint64_t length, bool on);
	/* Many runs with one call. May be NULL: run by run, then. */
	int (*protect_runs)(struct mapper *mapper, const struct mapper_run *run, size_t count, bool on);
	/* Puts data where pages are missing, maps it and wakes the waiters. Pages that are there already stay as they
	 * are. What the process does not map (any more) goes into the arena by load_put_absent(), so that on 0 all
	 * of it is there. */
	int (*fill)(struct mapper *mapper, uint64_t offset, const void *data, uint64_t length);
	/* The same with zeros; what is not mapped is left absent. */
	int (*fill_zero)(struct mapper *mapper, uint64_t offset, uint64_t length);
	/* Lets every thread that waits for the range try again. */
	int (*wake)(struct mapper *mapper, uint64_t offset, uint64_t length);
	/* Touching the range raises SIGBUS from now on; wakes the waiters. -EOPNOTSUPP where the kernel cannot. */
	int (*poison)(struct mapper *mapper, uint64_t offset, uint64_t length);
	/* Takes poison off: pages of the range that the arena has are mapped. zeros: those that it lacks are given as
	 * zeros. What is mapped already stays as it is. */
	int (*heal)(struct mapper *mapper, uint64_t offset, uint64_t length, bool zeros);
	/* Sets used[i] for each block of [first, first + count) that has a page mapped now; leaves the others as they
	 * are. What cannot be seen counts as in use: on an error all are set. */
	int (*look)(struct mapper *mapper, uint64_t first, uint64_t count, uint8_t *used);
	/* The same for many runs of whole blocks; used has an entry for each block of them, one behind the other. May
	 * be NULL. */
	int (*look_runs)(struct mapper *mapper, const struct mapper_run *run, size_t count, uint8_t *used);
	/* Tries to split the large pages that the process maps a part of in the range; thorough: also those that lie
	 * wholly in it. */
	int (*split)(struct mapper *mapper, uint64_t offset, uint64_t length, bool thorough);
	/* Asks the process to drop its page-table entries for the blocks with mark[i] != 0. A call with count 0 ends
	 * the round: when all of its zaps are done, mappers_zapped(file, mapper, round) is called, possibly from
	 * within. It may be ended again until then: a mapper whose process stands still answers that in its place. Any
	 * other one that never answers keeps its blocks from being demoted. */
	int (*zap)(struct mapper *mapper, uint64_t first, uint64_t count, const uint8_t *mark, uint64_t round);
	/* The address space is gone, and the mapper is about to be removed. Does not block, takes no lock. May be NULL.
	 */
	bool (*ended)(struct mapper *mapper);
	/* Adds faults that wait and that the engine does not know of (engine/waits.h). May be NULL. */
	void (*waits)(struct mapper *mapper, struct waits_sum *sum);
};

/* Every implementation begins with this. The fields below ops belong to the engine, under the file's mapper lock,
 * unless they say otherwise. */
struct mapper {
	const struct mapper_ops *ops;
	uint64_t holder; /* its number in the arena (mem/arena.h); immutable once added */
	bool through;    /* its process has no descriptor of the arena; immutable */
	struct mapper *next;
	uint64_t zapped_round; /* last round it acknowledged */
	unsigned int users;    /* calls in progress and parked faults; removal waits for 0 */
	bool leaving;
	uint64_t next_block;    /* under the file's lock: where who touches fresh memory in order would fault next */
	uint32_t window_blocks; /* under the file's lock: of fresh memory, given at the last fault */
	struct sequences cold;  /* under the file's lock: sequential faults of cold memory */
	/* Where the process would have huge pages, in bytes of the file. Set by the implementation. */
	_Atomic uint64_t huge_start, huge_end;
	/* Faults that it could not resolve since its process locked its address space, and since when. The
	 * implementation clears the former when that is over. */
	_Atomic uint64_t refused, refused_ns;
};
