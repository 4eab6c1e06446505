/* Ages of blocks: what is counted of them is what a walk would find, whatever happens to a table, and nobody walks
 * where there is nothing to find. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "mem/blocks.h"
#include "mem/heat.h"
#include "lib_check.h"

#define CHUNKS 5U
#define COUNT (CHUNKS * BLOCKS_CHUNK - 100)
#define SECOND UINT64_C(1000000000)

static struct blocks blocks;
static struct heat heat;
static uint64_t now_ns, state;

static void setup(void)
{
	const char *seed = getenv("TIERFS_SEED");

	state = seed ? strtoull(seed, NULL, 10) : 1;
	now_ns = SECOND;
	memset(&heat, 0, sizeof(heat));
	ck_assert_int_eq(blocks_init(&blocks, COUNT), 0);
}

static void teardown(void)
{
	blocks_check(&blocks);
	blocks_fini(&blocks);
}

static uint64_t rnd(uint64_t below)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (state >> 33) % below;
}

static void put(uint64_t block, enum block_state to)
{
	if (to == BLOCK_COLD)
		blocks_set_stored(&blocks, block, 100, (struct tierfs_ident){ { 1, 0 } });
	blocks_place(&blocks, block, to);
}

/* A whole round; a block is seen in use once in so many times, 0: never. */
static void round_of(uint64_t used_once_in)
{
	static uint8_t map[COUNT];
	struct heat_seen seen = { 0 };

	heat_mark(&blocks, 0, COUNT, map);
	now_ns += SECOND;
	heat_zapped(&heat, now_ns);
	for (uint64_t block = 0; block < COUNT; block++)
		map[block] = used_once_in && !rnd(used_once_in);
	heat_look(&blocks, 0, COUNT, map, &seen);
	heat_looked(&heat, &blocks);
}

/* By counts and by parts, for any class, what a walk over everything finds. */
static void compare(const struct heat_filter *filter)
{
	static uint32_t found[COUNT], walked[COUNT];
	unsigned int class = (unsigned int)rnd(HEAT_CLASSES);
	struct heat_filter part = *filter, all = *filter;
	size_t some = 0, more;

	heat_check(&heat, &blocks, filter);
	all.first = 0;
	all.count = COUNT;
	class = rnd(2) ? class : class % 16;
	for (uint64_t from = 0; heat_next_part(&blocks, &part, class, from, 1 + rnd(3 * BLOCKS_CHUNK));
	     from = part.first + part.count)
		some += heat_pick(&heat, &blocks, &part, class, found + some, COUNT - some);
	more = heat_pick(&heat, &blocks, &all, class, walked, COUNT);
	ck_assert_uint_eq(some, more);
	ck_assert_int_eq(memcmp(found, walked, some * sizeof(*found)), 0);
}

static void change(uint64_t block)
{
	switch (rnd(12)) {
	case 0:
		put(block, BLOCK_HOLE);
		break;
	case 1:
	case 2:
		put(block, BLOCK_COLD);
		break;
	case 3:
	case 4:
	case 5:
		if (blocks_state(&blocks, block) == BLOCK_COLD)
			heat_promoted(&heat, &blocks, block);
		else if (blocks_state(&blocks, block) == BLOCK_HOLE)
			heat_used(&blocks, block);
		blocks_place(&blocks, block, BLOCK_RESIDENT);
		break;
	case 6:
		blocks_set_pinned(&blocks, block, !blocks_has(&blocks, block, BLOCK_PINNED));
		break;
	case 7:
		if (blocks_state(&blocks, block) == BLOCK_COLD || blocks_state(&blocks, block) == BLOCK_RESIDENT)
			heat_set_age(&blocks, block, (uint8_t)rnd(256));
		break;
	case 8:
		blocks_set_tier(&blocks, block, (uint8_t)rnd(4));
		break;
	case 9:
		if (blocks_state(&blocks, block) == BLOCK_RESIDENT)
			heat_doubt(&blocks, block);
		break;
	case 10:
		if (blocks_has(&blocks, block, BLOCK_DAMAGED))
			blocks_clear(&blocks, block, BLOCK_DAMAGED);
		else
			blocks_set(&blocks, block, BLOCK_DAMAGED);
		break;
	default:
		heat_used(&blocks, block);
	}
}

