/* Equality that somebody arranged. Two blocks with the same XXH3-64, of which one is not the other: whatever the engine
 * compares by, it must not take them for equal. And what is stored with such a hash, by versions of before, is read,
 * and equal to nothing. The engine is real, the store in memory. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "base/le.h"
#include "engine/access.h"
#include "engine/clone.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/load.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/write.h"
#include "policy/demand.h"
#include "policy/tiering.h"
#include "lib/lib_ident.h"
#include "lib_check.h"

#define INO 7
#define CLONE_INO 8
#define BLOCK 16384U
#define BLOCKS 8U
#define PAYLOAD_AT 4096U
/* Of x: before this it is as its maker wanted, behind it as y. */
#define SOLVED_AT 12800U

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file;
static uint8_t memory[1 << 20] __attribute__((aligned(64)));
static uint8_t x[BLOCK] __attribute__((aligned(64))), y[BLOCK] __attribute__((aligned(64)));

/* Two stripes of XXH3, found by solving for its eight accumulators. */
static const uint64_t solved[16] = {
	0xae49076d8950ae70, 0xa32e531b487b790a, 0xed6c06ebaae3d783, 0xd8acdea9ffffffff,
	0x803274e42c63ab2c, 0x1d4f0bc735444e83, 0x44958741e65f5808, 0x647378d9ffffffff,
	0xb47ed8b9acdacdc8, 0x4ef90da200000000, 0x89b4c74e91198989, 0x3f349ce303f505a5,
	0xa36c377171bc0524, 0x3159b4cd00000000, 0xd6db867c2c064271, 0xc3ebd33494a98dc0,
};

static void make_pair(void)
{
	for (size_t i = 0; i < BLOCK; i++) {
		y[i] = (uint8_t)(i * 31 + (i >> 8));
		x[i] = i < SOLVED_AT ? (uint8_t)(i * 17 + (i >> 9) + 7) : y[i];
	}
	for (size_t i = 0; i < sizeof(solved) / sizeof(solved[0]); i++)
		put_le(x + SOLVED_AT + 8 * i, solved[i], 8);
}

static void start(void)
{
	struct engine_config config = { .store = store,
					.arena_dir = arena_dir,
					.block_bytes = BLOCK,
					.dram_bytes = 2 * BLOCKS * BLOCK,
					.min_idle_ns = NS_PER_S,
					.level = 1 };

	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	ck_assert_int_eq(ramfile_load(engine, INO, BLOCKS * BLOCK, false, &file), 0);
}

static void stop(void)
{
	file_check(file);
	ramfile_unload(file);
	tiering_free(engine);
}

static void setup(void)
{
	scratch_new(&scratch, "ident");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	make_pair();
	start();
}

