#include "mem/heat.h"

#include <stdio.h>
#include <stdlib.h>

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

		mark[i] = blocks_state(blocks, block) == BLOCK_RESIDENT && !blocks->born[block] &&
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

/* The block was not seen in use: it is of generation 1 when the look has ended, or a round older by itself. */
static void grow_older(struct blocks *blocks, uint64_t block)
{
	uint32_t rounds = blocks->born[block] ? blocks->rounds - blocks->born[block] + 1 : 1;
	uint8_t tier = blocks_tier(blocks, block);

	if (!blocks->born[block])
		blocks_set_age(blocks, block, blocks->rounds, blocks->guess[block]);
	if (tier && rounds % TIER_ROUNDS == 0)
		blocks_set_tier(blocks, block, tier - 1);
}

void heat_look(struct blocks *blocks, uint64_t first, uint64_t count, const uint8_t *used, struct heat_seen *seen)
{
	for (uint64_t i = 0; i < count; i++) {
		uint64_t block = first + i;
		bool zapped = blocks_has(blocks, block, BLOCK_ZAPPED);

		switch (blocks_state(blocks, block)) {
		case BLOCK_HOLE:
		case BLOCK_COLD:
			break;
		case BLOCK_RESIDENT:
			blocks_clear(blocks, block, BLOCK_ZAPPED);
			if (used[i]) {
				seen->returned += zapped || blocks->born[block];
				heat_used(blocks, block);
			} else {
				seen->idle++;
				if (zapped || blocks->born[block])
					grow_older(blocks, block);
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
	heat->absent_ns[blocks->rounds % HEAT_RING] = heat->zap_done_ns[heat->round % HEAT_RING];
	blocks_add_rounds(blocks, 1);
}

void heat_slept(struct heat *heat, struct blocks *blocks, uint64_t rounds)
{
	uint32_t most = rounds < HEAT_RING ? (uint32_t)rounds : HEAT_RING;

	for (uint32_t i = 0; i < most; i++)
		heat->absent_ns[(blocks->rounds + i) % HEAT_RING] = 0;
	blocks_add_rounds(blocks, most);
}

static uint64_t idle_ns(const struct heat *heat, const struct blocks *blocks, unsigned int generation, uint64_t now_ns)
{
	uint64_t zapped = generation ? heat->absent_ns[(blocks->rounds - generation) % HEAT_RING] : 0;

	return zapped && now_ns > zapped ? now_ns - zapped : 0;
}

/* No look was before: what is older came from elsewhere. */
static unsigned int oldest_generation(const struct blocks *blocks)
{
	uint32_t rounds = blocks->rounds - BLOCKS_FIRST_ROUND;

	return rounds < BLOCK_GENERATION_MAX ? rounds : BLOCK_GENERATION_MAX;
}

unsigned int heat_idle_generation(const struct heat *heat, const struct blocks *blocks, uint64_t least_ns,
				  uint64_t now_ns)
{
	unsigned int generation = 1, oldest = oldest_generation(blocks);

	while (generation <= oldest && idle_ns(heat, blocks, generation, now_ns) < least_ns)
		generation++;
	return generation;
}

void heat_used(struct blocks *blocks, uint64_t block)
{
	if (blocks_has(blocks, block, BLOCK_ZAPPED))
		blocks_clear(blocks, block, BLOCK_ZAPPED);
	blocks_set_age(blocks, block, blocks_state(blocks, block) == BLOCK_COLD ? blocks->rounds : 0, 0);
}

void heat_begin(struct blocks *blocks, uint64_t block)
{
	heat_used(blocks, block);
	blocks_set_age(blocks, block, blocks->rounds, 0);
}

void heat_wake(struct blocks *blocks, uint64_t block, uint64_t slept)
{
	uint64_t age = slept + blocks->guess[block];

	if (slept && !blocks->born[block])
		blocks_set_age(blocks, block,
			       blocks->rounds - (age < BLOCK_GENERATION_MAX ? (uint32_t)age : BLOCK_GENERATION_MAX), 0);
}

static uint8_t older(const struct blocks *blocks, uint64_t block, uint64_t by)
{
	uint64_t age = blocks_generation(blocks, block) + by;

	return age < BLOCK_GENERATION_MAX ? (uint8_t)age : BLOCK_GENERATION_MAX;
}

uint8_t heat_age(const struct blocks *blocks, uint64_t block)
{
	return older(blocks, block, blocks->guess[block]);
}

void heat_set_age(struct blocks *blocks, uint64_t block, uint8_t generation)
{
	enum block_state state = blocks_state(blocks, block);
	uint8_t has = blocks_generation(blocks, block);

	/* Younger is always true: absent for long is absent for short. */
	if (state == BLOCK_RESIDENT && generation > has)
		blocks_set_age(blocks, block, blocks->born[block], generation - has);
	else
		blocks_set_age(blocks, block, generation || state == BLOCK_COLD ? blocks->rounds - generation : 0, 0);
}

void heat_doubt(struct blocks *blocks, uint64_t block)
{
	uint8_t age = heat_age(blocks, block);

	heat_used(blocks, block);
	if (age)
		blocks_set_age(blocks, block, 0, age);
}

void heat_promoted(const struct heat *heat, struct blocks *blocks, uint64_t block)
{
	uint64_t soon = heat->leave_age_256th * SOON_TIMES / 256;
	unsigned int age = heat_age(blocks, block);
	uint8_t tier = blocks_tier(blocks, block);

	/* The highest age stands for all above it. */
	if (age < BLOCK_GENERATION_MAX && age >> (TIER_SHIFT * tier) < (soon ? soon : SOON_ROUNDS)) {
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
			heat->leave_age_256th += blocks_generation(blocks, block[i]) - heat->leave_age_256th / 256;
}

/* Generations of those that may be demoted. Blocks that the kernel's page cache holds are not counted by age. */
struct bounds {
	unsigned int lowest, highest;
	unsigned int older; /* than lowest, without a stored copy */
};

static struct bounds bounds_of(const struct heat *heat, const struct blocks *blocks, const struct heat_filter *filter)
{
	struct bounds bounds = { .highest = BLOCK_GENERATION_MAX };

	if (filter->mapped && !filter->cached) {
		bounds.lowest = heat_idle_generation(heat, blocks, filter->min_idle_ns, filter->now_ns);
		bounds.highest = oldest_generation(blocks);
		bounds.older = filter->older;
	}
	return bounds;
}

static bool eligible(const struct blocks *blocks, const struct heat_filter *filter, const struct bounds *bounds,
		     uint64_t block)
{
	unsigned int lowest = bounds->lowest + (blocks->word[block] & BLOCK_STORED ? 0 : bounds->older);
	uint8_t generation;

	if (filter->cached)
		return (blocks->word[block] & (BLOCK_CACHED | BLOCK_PINNED)) == BLOCK_CACHED;
	if (!blocks_free(blocks, block) || (filter->stored && !(blocks->word[block] & BLOCK_STORED)))
		return false;
	generation = blocks_generation(blocks, block);
	return generation >= lowest && generation <= bounds->highest;
}

static unsigned int class_of(unsigned int age, unsigned int tier)
{
	return (age >> (TIER_SHIFT * tier)) * (HEAT_TIER_MAX + 1U) + (HEAT_TIER_MAX - tier);
}

static unsigned int young_age(const struct heat_filter *filter, uint64_t guess)
{
	return filter->slept + guess < BLOCK_GENERATION_MAX ? (unsigned int)(filter->slept + guess)
							    : BLOCK_GENERATION_MAX;
}

static unsigned int class_of_block(const struct blocks *blocks, const struct heat_filter *filter, uint64_t block)
{
	return class_of(blocks->born[block] ? heat_age(blocks, block) : young_age(filter, blocks->guess[block]),
			blocks_tier(blocks, block));
}

void heat_count(const struct heat *heat, const struct blocks *blocks, const struct heat_filter *filter,
		uint64_t in_class[static HEAT_CLASSES])
{
	struct bounds bounds = bounds_of(heat, blocks, filter);

	for (uint64_t block = filter->first; block < filter->first + filter->count; block++)
		if (eligible(blocks, filter, &bounds, block))
			in_class[class_of_block(blocks, filter, block)]++;
}

/* --- by what is counted -------------------------------------------------------------------------------------- */

static unsigned int slot_of(const struct blocks *blocks, unsigned int generation)
{
	return generation < BLOCK_GENERATION_MAX ? (blocks->rounds - generation) % BLOCKS_AGES : BLOCKS_OLD;
}

/* Those without a guess. */
static void add_idle(const struct blocks *blocks, const struct bounds *bounds, uint64_t in_class[static HEAT_CLASSES])
{
	for (unsigned int generation = bounds->lowest; generation <= bounds->highest; generation++) {
		const uint32_t *count = blocks->ages->idle[slot_of(blocks, generation)];

		for (unsigned int tier = 0; tier <= HEAT_TIER_MAX; tier++)
			if (count[tier])
				in_class[class_of(generation, tier)] += count[tier];
	}
}

/* Of those with a guess it is counted how many are proven idle, and how old they are taken for, but not both of one
 * block. Those that are not proven are taken for the oldest, so that there never seem to be more of a class and above
 * it than there are. */
static void add_guessed(const struct blocks *blocks, const struct bounds *bounds,
			uint64_t in_class[static HEAT_CLASSES])
{
	uint64_t guessed[HEAT_CLASSES] = { 0 }, proven = 0, all = 0, unproven;

	for (unsigned int generation = 0; generation <= BLOCK_GENERATION_MAX; generation++) {
		unsigned int slot = slot_of(blocks, generation);

		all += blocks->ages->idle_proof[slot];
		if (generation >= bounds->lowest && generation <= bounds->highest)
			proven += blocks->ages->idle_proof[slot];
	}
	if (!proven)
		return;
	for (unsigned int age = 0; age <= BLOCK_GENERATION_MAX; age++)
		for (unsigned int tier = 0; tier <= HEAT_TIER_MAX; tier++)
			guessed[class_of(age, tier)] += blocks->ages->idle_guess[slot_of(blocks, age)][tier];
	unproven = all - proven;
	for (unsigned int class = HEAT_CLASSES; class -- > 0;) {
		uint64_t without = unproven < guessed[class] ? unproven : guessed[class];

		unproven -= without;
		in_class[class] += guessed[class] - without;
	}
}

static void add_young(const struct blocks *blocks, const struct heat_filter *filter,
		      uint64_t in_class[static HEAT_CLASSES])
{
	for (unsigned int tier = 0; tier <= HEAT_TIER_MAX; tier++) {
		in_class[class_of(young_age(filter, 0), tier)] += blocks->ages->young[tier];
		for (unsigned int guess = 1; blocks->guesses && guess <= BLOCK_GENERATION_MAX; guess++)
			in_class[class_of(young_age(filter, guess), tier)] += blocks->ages->young_guess[guess][tier];
	}
}

void heat_census(const struct heat *heat, const struct blocks *blocks, const struct heat_filter *filter,
		 uint64_t in_class[static HEAT_CLASSES])
{
	struct bounds bounds = bounds_of(heat, blocks, filter);

	if (bounds.lowest > bounds.highest)
		return;
	if (!bounds.lowest)
		add_young(blocks, filter, in_class);
	add_idle(blocks, &bounds, in_class);
	if (blocks->guesses)
		add_guessed(blocks, &bounds, in_class);
}

unsigned int heat_threshold(const uint64_t in_class[static HEAT_CLASSES], uint64_t wanted)
{
	unsigned int class = HEAT_CLASSES;
	uint64_t found = 0;

	while (class > 0 && found < wanted)
		found += in_class[--class];
	return class;
}

/* --- the choice ---------------------------------------------------------------------------------------------- */

/* It may have blocks of that class, or above it. */
static bool may_have(const struct blocks *blocks, const struct heat_filter *filter, enum blocks_kind kind,
		     unsigned int lowest_class, uint64_t block)
{
	const struct blocks_chunk *chunk = &blocks->chunk[block / BLOCKS_CHUNK];
	uint64_t age = blocks->rounds - chunk->oldest + filter->slept;

	return chunk->count[kind] &&
	       class_of(age < BLOCK_GENERATION_MAX ? (unsigned int)age : BLOCK_GENERATION_MAX, 0) >= lowest_class;
}

static uint64_t next_chunk(uint64_t block)
{
	return block + BLOCKS_CHUNK - block % BLOCKS_CHUNK;
}

bool heat_next_part(const struct blocks *blocks, struct heat_filter *filter, unsigned int lowest_class, uint64_t first,
		    uint64_t most)
{
	enum blocks_kind kind = filter->mapped ? BLOCKS_IDLE : BLOCKS_FREE;
	uint64_t end;

	while ((first = blocks_next(blocks, first, kind)) < blocks->count &&
	       !may_have(blocks, filter, kind, lowest_class, first))
		first = next_chunk(first);
	if (first >= blocks->count)
		return false;
	for (end = first; end < blocks->count && end - first < most;)
		if (may_have(blocks, filter, kind, lowest_class, end))
			end = next_chunk(end);
		else
			break;
	if (end > blocks->count)
		end = blocks->count;
	filter->first = first;
	filter->count = end - first < most ? end - first : most;
	return true;
}

size_t heat_pick(const struct heat *heat, struct blocks *blocks, const struct heat_filter *filter,
		 unsigned int lowest_class, uint32_t *ret, size_t max)
{
	struct bounds bounds = bounds_of(heat, blocks, filter);
	uint32_t oldest = blocks->rounds;
	bool whole = false;
	size_t picked = 0;

	for (uint64_t block = filter->first; block < filter->first + filter->count && picked < max; block++) {
		whole = block % BLOCKS_CHUNK == 0 || whole;
		if (block % BLOCKS_CHUNK == 0)
			oldest = blocks->rounds;
		if (eligible(blocks, filter, &bounds, block) && class_of_block(blocks, filter, block) >= lowest_class) {
			ret[picked++] = (uint32_t)block;
			heat_wake(blocks, block, filter->slept);
		}
		if (blocks_free(blocks, block) && (int32_t)(blocks_older_round(blocks, block) - oldest) < 0)
			oldest = blocks_older_round(blocks, block);
		if (whole && (block % BLOCKS_CHUNK == BLOCKS_CHUNK - 1 || block == blocks->count - 1))
			blocks_set_oldest(blocks, block, oldest);
	}
	return picked;
}

/* --- checks --------------------------------------------------------------------------------------------------- */

static void check_failed(unsigned int class, const char *what)
{
	fprintf(stderr, "tierfs: ages: class %u: %s\n", class, what);
	abort();
}

void heat_check(const struct heat *heat, const struct blocks *blocks, const struct heat_filter *filter)
{
	struct heat_filter part = *filter;
	uint64_t counted[HEAT_CLASSES] = { 0 }, walked[HEAT_CLASSES] = { 0 }, more = 0, there = 0;

	heat_census(heat, blocks, filter, counted);
	part.count = 0;
	for (part.first = 0;
	     blocks_next_part(blocks, part.first + part.count, BLOCKS_IN_DRAM, BLOCKS_CHUNK, &part.first, &part.count);)
		heat_count(heat, blocks, &part, walked);
	for (unsigned int class = HEAT_CLASSES; class -- > 0;) {
		more += counted[class];
		there += walked[class];
		if (more > there || (more != there && !blocks->guesses))
			check_failed(class, "what is counted is not what is there");
	}
	if (more != there)
		check_failed(0, "what is counted in all is not what is there");
}