START_TEST(counts_are_what_a_walk_finds)
{
	if (_i) /* in the middle of it rounds start anew */
		blocks.rounds = BLOCKS_LAST_ROUND - 400;
	for (int step = 0; step < 1200; step++) {
		struct heat_filter filter = { .mapped = rnd(2), .min_idle_ns = rnd(40) * SECOND, .slept = rnd(20) };

		for (uint64_t i = rnd(200); i > 0; i--)
			change(rnd(COUNT));
		if (!rnd(3))
			round_of(1 + rnd(5));
		if (!rnd(40))
			heat_slept(&heat, &blocks, rnd(600));
		filter.now_ns = now_ns;
		filter.slept = filter.mapped ? 0 : filter.slept;
		compare(&filter);
		if (step % 50 == 0)
			blocks_check(&blocks);
	}
}
END_TEST

/* A block that is left alone becomes as old as can be, and is counted there; a cold one has the age of the rounds since
 * it left. */
START_TEST(who_is_not_visited_grows_older)
{
	uint64_t in_class[HEAT_CLASSES] = { 0 };
	struct heat_filter filter = { .mapped = true };

	put(0, BLOCK_RESIDENT);
	put(1, BLOCK_COLD);
	for (unsigned int i = 1; i <= 300; i++) {
		round_of(0);
		ck_assert_uint_eq(heat_age(&blocks, 0), i < 255 ? i : 255);
		ck_assert_uint_eq(heat_age(&blocks, 1), i < 255 ? i : 255);
	}
	filter.now_ns = now_ns;
	heat_census(&heat, &blocks, &filter, in_class);
	ck_assert_uint_eq(in_class[HEAT_CLASSES - 1], 1);
	heat_used(&blocks, 0);
	heat_used(&blocks, 1);
	ck_assert_uint_eq(heat_age(&blocks, 0), 0);
	round_of(0);
	ck_assert_uint_eq(heat_age(&blocks, 1), 1);
}
END_TEST

/* Rounds that were slept prove nothing: idle is what was absent since a zap, and known from then on. */
START_TEST(sleep_proves_nothing)
{
	put(0, BLOCK_RESIDENT);
	round_of(0);
	now_ns += SECOND;
	ck_assert_uint_eq(heat_idle_generation(&heat, &blocks, SECOND, now_ns), 1);
	heat_slept(&heat, &blocks, 10);
	ck_assert_uint_eq(heat_age(&blocks, 0), 11);
	ck_assert_uint_eq(heat_idle_generation(&heat, &blocks, SECOND, now_ns), 11);
	put(1, BLOCK_RESIDENT);
	heat_slept(&heat, &blocks, 10);
	ck_assert_uint_eq(heat_age(&blocks, 1), 0);
	ck_assert_uint_eq(heat_idle_generation(&heat, &blocks, SECOND, now_ns), heat_age(&blocks, 0));
	ck_assert_uint_gt(heat_idle_generation(&heat, &blocks, 10 * SECOND, now_ns), heat_age(&blocks, 0));
	heat_slept(&heat, &blocks, 1000);
	ck_assert_uint_gt(heat_idle_generation(&heat, &blocks, SECOND, now_ns), BLOCK_GENERATION_MAX);
}
END_TEST

