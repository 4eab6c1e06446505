/* unit/test_store_share.c - values that several files have: any order of puts, removals, shares and reopens against a
 * plain array, on each implementation of the store; on RocksDB also the space, and what the collector makes of it.
 *
 * TIERFS_SEED=N repeats a run.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/cleanup.h"
#include "cold/codec.h"
#include "cold/store_rocks.h"
#include "cold/warm.h"
#include "lib_check.h"
#include "lib/lib_ident.h"

#define BLOCK_BYTES 16384U
#define SEGMENT_BYTES (1U << 20)
#define FILES 6
#define BLOCKS 200
#define STEPS 400

enum kind { KIND_MEM, KIND_ROCKS, KIND_WARM };

static struct scratch scratch;
static char dir[SCRATCH_PATH_LEN + 16], warm_dir[SCRATCH_PATH_LEN + 16];
static enum kind kind;
static struct store *store;
static struct codec *codec;
static uint64_t rng;
static uint32_t want[FILES + 1][BLOCKS]; /* what each block has; 0: nothing */
static uint32_t next_content;

static uint64_t rnd(uint64_t below)
{
	rng = rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (rng >> 33) % below;
}

static void open_store(bool create)
{
	struct store_rocks_config config = { .dir = dir,
					     .create = create,
					     .block_bytes = BLOCK_BYTES,
					     .write_buffer_bytes = 1 << 20,
					     .segment_bytes = SEGMENT_BYTES };
	struct store_warm_config warm = { .bytes = 8 << 20, .block_bytes = BLOCK_BYTES };

	ck_assert_int_eq(store_rocks_open(&config, &store), 0);
	if (kind != KIND_WARM)
		return;
	warm.below = store;
	warm.dir_fd = open(warm_dir, O_RDONLY | O_DIRECTORY);
	ck_assert_int_ge(warm.dir_fd, 0);
	ck_assert_int_eq(store_warm_open(&warm, &store), 0);
}

static void make_store(enum kind wanted)
{
	kind = wanted;
	snprintf(dir, sizeof(dir), "%s/XXXXXX", scratch.path);
	snprintf(warm_dir, sizeof(warm_dir), "%s/XXXXXX", scratch.path);
	ck_assert(mkdtemp(dir) && mkdtemp(warm_dir));
	ck_assert_int_eq(codec_new(BLOCK_BYTES, 1, &codec), 0);
	if (kind == KIND_MEM)
		ck_assert_int_eq(store_mem_new(&store), 0);
	else
		open_store(true);
}

static void free_store(void)
{
	store->ops->free(store);
	codec_free(codec);
}

static void fill(uint8_t *at, uint32_t content)
{
	uint64_t state = content * UINT64_C(0x9e3779b97f4a7c15);

	for (uint32_t i = 0; i < BLOCK_BYTES; i++) {
		state = state * UINT64_C(6364136223846793005) + 1442695040888963407U;
		at[i] = (uint8_t)(state >> 56);
	}
}

static void put(uint64_t ino, uint64_t first, uint64_t count)
{
	CLEANUP_FREE struct store_item *items = calloc(count, sizeof(*items));
	size_t bound = codec_bound(BLOCK_BYTES), length;
	CLEANUP_FREE uint8_t *values = malloc(count * bound);
	uint8_t plain[BLOCK_BYTES];

	for (uint64_t i = 0; i < count; i++) {
		struct store_key key = { ino, first + i };

		want[ino][first + i] = ++next_content;
		fill(plain, next_content);
		ck_assert_int_eq(codec_encode(codec, key, (struct codec_hotness){ 1, 1 }, plain,
					      ident_of(plain, BLOCK_BYTES), values + i * bound, bound, &length),
				 0);
		items[i] = (struct store_item){ key, values + i * bound, (uint32_t)length };
	}
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, items, count), 0);
}

static void removed(uint64_t ino, uint64_t first, uint64_t count)
{
	ck_assert_int_eq(store->ops->remove(store, ino, first, count), 0);
	memset(&want[ino][first], 0, count * sizeof(want[ino][0]));
}

static void set_age(void *arg, uint64_t block, uint8_t head[static STORE_HEAD_BYTES])
{
	(void)arg;
	codec_set_hotness(head, (struct codec_hotness){ (uint8_t)block, 3 });
}

static void share(uint64_t from, uint64_t to, uint64_t first, uint64_t count)
{
	struct store_share share = { .from = from, .to = to, .first = first, .count = count, .edit = set_age };

	removed(to, first, count);
	ck_assert_int_eq(store->ops->share(store, &share), 0);
	memcpy(&want[to][first], &want[from][first], count * sizeof(want[to][0]));
}

