#include "engine/sequence.h"

/* The first window, and from where on it has a mark: below, the mark would cost as much as it saves. */
#define WINDOW_FIRST 4U
#define WINDOW_MARKED 16U

static bool continues(const struct sequence *sequence, uint64_t block)
{
	return sequence->end && (block == sequence->end || block == sequence->mark);
}

/* Of the region that was asked for, but not brought: there was no room, or it has not come yet. */
static bool covers(const struct sequence *sequence, uint64_t block)
{
	return block >= sequence->begin && block < sequence->end;
}

static struct sequence *find(struct sequences *sequences, uint64_t block)
{
	struct sequence *oldest = &sequences->one[0];

	for (unsigned int i = 0; i < SEQUENCES; i++) {
		struct sequence *sequence = &sequences->one[i];

		if (continues(sequence, block) || covers(sequence, block))
			return sequence;
		if (sequences->clock - sequence->used > sequences->clock - oldest->used)
			oldest = sequence;
	}
	*oldest = (struct sequence){ .begin = block + 1, .end = block + 1, .mark = SEQUENCE_NO_MARK };
	return oldest;
}

bool sequences_touch(struct sequences *sequences, uint64_t block, uint32_t most_blocks, struct sequence_plan *ret)
{
	struct sequence *sequence = find(sequences, block);
	uint64_t first;

	sequence->used = ++sequences->clock;
	if (!continues(sequence, block))
		return false;
	sequence->window = sequence->window ? sequence->window * 2 : WINDOW_FIRST;
	if (sequence->window > most_blocks)
		sequence->window = most_blocks;
	first = block == sequence->end ? block + 1 : sequence->end;
	sequence->begin = block + 1;
	sequence->end = first + sequence->window;
	sequence->mark = sequence->window >= WINDOW_MARKED ? first + sequence->window / 2 : SEQUENCE_NO_MARK;
	*ret = (struct sequence_plan){ first, sequence->window, sequence->mark };
	return sequence->window > 0;
}