/* Chunks of blocks that are all in use, or all younger than what is looked for, are passed by. */
START_TEST(parts_without_candidates_are_not_walked)
{
	struct heat_filter filter = { .mapped = true };
	uint32_t pick[4];

	for (uint64_t block = 0; block < COUNT; block++)
		put(block, BLOCK_RESIDENT);
	ck_assert(!heat_next_part(&blocks, &filter, 0, 0, COUNT));
	round_of(0);
	for (uint64_t block = 0; block < COUNT; block++)
		if (block != 2 * BLOCKS_CHUNK + 7)
			heat_used(&blocks, block);
	ck_assert(heat_next_part(&blocks, &filter, 0, 0, COUNT));
	ck_assert_uint_eq(filter.first, 2 * BLOCKS_CHUNK);
	ck_assert_uint_eq(filter.count, BLOCKS_CHUNK);
	ck_assert(!heat_next_part(&blocks, &filter, 0, 3 * BLOCKS_CHUNK, COUNT));
	for (int i = 0; i < 10; i++)
		round_of(0);
	/* All are idle, and one is older. */
	filter.now_ns = now_ns;
	ck_assert(heat_next_part(&blocks, &filter, 11 * BLOCK_TIERS, 0, COUNT));
	ck_assert_uint_eq(filter.first, 2 * BLOCKS_CHUNK);
	ck_assert_uint_eq(heat_pick(&heat, &blocks, &filter, 11 * BLOCK_TIERS, pick, 4), 1);
	ck_assert_uint_eq(pick[0], 2 * BLOCKS_CHUNK + 7);
	/* It goes: who has looked once in vain does not look again. */
	heat_used(&blocks, pick[0]);
	ck_assert(heat_next_part(&blocks, &filter, 11 * BLOCK_TIERS, 0, COUNT));
	ck_assert_uint_eq(heat_pick(&heat, &blocks, &filter, 11 * BLOCK_TIERS, pick, 4), 0);
	ck_assert(!heat_next_part(&blocks, &filter, 11 * BLOCK_TIERS, 0, COUNT));
}
END_TEST

/* As old as can be, it loses a tier no more often than before. */
START_TEST(the_oldest_keeps_its_tier_as_long)
{
	put(0, BLOCK_RESIDENT);
	for (int i = 0; i < 300; i++)
		round_of(0);
	blocks_set_tier(&blocks, 0, 3);
	for (int i = 0; i < 64; i++)
		round_of(0);
	ck_assert_uint_eq(blocks_tier(&blocks, 0), 2);
}
END_TEST

/* Rounds are counted from below again, and nothing becomes younger or older by it. */
START_TEST(rounds_do_not_wrap)
{
	static const unsigned int ages[] = { 0, 1, 3, 100, 254, 255 };
	const size_t count = sizeof(ages) / sizeof(ages[0]);

	blocks.rounds = BLOCKS_LAST_ROUND - 1;
	for (size_t i = 0; i < count; i++) {
		put(i, BLOCK_RESIDENT);
		blocks_set_age(&blocks, i, blocks.rounds - ages[i], (uint8_t)i);
		put(BLOCKS_CHUNK + i, BLOCK_COLD);
		heat_set_age(&blocks, BLOCKS_CHUNK + i, (uint8_t)ages[i]);
	}
	put(count, BLOCK_RESIDENT);
	blocks_set_age(&blocks, count, BLOCKS_FIRST_ROUND, 0); /* as old as the table */
	for (unsigned int more = 1; more < 300; more++) {
		heat_looked(&heat, &blocks);
		ck_assert_uint_lt(blocks.rounds, BLOCKS_LAST_ROUND);
		for (size_t i = 0; i < count; i++) {
			unsigned int age = ages[i] + more < 255 ? ages[i] + more : 255;

			ck_assert_uint_eq(blocks_generation(&blocks, i), age);
			ck_assert_uint_eq(heat_age(&blocks, BLOCKS_CHUNK + i), age);
		}
		ck_assert_uint_eq(heat_age(&blocks, count), 255);
		blocks_check(&blocks);
		heat_check(&heat, &blocks, &(struct heat_filter){ .mapped = more % 2, .now_ns = now_ns });
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("heat");
	TCase *tests = tcase_create("heat");

	tcase_set_timeout(tests, 120);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_loop_test(tests, counts_are_what_a_walk_finds, 0, 2);
	tcase_add_test(tests, who_is_not_visited_grows_older);
	tcase_add_test(tests, sleep_proves_nothing);
	tcase_add_test(tests, parts_without_candidates_are_not_walked);
	tcase_add_test(tests, the_oldest_keeps_its_tier_as_long);
	tcase_add_test(tests, rounds_do_not_wrap);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
