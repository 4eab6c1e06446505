/* unit/test_places.c - the table of places against an array; index records. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "cold/index.h"
#include "cold/places.h"
#include "cold/shares.h"
#include "lib_check.h"

#define FILES 3U
#define BLOCKS 3000U

static struct places places;
static struct place want[FILES][BLOCKS];
static bool there[FILES][BLOCKS];
static uint64_t state = 88172645463325252U;

static uint32_t next_random(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 20) % below;
}

static struct place random_place(void)
{
	return (struct place){
		next_random(PLACE_SEGMENTS),
		next_random(PLACE_OFFSET_LIMIT / PLACE_UNIT_BYTES) * PLACE_UNIT_BYTES,
		next_random(PLACE_LENGTH_LIMIT),
	};
}

static void set(uint32_t file, uint32_t block)
{
	struct store_key key = { file, block };
	struct place place = random_place(), old;
	bool had;

	ck_assert_int_eq(places_reserve(&places, key), 0);
	had = places_set(&places, key, place, &old);
	ck_assert_int_eq(had, there[file][block]);
	if (had)
		ck_assert(place_equal(old, want[file][block]));
	want[file][block] = place;
	there[file][block] = true;
}

static void forget(void *arg, struct store_key key, struct place place)
{
	uint32_t *count = arg;

	ck_assert(there[key.ino][key.block]);
	ck_assert(place_equal(place, want[key.ino][key.block]));
	there[key.ino][key.block] = false;
	++*count;
}

static void remove_range(uint32_t file, uint64_t first, uint64_t last)
{
	uint32_t expected = 0, count = 0;

	for (uint64_t block = first; block <= last && block < BLOCKS; block++)
		expected += there[file][block];
	places_remove(&places, file, first, last, forget, &count);
	ck_assert_uint_eq(count, expected);
}

static void count_one(void *arg, struct store_key key, struct place place)
{
	ck_assert(place_equal(place, want[key.ino][key.block]));
	++*(uint32_t *)arg;
}

static void check_file(uint32_t file)
{
	struct store_key key = { file, 0 };
	struct place place;
	uint32_t block = 0, some = 0, count = 0;
	uint64_t from = 0;

	while (places_next(&places, &key, UINT64_MAX, &place)) {
		for (; block < key.block; block++)
			ck_assert(!there[file][block]);
		ck_assert(there[file][block] && place_equal(place, want[file][block]));
		key.block = ++block;
		count++;
	}
	for (; block < BLOCKS; block++)
		ck_assert(!there[file][block]);
	while (places_some(&places, file, &from, count_one, &some))
		;
	ck_assert_uint_eq(some, count);
}

static void check_all(void)
{
	uint32_t count = 0, each = 0;
	struct place place;

	for (uint32_t file = 0; file < FILES; file++) {
		for (uint32_t block = 0; block < BLOCKS; block++) {
			bool found = places_get(&places, (struct store_key){ file, block }, &place);

			ck_assert_int_eq(found, there[file][block]);
			ck_assert(!found || place_equal(place, want[file][block]));
			count += found;
		}
		check_file(file);
	}
	places_each(&places, count_one, &each);
	ck_assert_uint_eq(each, count);
	ck_assert_uint_eq(places.count, count);
}

START_TEST(as_an_array)
{
	for (int i = 0; i < 40000; i++) {
		uint32_t file = next_random(FILES), block = next_random(BLOCKS);

		if (next_random(100) < 97)
			set(file, block);
		else
			remove_range(file, block, block + next_random(next_random(4) ? 40 : BLOCKS));
		if (i % 4000 == 0)
			check_all();
	}
	for (uint32_t file = 0; file < FILES; file++)
		remove_range(file, 0, UINT64_MAX);
	check_all();
	ck_assert_uint_eq(places.memory_bytes, 0);
	set(1, 7);
	places_clear(&places);
	ck_assert_uint_eq(places.memory_bytes, 0);
}
END_TEST

START_TEST(ends_of_the_key_space)
{
	struct store_key low = { 0, 0 }, high = { UINT64_MAX, UINT64_MAX }, key = { UINT64_MAX, 0 };
	struct place place = { PLACE_SEGMENTS - 1, PLACE_OFFSET_LIMIT - PLACE_UNIT_BYTES, PLACE_LENGTH_LIMIT - 1 }, got;
	struct place zero = { 0 };
	uint64_t *inos;
	size_t count;

	ck_assert_int_eq(places_reserve(&places, low), 0);
	ck_assert_int_eq(places_reserve(&places, high), 0);
	ck_assert(!places_get(&places, low, &got)); /* room is not a place */
	places_set(&places, low, zero, &got);
	places_set(&places, high, place, &got);
	ck_assert(places_get(&places, low, &got) && place_equal(got, zero));
	ck_assert(places_get(&places, high, &got) && place_equal(got, place));
	ck_assert(!places_next(&places, &key, UINT64_MAX - 1, &got));
	ck_assert(places_next(&places, &key, UINT64_MAX, &got));
	ck_assert_uint_eq(key.block, UINT64_MAX);
	ck_assert_int_eq(places_files(&places, &inos, &count), 0);
	ck_assert_uint_eq(count, 2);
	free(inos);
	places_clear(&places);
}
END_TEST