static void teardown(void)
{
	stop();
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

static void write_dram(uint64_t block, const uint8_t *content)
{
	ck_assert_int_eq(ramfile_write(file, content, BLOCK, block * BLOCK, false), 0);
}

static enum block_state state_of(uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	return blocks_state(&file->blocks, block);
}

static void demote(uint64_t block)
{
	struct file_done done;

	ck_assert_int_eq(demand_demote(file, block * BLOCK, BLOCK, NULL, NULL, &done), 0);
	ck_assert_int_eq(state_of(block), BLOCK_COLD);
}

static void promote(uint64_t block)
{
	struct file_done done;

	ck_assert_int_eq(load_promote(file, block * BLOCK, BLOCK, NULL, NULL, &done), 0);
	ck_assert_int_eq(state_of(block), BLOCK_RESIDENT);
}

static void expect(uint64_t block, const uint8_t *content)
{
	uint8_t got[BLOCK];
	size_t length;

	ck_assert_int_eq(ramfile_read(file, got, BLOCK, block * BLOCK, &length), 0);
	ck_assert_uint_eq(length, BLOCK);
	ck_assert_mem_eq(got, content, BLOCK);
}

static struct ramfile_figures figures(void)
{
	struct ramfile_figures now;

	ramfile_figures(file, &now);
	return now;
}

static struct access_buffer buffer_of(struct tierfs_access_record record)
{
	*(struct tierfs_access_record *)memory = record;
	return (struct access_buffer){ .base = memory,
				       .bytes = sizeof(memory),
				       .record = (struct tierfs_access_record *)memory,
				       .records = 1,
				       .payload_at = PAYLOAD_AT,
				       .payload_bytes = sizeof(memory) - PAYLOAD_AT };
}

static const struct tierfs_access_record *list_one(uint64_t block, uint32_t flags, struct tierfs_ident known)
{
	struct access_buffer buffer =
		buffer_of((struct tierfs_access_record){ .block = block, .count = 1, .ident = known });

	ck_assert_int_eq(access_read_list(file, flags, &buffer), 0);
	return buffer.record;
}

static const struct tierfs_access_record *write_one(struct tierfs_access_record record, const void *payload)
{
	struct access_buffer buffer;

	record.count = 1;
	record.payload_at = record.payload_bytes ? PAYLOAD_AT : 0;
	memcpy(memory + PAYLOAD_AT, payload, record.payload_bytes);
	buffer = buffer_of(record);
	ck_assert_int_eq(access_write(file, 0, &buffer), 0);
	return buffer.record;
}

/* --- the pair ----------------------------------------------------------------------------------------------------- */

START_TEST(the_pair_is_one)
{
	ck_assert_uint_eq(codec_checksum(x, BLOCK), codec_checksum(y, BLOCK));
	ck_assert_mem_ne(x, y, BLOCK);
	ck_assert(!ident_same(ident_of(x, BLOCK), ident_of(y, BLOCK)));
}
END_TEST

/* Demoted as x, back, overwritten by y, demoted again: y. */
START_TEST(a_demotion_sees_the_difference)
{
	write_dram(1, x);
	demote(1);
	promote(1);
	write_dram(1, y);
	demote(1);
	expect(1, y);
	promote(1);
	expect(1, y);
	ck_assert_uint_eq(atomic_load(&file->counts.clean_demotions), 0);
	demote(1);
	ck_assert_uint_eq(atomic_load(&file->counts.clean_demotions), 1);
	expect(1, y);
}
END_TEST

/* What a mount of before knew of a block, a new one knows as well. */
START_TEST(a_demotion_is_clean_after_a_restart)
{
	write_dram(1, x);
	demote(1);
	stop();
	start();
	promote(1);
	demote(1);
	ck_assert_uint_eq(atomic_load(&file->counts.clean_demotions), 1);
	promote(1);
	write_dram(1, y);
	demote(1);
	ck_assert_uint_eq(atomic_load(&file->counts.clean_demotions), 1);
	expect(1, y);
}
END_TEST

/* A round of a move: the other side has x. Resident, and cold. */
START_TEST(a_round_sends_the_difference)
{
	const uint32_t flags = TIERFS_ACCESS_STORED | TIERFS_ACCESS_ALSO_RESIDENT | TIERFS_ACCESS_CHANGED;
	struct tierfs_ident sent;

	write_dram(1, x);
	sent = list_one(1, flags, IDENT_NONE)->ident;
	ck_assert(ident_known(sent));
	ck_assert_uint_eq(list_one(1, flags, sent)->payload_bytes, 0);
	write_dram(1, y);
	ck_assert_uint_ne(list_one(1, flags, sent)->payload_bytes, 0);
	demote(1);
	ck_assert_uint_ne(list_one(1, flags, sent)->payload_bytes, 0);
}
END_TEST

START_TEST(a_comparison_sees_the_difference)
{
	write_dram(1, x);
	demote(1);
	promote(1);
	ck_assert_uint_eq(list_one(1, TIERFS_ACCESS_COMPARE, IDENT_NONE)->copy, TIERFS_COPY_SAME);
	write_dram(1, y);
	ck_assert_uint_eq(list_one(1, TIERFS_ACCESS_COMPARE, IDENT_NONE)->copy, TIERFS_COPY_DIFFERS);
}
END_TEST

/* x is away, and y comes, as plain content and as a value of the host that it comes from. */
START_TEST(what_is_away_is_not_replaced_by_the_other)
{
	struct tierfs_access_record away = { .block = 1, .form = TIERFS_FORM_AWAY, .ident = ident_of(x, BLOCK) };
	struct tierfs_access_record plain = { .block = 1,
					      .form = TIERFS_FORM_PLAIN,
					      .ident = ident_of(y, BLOCK),
					      .payload_bytes = BLOCK,
					      .flags = TIERFS_BLOCK_AWAY };
	struct tierfs_access_record stored = { .block = 1, .form = TIERFS_FORM_STORED, .flags = TIERFS_BLOCK_AWAY };
	uint8_t value[BLOCK + 64];
	struct codec *codec;
	size_t length;

	ck_assert_int_eq(write_one(away, "")->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_int_eq(write_one(plain, y)->error, ESTALE);
	plain.ident = IDENT_NONE;
	ck_assert_int_eq(write_one(plain, x)->error, ESTALE);
	ck_assert_int_eq(codec_new(BLOCK, 1, &codec), 0);
	for (int right = 0; right < 2; right++) {
		const uint8_t *content = right ? x : y;

		ck_assert_int_eq(codec_encode(codec, (struct store_key){ 0, 1 }, (struct codec_hotness){ 0 }, content,
					      ident_of(content, BLOCK), value, sizeof(value), &length),
				 0);
		stored.payload_bytes = (uint32_t)length;
		ck_assert_int_eq(write_one(stored, value)->error, right ? 0 : ESTALE);
	}
	codec_free(codec);
	expect(1, x);
}
END_TEST

/* A value that says that its content is another one is believed by nobody. */
START_TEST(a_value_that_lies)
{
	struct tierfs_access_record stored = { .block = 1, .form = TIERFS_FORM_STORED };
	uint8_t value[BLOCK + 64];
	struct codec *codec;
	size_t length;

	ck_assert_int_eq(codec_new(BLOCK, 1, &codec), 0);
	ck_assert_int_eq(codec_encode(codec, (struct store_key){ 0, 1 }, (struct codec_hotness){ 0 }, x,
				      ident_of(y, BLOCK), value, sizeof(value), &length),
			 0);
	codec_free(codec);
	stored.payload_bytes = (uint32_t)length;
	ck_assert_int_eq(write_one(stored, value)->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert(ident_same(list_one(1, TIERFS_ACCESS_NO_PAYLOAD, IDENT_NONE)->ident, ident_of(x, BLOCK)));
	promote(1);
	write_dram(1, y);
	demote(1);
	expect(1, y);
}
END_TEST

START_TEST(a_clone_has_the_difference)
{
	struct ramfile_cloned cloned;
	uint8_t value[BLOCK + 64], got[BLOCK];
	struct codec *codec;
	size_t length;

	write_dram(1, x);
	demote(1);
	promote(1);
	write_dram(1, y);
	ck_assert_int_eq(ramfile_clone(file, CLONE_INO, NULL, NULL, &cloned), 0);
	ck_assert_int_eq(store->ops->get(store, STORE_GUEST, (struct store_key){ CLONE_INO, 1 }, value, sizeof(value),
					 &length),
			 0);
	ck_assert_int_eq(codec_new(BLOCK, 1, &codec), 0);
	ck_assert_int_eq(codec_decode(codec, (struct store_key){ CLONE_INO, 1 }, value, length, got, NULL), 0);
	codec_free(codec);
	ck_assert_mem_eq(got, y, BLOCK);
}
END_TEST

/* What somebody read through the file gets the name that the daemon would give it. */
START_TEST(content_is_identified)
{
	struct access_buffer buffer = buffer_of((struct tierfs_access_record){
		.block = 1, .form = TIERFS_FORM_PLAIN, .payload_at = PAYLOAD_AT, .payload_bytes = BLOCK });

	memcpy(memory + PAYLOAD_AT, x, BLOCK);
	ck_assert_int_eq(access_identify(file, &buffer), 0);
	ck_assert(ident_same(buffer.record[0].ident, ident_of(x, BLOCK)));
	buffer.record[0].payload_bytes = BLOCK + 1;
	ck_assert_int_eq(access_identify(file, &buffer), 0);
	ck_assert_int_eq(buffer.record[0].error, EINVAL);
	buffer.record[0].payload_bytes = BLOCK;
	buffer.record[0].form = TIERFS_FORM_PLAIN;
	buffer.record[0].payload_at = sizeof(memory) - BLOCK + 1;
	ck_assert_int_eq(access_identify(file, &buffer), 0);
	ck_assert_int_eq(buffer.record[0].error, EINVAL);
}
END_TEST

/* --- values of the old form --------------------------------------------------------------------------------------- */

/* As versions of before made them. This does not change. Returns the length. */
static uint32_t old_value(uint64_t block, uint8_t kind, const void *payload, uint32_t length, uint64_t hash,
			  uint8_t *ret)
{
	uint8_t covered[40];

	ret[0] = 1;
	ret[1] = kind;
	ret[2] = 5; /* generation */
	ret[3] = 1; /* engine */
	ret[4] = 14;
	put_le(ret + 5, length, 3);
	put_le(ret + 8, hash, 8);
	put_le(covered, INO, 8);
	put_le(covered + 8, block, 8);
	memcpy(covered + 16, ret, 16);
	put_le(covered + 32, codec_checksum(payload, length), 8);
	put_le(ret + 16, codec_checksum(covered, sizeof(covered)), 8);
	memcpy(ret + 24, payload, length);
	return 24 + length;
}

static void put_old(uint64_t block, uint8_t kind, const void *payload, uint32_t length, uint64_t hash)
{
	uint8_t value[BLOCK + 64];
	struct store_item item = { .key = { INO, block }, .value = value };

	item.length_bytes = old_value(block, kind, payload, length, hash, value);
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, &item, 1), 0);
}

/* Raw x and y, a pattern (whose value is as long as one that is away is now), and one that is away. */
static void start_old(void)
{
	stop();
	put_old(1, CODEC_RAW, x, BLOCK, codec_checksum(x, BLOCK));
	put_old(2, CODEC_PATTERN, "pattern!", 8, 4711);
	put_old(3, CODEC_AWAY, "", 0, codec_checksum(x, BLOCK));
	start();
}

START_TEST(old_values_are_read)
{
	uint8_t want[BLOCK];

	for (size_t i = 0; i < BLOCK; i += 8)
		memcpy(want + i, "pattern!", 8);
	start_old();
	for (uint64_t block = 1; block <= 3; block++)
		ck_assert_int_eq(state_of(block), BLOCK_COLD);
	ck_assert_uint_eq(figures().away_bytes, BLOCK);
	expect(1, x);
	expect(2, want);
	ck_assert_uint_eq(list_one(1, 0, IDENT_NONE)->generation, 5);
	promote(1);
	promote(2);
	expect(1, x);
	expect(2, want);
}
END_TEST

/* Not even to themselves: the first demotion writes them again, in the new form. */
START_TEST(old_values_are_equal_to_nothing)
{
	start_old();
	ck_assert(!ident_known(list_one(1, TIERFS_ACCESS_NO_PAYLOAD, IDENT_NONE)->ident));
	promote(1);
	demote(1);
	ck_assert_uint_eq(atomic_load(&file->counts.clean_demotions), 0);
	expect(1, x);
	ck_assert(ident_same(list_one(1, TIERFS_ACCESS_NO_PAYLOAD, IDENT_NONE)->ident, ident_of(x, BLOCK)));
	promote(1);
	demote(1);
	ck_assert_uint_eq(atomic_load(&file->counts.clean_demotions), 1);

	stop();
	put_old(1, CODEC_RAW, x, BLOCK, codec_checksum(x, BLOCK));
	start();
	promote(1);
	write_dram(1, y);
	demote(1);
	expect(1, y);
}
END_TEST

/* On their way to others they have the new form, with an identity that is made of their content. */
START_TEST(old_values_travel_in_the_new_form)
{
	const uint32_t flags = TIERFS_ACCESS_STORED | TIERFS_ACCESS_CHANGED;
	const struct tierfs_access_record *record;
	struct tierfs_access_record stored = { .block = 4, .form = TIERFS_FORM_STORED };
	uint8_t value[BLOCK + 64], got[BLOCK];
	struct codec_info info;
	struct codec *codec;

	start_old();
	record = list_one(1, flags, IDENT_NONE);
	ck_assert(ident_same(record->ident, ident_of(x, BLOCK)));
	ck_assert_int_eq(codec_new(BLOCK, 1, &codec), 0);
	ck_assert_int_eq(codec_decode(codec, (struct store_key){ 0, 1 }, memory + record->payload_at,
				      record->payload_bytes, got, &info),
			 0);
	codec_free(codec);
	ck_assert_mem_eq(got, x, BLOCK);
	ck_assert(ident_same(info.ident, ident_of(x, BLOCK)));
	ck_assert_uint_eq(info.header_bytes, CODEC_HEADER_BYTES);
	ck_assert_uint_eq(list_one(1, flags, ident_of(x, BLOCK))->payload_bytes, 0);
	ck_assert_uint_ne(list_one(1, flags, ident_of(y, BLOCK))->payload_bytes, 0);
	/* One that comes in the old form is taken, and stored in the new one. */
	stored.payload_bytes = old_value(4, CODEC_RAW, x, BLOCK, 17, value);
	ck_assert_int_eq(codec_rekey(value, stored.payload_bytes, (struct store_key){ INO, 4 },
				     (struct store_key){ 0, 4 }, NULL),
			 0);
	ck_assert_int_eq(write_one(stored, value)->result, TIERFS_ACCESS_WRITE_OK);
	expect(4, x);
	ck_assert(ident_same(list_one(4, TIERFS_ACCESS_NO_PAYLOAD, IDENT_NONE)->ident, ident_of(x, BLOCK)));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ident");
	TCase *tests = tcase_create("ident");

	tcase_set_timeout(tests, 60);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, the_pair_is_one);
	tcase_add_test(tests, a_demotion_sees_the_difference);
	tcase_add_test(tests, a_demotion_is_clean_after_a_restart);
	tcase_add_test(tests, a_round_sends_the_difference);
	tcase_add_test(tests, a_comparison_sees_the_difference);
	tcase_add_test(tests, what_is_away_is_not_replaced_by_the_other);
	tcase_add_test(tests, a_value_that_lies);
	tcase_add_test(tests, a_clone_has_the_difference);
	tcase_add_test(tests, content_is_identified);
	tcase_add_test(tests, old_values_are_read);
	tcase_add_test(tests, old_values_are_equal_to_nothing);
	tcase_add_test(tests, old_values_travel_in_the_new_form);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