struct seen {
	uint64_t ino, next, end;
	bool heads, aged;
};

static void expect_block(uint64_t ino, uint64_t block, const void *value, size_t length)
{
	static uint8_t got[BLOCK_BYTES], plain[BLOCK_BYTES];

	ck_assert_uint_ne(want[ino][block], 0);
	ck_assert_int_eq(codec_decode(codec, (struct store_key){ ino, block }, value, length, got, NULL), 0);
	fill(plain, want[ino][block]);
	ck_assert_mem_eq(got, plain, BLOCK_BYTES);
}

static int see(void *arg, struct store_key key, const void *value, uint32_t length)
{
	struct seen *seen = arg;
	struct codec_info info;

	ck_assert_uint_eq(key.ino, seen->ino);
	while (seen->next < key.block)
		ck_assert_uint_eq(want[seen->ino][seen->next++], 0);
	seen->next++;
	ck_assert_uint_ne(want[key.ino][key.block], 0);
	if (!seen->heads) {
		expect_block(key.ino, key.block, value, length);
		return 0;
	}
	ck_assert_int_eq(codec_peek(value, length, &info), 0);
	if (seen->aged)
		ck_assert(info.hotness.generation == (uint8_t)key.block && info.hotness.tier == 3);
	return 0;
}

static void check_heads(uint64_t ino, uint64_t first, uint64_t count, bool aged)
{
	struct seen seen = { .ino = ino, .next = first, .end = first + count, .heads = true, .aged = aged };

	ck_assert_int_eq(store->ops->heads(store, ino, first, count, see, &seen), 0);
	while (seen.next < seen.end)
		ck_assert_uint_eq(want[ino][seen.next++], 0);
}

static void check_file(uint64_t ino)
{
	struct seen seen = { .ino = ino, .end = BLOCKS };
	static uint8_t value[BLOCK_BYTES + 4096];
	uint64_t block = rnd(BLOCKS);
	size_t length;
	int r;

	ck_assert_int_eq(store->ops->walk(store, STORE_DIRECT, ino, 0, BLOCKS, see, &seen), 0);
	while (seen.next < seen.end)
		ck_assert_uint_eq(want[ino][seen.next++], 0);
	check_heads(ino, 0, BLOCKS, false);
	r = store->ops->get(store, STORE_GUEST, (struct store_key){ ino, block }, value, sizeof(value), &length);
	ck_assert_int_eq(r, want[ino][block] ? 0 : -ENOENT);
	if (r == 0)
		expect_block(ino, block, value, length);
}

static void check_all(void)
{
	for (uint64_t ino = 1; ino <= FILES; ino++)
		check_file(ino);
}

static void step(void)
{
	uint64_t ino = 1 + rnd(FILES), to = 1 + rnd(FILES), first = rnd(BLOCKS), count = 1 + rnd(BLOCKS - first);

	switch (rnd(kind == KIND_MEM ? 8 : 9)) {
	case 0:
	case 1:
	case 2:
		put(ino, first, count);
		break;
	case 3:
		removed(ino, first, count);
		break;
	case 4:
		removed(ino, 0, BLOCKS);
		break;
	case 5:
	case 6:
		if (to == ino)
			break;
		share(ino, to, first, count);
		check_heads(to, first, count, kind == KIND_MEM);
		break;
	case 7:
		check_file(ino);
		break;
	case 8:
		if (rnd(10))
			break;
		store->ops->free(store);
		open_store(false);
		break;
	}
}

START_TEST(as_an_array)
{
	const char *seed = getenv("TIERFS_SEED");

	memset(want, 0, sizeof(want));
	rng = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
	printf("TIERFS_SEED=%llu\n", (unsigned long long)rng);
	fflush(stdout);
	make_store((enum kind)_i);
	for (int i = 0; i < STEPS; i++) {
		step();
		if (i % 50 == 0)
			check_all();
	}
	check_all();
	for (uint64_t ino = 1; ino <= FILES; ino++)
		removed(ino, 0, BLOCKS);
	check_all();
	free_store();
}
END_TEST

static uint64_t disk_bytes(void)
{
	struct store_figures figures;

	ck_assert_int_eq(store->ops->sync(store), 0);
	store->ops->figures(store, &figures);
	return figures.disk_bytes;
}

/* A copy takes no space but for its records, and the last user takes the value along, in any order, also after a
 * reopen, where the counts are made anew. */