static void count_removed(void *arg, struct store_key key, struct place place)
{
	(void)key;
	(void)place;
	++*(uint32_t *)arg;
}

/* Of a long range, so that others get to the table in between; what is left lies before what was removed. */
START_TEST(a_removal_in_pieces)
{
	const struct place place = { 1, 0, 100 };
	struct place old;
	struct places long_one = { 0 };
	uint32_t pieces = 0, removed = 0, before;
	uint64_t last = UINT64_MAX, left;
	bool more = true;

	for (uint64_t i = 0; i < 1000; i++) {
		struct store_key key = { 1, i * 300 };

		ck_assert_int_eq(places_reserve(&long_one, key), 0);
		places_set(&long_one, key, place, &old);
	}
	while (more) {
		before = removed;
		left = last;
		more = places_remove_some(&long_one, 1, 3000, &last, count_removed, &removed);
		ck_assert_uint_le(removed - before, 64);
		ck_assert_uint_eq(long_one.count, 1000 - removed);
		if (more)
			ck_assert_uint_lt(last, left);
		for (uint64_t i = 0; i < 1000; i++)
			ck_assert_int_eq(places_get(&long_one, (struct store_key){ 1, i * 300 }, &old),
					 i < 1000 - removed);
		pieces++;
	}
	ck_assert_uint_eq(removed, 990);
	ck_assert_uint_ge(pieces, 15);
	places_clear(&long_one);
	ck_assert_uint_eq(long_one.memory_bytes, 0);
}
END_TEST

/* Against a plain array: entries are found after any order of additions and removals. */
START_TEST(share_table)
{
	enum { PLACES = 5000, STEPS = 60000 };
	static uint32_t refs[PLACES];
	struct shares shares = { 0 };
	uint64_t rng = 1;
	size_t count = 0;

	ck_assert_ptr_null(shares_find(&shares, (struct place){ 1, 0, 1 }));
	for (int step = 0; step < STEPS; step++) {
		uint32_t i = (uint32_t)((rng = rng * UINT64_C(6364136223846793005) + 1) >> 33) % PLACES;
		struct place place = { i / 100, i % 100 * PLACE_UNIT_BYTES, 64 };
		struct share *share = shares_find(&shares, place);

		ck_assert_int_eq(share != NULL, refs[i] != 0);
		if (share) {
			ck_assert(share->refs == refs[i] && share->origin == i + UINT64_C(1));
			shares_remove(&shares, share);
			refs[i] = 0;
			count--;
			continue;
		}
		refs[i] = (uint32_t)step + 1;
		ck_assert_int_eq(shares_reserve(&shares, 1), 0);
		shares_add(&shares, place, i + UINT64_C(1), refs[i]);
		ck_assert_uint_eq(shares_add(&shares, place, 0, 0)->refs, refs[i]); /* there is one already */
		count++;
	}
	ck_assert_uint_eq(shares.count, count);
	for (uint32_t i = 0; i < PLACES; i++) {
		struct share *share = shares_find(&shares, (struct place){ i / 100, i % 100 * PLACE_UNIT_BYTES, 64 });

		ck_assert_uint_eq(share ? share->refs : 0, refs[i]);
	}
	shares_clear(&shares);
	ck_assert_uint_eq(shares_memory_bytes(&shares), 0);
}
END_TEST

