/* engine/sequence.h - which cold faults of a mapping follow one another, and what to read ahead of them. Pure.
 *
 * A sequence is a region that was asked for, [.., end), and a block in the middle of it, the mark, which was left out:
 * a toucher that arrives there is still reading, and what follows the region can be brought while it reads the second
 * half. A sequence whose toucher has come to the mark or to the end doubles its window. Some are kept for each mapping,
 * so that threads that read different places do not spoil each other's.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SEQUENCES 4
#define SEQUENCE_NO_MARK UINT64_MAX

struct sequence {
	uint64_t end;    /* where the toucher would fault next but for the mark; 0: unused */
	uint64_t begin;  /* of the region that was asked for; begin == end: none yet */
	uint64_t mark;   /* SEQUENCE_NO_MARK: none */
	uint32_t window; /* blocks */
	uint32_t used;   /* by age */
};

struct sequences {
	struct sequence one[SEQUENCES];
	uint32_t clock;
};

/* To bring: [first, first + count) without mark. */
struct sequence_plan {
	uint64_t first, count, mark;
};

/* A cold block is touched. True: *ret is what may be brought ahead, at most most_blocks. */
bool sequences_touch(struct sequences *sequences, uint64_t block, uint32_t most_blocks, struct sequence_plan *ret);
