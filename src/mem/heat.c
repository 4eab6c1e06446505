#include "mem/heat.h"

/* A block that comes back before it is this many times as old as blocks are when they leave was demoted too early; each
 * tier counts as in its class. Until it is known how old they are: within this many rounds. */
#define SOON_TIMES 2
#define SOON_ROUNDS 8
/* A tier is lost in so many rounds without use, so that what was hot for long does not stay for ever. */
#define TIER_ROUNDS 64
/* Each tier halves the age of a block. */
#define TIER_SHIFT 1

uint64_t heat_mark(struct blocks *blocks, uint64_t first, uint64_t count, uint8_t *mark)
{
	uint64_t marked = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t block = first + i;

		mark[i] = blocks_state(blocks, block) == BLOCK_RESIDENT && blocks->generation[block] == 0 &&
			  !blocks_has(blocks, block, BLOCK_PINNED);
		if (mark[i]) {
			blocks_set(blocks, block, BLOCK_ZAPPED);
			marked++;
		}
	}
	return marked;
}

void heat_zapped(struct heat *heat, uint64_t now_ns)
{
	heat->zap_done_ns[(heat->round + 1) % HEAT_RING] = now_ns;
}

static void grow_older(struct blocks *blocks, uint64_t block)
{
	if (blocks->generation[block] < BLOCK_GENERATION_MAX)
		blocks->generation[block]++;
	if (blocks->guess[block] && blocks->guess[block] < BLOCK_GENERATION_MAX)
		blocks->guess[block]++;
}

static void cool_down(struct blocks *blocks, uint64_t block)
{
	uint8_t tier = blocks_tier(blocks, block);

	if (tier && blocks->generation[block] % TIER_ROUNDS == 0)
		blocks_set_tier(blocks, block, tier - 1);
}

void heat_look(struct blocks *blocks, uint64_t first, uint64_t count, const uint8_t *used, struct heat_seen *seen)
{
	for (uint64_t i = 0; i < count; i++) {
		uint64_t block = first + i;
		bool zapped = blocks_has(blocks, block, BLOCK_ZAPPED);

		switch (blocks_state(blocks, block)) {
		case BLOCK_HOLE:
			break;
		case BLOCK_COLD:
			grow_older(blocks, block);
			break;
		case BLOCK_RESIDENT:
			blocks_clear(blocks, block, BLOCK_ZAPPED);
			if (used[i]) {
				seen->returned += zapped || blocks->generation[block] > 0;
				heat_used(blocks, block);
			} else {
				seen->idle++;
				if (zapped || blocks->generation[block] > 0) {
					grow_older(blocks, block);
					cool_down(blocks, block);
				}
			}
			break;
		case BLOCK_LOADING:
		case BLOCK_STORING:
		case BLOCK_UPDATING:
			if (used[i])
				heat_used(blocks, block);
			break;
		}
	}
}

void heat_looked(struct heat *heat, struct blocks *blocks)
{
	heat->round++;
	blocks->rounds++;
}

void heat_slept(struct blocks *blocks, uint64_t rounds)
{
	blocks->rounds += rounds < BLOCK_GENERATION_MAX ? (uint32_t)rounds : BLOCK_GENERATION_MAX;
}

static uint64_t idle_ns(const struct heat *heat, uint64_t generation, uint64_t now_ns)
{
	uint64_t zapped;

	if (!generation || generation > heat->round)
		return 0;
	zapped = heat->zap_done_ns[(heat->round - generation + 1) % HEAT_RING];
	return zapped && now_ns > zapped ? now_ns - zapped : 0;
}

unsigned int heat_idle_generation(const struct heat *heat, uint64_t least_ns, uint64_t now_ns)
{
	unsigned int generation = 1;

	while (generation <= BLOCK_GENERATION_MAX && generation <= heat->round &&
	       idle_ns(heat, generation, now_ns) < least_ns)
		generation++;
	return generation;
}

void heat_used(struct blocks *blocks, uint64_t block)
{
	if (blocks_rounds_owed(blocks, block))
		blocks_pay_rounds(blocks, block);
	blocks_clear(blocks, block, BLOCK_ZAPPED);
	if (blocks->generation[block])
		blocks->generation[block] = 0;
	if (blocks->guess[block])
		blocks->guess[block] = 0;
}

static uint8_t aged(uint8_t generation, uint32_t rounds)
{
	return rounds < BLOCK_GENERATION_MAX - (uint32_t)generation ? (uint8_t)(generation + rounds)
								    : BLOCK_GENERATION_MAX;
}

uint8_t heat_age(const struct blocks *blocks, uint64_t block)
{
	uint8_t generation = blocks->generation[block], guess = blocks->guess[block];

	switch (blocks_state(blocks, block)) {
	case BLOCK_HOLE:
		return 0;
	case BLOCK_COLD:
		return aged(generation, blocks_rounds_owed(blocks, block));
	case BLOCK_RESIDENT:
	case BLOCK_LOADING:
	case BLOCK_STORING:
	case BLOCK_UPDATING:
		break;
	}
	return guess > generation ? guess : generation;
}