/* Not a hole: a value that cannot be found. */
static void expect_nowhere(const struct index_record *record, size_t len)
{
	static const uint8_t key[INDEX_KEY_BYTES];
	struct store_key got_key;
	struct place got;
	uint64_t origin;

	ck_assert(index_unpack(key, sizeof(key), record, len, &got_key, &got, &origin));
	ck_assert_uint_eq(got.segment, PLACE_NOWHERE);
}

START_TEST(index_records)
{
	static const uint8_t wanted_key[INDEX_KEY_BYTES] = { 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4 };
	static const uint8_t wanted[sizeof(struct index_record)] = {
		5, 0, 0, 0, 2, 0, 0, 0, 9, 1, 0, 0, 'h', 'e', 'a', 'd', [12 + STORE_HEAD_BYTES] = INDEX_VERSION,
		8, 0, 0, 0, 7, 0, 0, 0
	};
	const size_t own = sizeof(struct index_record) - 8; /* of a value that the key's own file put */
	struct store_key wanted_at = { 0x102, 0x304 };
	uint64_t origin;
	struct place place = { 5, 2 * PLACE_UNIT_BYTES, 0x109 }, got;
	struct index_record record;
	uint8_t key[INDEX_KEY_BYTES];
	struct store_key got_key;

	index_key(wanted_at, key);
	ck_assert_mem_eq(key, wanted_key, sizeof(key));
	ck_assert_uint_eq(index_pack(wanted_at, place, 0x102, "head", 4, &record), own);
	ck_assert_mem_eq(&record, wanted, own);
	ck_assert(index_unpack(key, sizeof(key), &record, own, &got_key, &got, &origin));
	ck_assert(got_key.ino == 0x102 && got_key.block == 0x304 && place_equal(got, place) && origin == 0x102);
	ck_assert_uint_eq(index_pack(wanted_at, place, UINT64_C(0x700000008), "head", 4, &record), sizeof(record));
	ck_assert_mem_eq(&record, wanted, sizeof(record));
	ck_assert(index_unpack(key, sizeof(key), &record, sizeof(record), &got_key, &got, &origin));
	ck_assert(place_equal(got, place) && origin == UINT64_C(0x700000008));

	ck_assert(!index_unpack(key, sizeof(key) - 1, &record, sizeof(record), &got_key, &got, &origin));
	/* As the first versions wrote it: a shorter head, no version, and the origin behind them if there is one. */
	ck_assert(index_unpack(key, sizeof(key), &record, 12 + INDEX_OLD_HEAD_BYTES, &got_key, &got, &origin));
	ck_assert(place_equal(got, place) && origin == 0x102);
	memcpy(&record.head[INDEX_OLD_HEAD_BYTES], (const uint8_t[8]){ 6, 0, 0, 0, 7 }, 8);
	ck_assert(index_unpack(key, sizeof(key), &record, 12 + INDEX_OLD_HEAD_BYTES + 8, &got_key, &got, &origin));
	ck_assert(place_equal(got, place) && origin == UINT64_C(0x700000006));
	expect_nowhere(&record, own - 2);
	expect_nowhere(&record, sizeof(record) - 1);
	record.version++;
	expect_nowhere(&record, sizeof(record));
	record.version--;
	record.segment[3] = 1;
	expect_nowhere(&record, sizeof(record));
	record.segment[3] = 0;
	record.offset[3] = 1;
	expect_nowhere(&record, sizeof(record));
	record.offset[3] = 0;
	record.length[3] = 1;
	expect_nowhere(&record, sizeof(record));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("places");
	TCase *tests = tcase_create("places");

	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, as_an_array);
	tcase_add_test(tests, ends_of_the_key_space);
	tcase_add_test(tests, a_removal_in_pieces);
	tcase_add_test(tests, share_table);
	tcase_add_test(tests, index_records);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