START_TEST(space)
{
	uint64_t one;

	memset(want, 0, sizeof(want));
	make_store(KIND_ROCKS);
	put(1, 0, BLOCKS);
	one = disk_bytes();
	ck_assert_uint_eq(store->ops->shared_bytes(store, 1), 0);
	share(1, 2, 0, BLOCKS);
	check_heads(2, 0, BLOCKS, true);
	share(2, 3, 0, BLOCKS);
	ck_assert_uint_lt(disk_bytes(), one + SEGMENT_BYTES);
	ck_assert_uint_ge(store->ops->shared_bytes(store, 1), (uint64_t)BLOCKS * BLOCK_BYTES);
	ck_assert_uint_eq(store->ops->shared_bytes(store, 1), store->ops->shared_bytes(store, 3));
	if (_i & 1) {
		store->ops->free(store);
		open_store(false);
		check_heads(2, 0, BLOCKS, true);
	}
	removed(_i & 2 ? 3 : 1, 0, BLOCKS);
	check_all();
	ck_assert_uint_gt(store->ops->shared_bytes(store, 2), 0);
	removed(_i & 4 ? 2 : _i & 2 ? 1 : 3, 0, BLOCKS);
	check_all();
	ck_assert_uint_ge(disk_bytes(), one - SEGMENT_BYTES);
	for (uint64_t ino = 1; ino <= 3; ino++) {
		ck_assert_uint_eq(store->ops->shared_bytes(store, ino), 0);
		removed(ino, 0, BLOCKS);
	}
	ck_assert_uint_lt(disk_bytes(), one / 4);
	free_store();
}
END_TEST

/* Garbage between shared values is collected, although each of them is named several times, and a value that is moved
 * stays one: there is garbage before all is shared, so that values begin to be shared while the collector has its list
 * of them. */
START_TEST(collected)
{
	uint64_t most = (uint64_t)BLOCKS * BLOCK_BYTES + 5 * SEGMENT_BYTES, now = 0; /* so much is not worth it */

	memset(want, 0, sizeof(want));
	make_store(KIND_ROCKS);
	for (uint64_t block = 0; block < BLOCKS; block++) { /* three of four will go */
		put(1, block, 1);
		put(6, block, 1);
		put(5, 0, 2);
	}
	for (uint64_t ino = 2; ino <= 4; ino++)
		share(1, ino, 0, BLOCKS);
	removed(6, 0, BLOCKS);
	removed(5, 0, 2);
	for (int i = 0; i < 200; i++) { /* until it comes to rest, at most 20 s */
		now = disk_bytes();
		if (now < most)
			break;
		usleep(100000);
	}
	ck_assert_uint_lt(now, most);
	check_all();
	ck_assert_uint_ge(store->ops->shared_bytes(store, 2), (uint64_t)BLOCKS * BLOCK_BYTES);
	removed(1, 0, BLOCKS);
	store->ops->free(store);
	open_store(false);
	check_all();
	free_store();
}
END_TEST

/* Nothing else passes for a value of the block: damage is found, also where the value belongs to another file. */
START_TEST(of_another_block)
{
	static uint8_t value[BLOCK_BYTES + 4096], plain[BLOCK_BYTES];
	struct store_item item = { { 1, 5 }, value, 0 };
	size_t length;

	memset(want, 0, sizeof(want));
	make_store(KIND_ROCKS);
	put(1, 4, 1);
	ck_assert_int_eq(store->ops->get(store, STORE_GUEST, (struct store_key){ 1, 4 }, value, sizeof(value), &length),
			 0);
	item.length_bytes = (uint32_t)length;
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, &item, 1), 0); /* what was never made for block 5 */
	want[1][5] = want[1][4];
	share(1, 2, 0, BLOCKS);
	ck_assert_int_eq(store->ops->get(store, STORE_GUEST, (struct store_key){ 2, 5 }, value, sizeof(value), &length),
			 0);
	ck_assert_int_eq(codec_decode(codec, (struct store_key){ 2, 5 }, value, length, plain, NULL), -EBADMSG);
	ck_assert_int_eq(codec_decode(codec, (struct store_key){ 1, 5 }, value, length, plain, NULL), -EBADMSG);
	ck_assert_int_eq(store->ops->get(store, STORE_GUEST, (struct store_key){ 2, 4 }, value, sizeof(value), &length),
			 0);
	expect_block(2, 4, value, length);
	free_store();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("store_share");
	TCase *tests = tcase_create("share");
	int failed;

	scratch_new(&scratch, "store_share");
	tcase_set_timeout(tests, 120);
	tcase_add_loop_test(tests, as_an_array, KIND_MEM, KIND_WARM + 1);
	tcase_add_loop_test(tests, space, 0, 8);
	tcase_add_test(tests, collected);
	tcase_add_test(tests, of_another_block);
	suite_add_tcase(suite, tests);
	failed = check_run(suite);
	scratch_free(&scratch);
	return failed;
}