void heat_set_age(struct blocks *blocks, uint64_t block, uint8_t generation)
{
	/* Younger is always true: absent for long is absent for short. */
	bool guessed = blocks_state(blocks, block) == BLOCK_RESIDENT && generation > blocks->generation[block];

	blocks_pay_rounds(blocks, block);
	if (!guessed)
		blocks->generation[block] = generation;
	blocks->guess[block] = guessed ? generation : 0;
}

void heat_doubt(struct blocks *blocks, uint64_t block)
{
	uint8_t age = heat_age(blocks, block);

	heat_used(blocks, block);
	if (age)
		blocks->guess[block] = age;
}

void heat_demoted(struct blocks *blocks, uint64_t block)
{
	if (blocks->guess[block] > blocks->generation[block])
		blocks->generation[block] = blocks->guess[block];
	if (blocks->guess[block])
		blocks->guess[block] = 0;
}

void heat_promoted(const struct heat *heat, struct blocks *blocks, uint64_t block)
{
	uint64_t soon = heat->leave_age_256th * SOON_TIMES / 256;
	uint8_t tier = blocks_tier(blocks, block);

	blocks_pay_rounds(blocks, block);
	if ((unsigned int)blocks->generation[block] >> (TIER_SHIFT * tier) < (soon ? soon : SOON_ROUNDS)) {
		if (tier < HEAT_TIER_MAX)
			blocks_set_tier(blocks, block, tier + 1);
	} else if (tier > 0) {
		blocks_set_tier(blocks, block, tier - 1);
	}
	heat_used(blocks, block);
}

bool heat_favour(struct blocks *blocks, uint64_t block)
{
	uint8_t tier = blocks_tier(blocks, block);

	if (blocks_state(blocks, block) != BLOCK_COLD || tier == HEAT_TIER_MAX)
		return false;
	blocks_set_tier(blocks, block, tier + 1);
	return true;
}

void heat_leave(struct heat *heat, const struct blocks *blocks, const uint32_t *block, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (blocks_tier(blocks, block[i]) == 0)
			heat->leave_age_256th += blocks->generation[block[i]] - heat->leave_age_256th / 256;
}

/* What may be demoted: these bits of a block's word, and a generation from lowest to highest. */
struct bounds {
	uint16_t mask, wanted;
	unsigned int lowest, highest;
	unsigned int older; /* than lowest, without a stored copy */
};

static struct bounds bounds_of(const struct heat *heat, const struct heat_filter *filter)
{
	struct bounds bounds = { .mask = BLOCK_STATE_MASK | BLOCK_PINNED | BLOCK_OWNED | BLOCK_DAMAGED,
				 .wanted = BLOCK_RESIDENT,
				 .highest = BLOCK_GENERATION_MAX };

	if (filter->cached) {
		bounds.mask = BLOCK_CACHED | BLOCK_PINNED;
		bounds.wanted = BLOCK_CACHED;
	} else if (filter->mapped) {
		if (heat->round < bounds.highest)
			bounds.highest = (unsigned int)heat->round;
		bounds.lowest = heat_idle_generation(heat, filter->min_idle_ns, filter->now_ns);
		bounds.older = filter->older;
	}
	if (filter->stored) {
		bounds.mask |= BLOCK_STORED;
		bounds.wanted |= BLOCK_STORED;
	}
	return bounds;
}

static bool eligible(const struct blocks *blocks, const struct bounds *bounds, uint64_t block)
{
	unsigned int lowest = bounds->lowest + (blocks->word[block] & BLOCK_STORED ? 0 : bounds->older);

	return (blocks->word[block] & bounds->mask) == bounds->wanted && blocks->generation[block] >= lowest &&
	       blocks->generation[block] <= bounds->highest;
}

static unsigned int class_of(const struct blocks *blocks, uint64_t block)
{
	uint8_t tier = blocks_tier(blocks, block);

	return (heat_age(blocks, block) >> (TIER_SHIFT * tier)) * (HEAT_TIER_MAX + 1U) + (HEAT_TIER_MAX - tier);
}

void heat_count(const struct heat *heat, const struct blocks *blocks, const struct heat_filter *filter,
		uint64_t in_class[static HEAT_CLASSES])
{
	struct bounds bounds = bounds_of(heat, filter);

	for (uint64_t block = filter->first; block < filter->first + filter->count; block++)
		if (eligible(blocks, &bounds, block))
			in_class[class_of(blocks, block)]++;
}

unsigned int heat_threshold(const uint64_t in_class[static HEAT_CLASSES], uint64_t wanted)
{
	unsigned int class = HEAT_CLASSES;
	uint64_t found = 0;

	while (class > 0 && found < wanted)
		found += in_class[--class];
	return class;
}

size_t heat_pick(const struct heat *heat, const struct blocks *blocks, const struct heat_filter *filter,
		 unsigned int lowest_class, uint32_t *ret, size_t max)
{
	struct bounds bounds = bounds_of(heat, filter);
	size_t picked = 0;

	for (uint64_t block = filter->first; block < filter->first + filter->count && picked < max; block++)
		if (eligible(blocks, &bounds, block) && class_of(blocks, block) >= lowest_class)
			ret[picked++] = (uint32_t)block;
	return picked;
}
