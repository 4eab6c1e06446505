/* The second half of a post-copy: what is away comes, first what somebody waits for, whatever breaks or is replaced
 * meanwhile, and nothing that is not what was said before. Cold access is a fake: no daemon, no mount.
 */
/* link: -Wl,--wrap=open64 -Wl,--wrap=__open64_2 -Wl,--wrap=pwrite64 -Wl,--wrap=fallocate64 -Wl,--wrap=fsync */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fake_access.h"
#include "lib/move_pair.h"
#include "lib_check.h"

#define BLOCKS 500U

static struct move move;
static uint64_t cold_blocks;

static void setup(void)
{
	pair_setup();
	make_mixed(source_path, BLOCKS, 1);
	cold_blocks = count_blocks(source_path, TIERFS_STATE_COLD, false);
}

static void begin(bool rest)
{
	move_init(&move, true);
	move.sender.post_copy = true;
	move.rest = rest;
}

/* All but the rest is there. */
static void begin_with_the_rest(void)
{
	begin(false);
	move_must(&move);
	ck_assert_uint_eq(count_blocks(target_path, TIERFS_STATE_COLD, true), cold_blocks);
	move_fini(&move);
	move_init(&move, true);
	move.rest_only = true;
}

/* What is not away is as it was at the source. */
static void expect_nothing_wrong(void)
{
	const struct fake_file *file = file_at(target_path);
	size_t bytes, other_bytes;
	uint8_t *content = read_file(source_path, &bytes), *other = read_file(target_path, &other_bytes);

	ck_assert_uint_eq(bytes, other_bytes);
	for (size_t i = 0; i < bytes; i++)
		if (other[i] != (file->block[i / BLOCK].away ? 0 : content[i]))
			ck_abort_msg("byte %zu (block %zu) differs", i, i / BLOCK);
	free(content);
	free(other);
}

/* --- all comes ---------------------------------------------------------------------------------------------------- */

START_TEST(nothing_is_away_at_last)
{
	begin(true);
	move_must(&move);
	expect_same(source_path, target_path, BLOCKS);
	ck_assert_uint_eq(move.sender.away_blocks, cold_blocks);
	ck_assert_uint_eq(move.receiver.away_blocks, cold_blocks);
	ck_assert_uint_eq(move.fetcher.totals.other_blocks, cold_blocks);
	ck_assert_uint_eq(move.server.totals.other_blocks, cold_blocks);
	ck_assert_uint_eq(move.fetcher.totals.stream_bytes, move.server.totals.stream_bytes);
	move_fini(&move);
}
END_TEST

#define WANTED 490U

/* Under the mutex of fake: no other block is taken before the one that somebody waits for. */
static int wanted_first(enum fake_op op, struct fake_file *file, uint64_t block)
{
	if (op != FAKE_WRITE || file->pool != &fake.pool[1] || block == WANTED)
		return 0;
	return file->block[WANTED].away ? -EBUSY : 0;
}

START_TEST(what_somebody_waits_for_comes_first)
{
	begin_with_the_rest();
	ck_assert(file_at(target_path)->block[WANTED].away);
	file_at(target_path)->block[WANTED].wanted = true;
	fake.hook = wanted_first;
	move_must(&move);
	expect_same(source_path, target_path, BLOCKS);
	ck_assert_uint_eq(move.fetcher.totals.wanted_blocks, 1);
	ck_assert_uint_eq(move.server.totals.wanted_blocks, 1);
	ck_assert_uint_gt(move.fetcher.totals.longest_ns, 0);
	ck_assert_uint_eq(move.server.totals.longest_ns, move.fetcher.totals.longest_ns);
	move_fini(&move);
}
END_TEST

/* What the target has in DRAM, and what its kernel caches, is of no use. */
START_TEST(in_place)
{
	struct fake_file *file;

	make_mixed(target_path, BLOCKS, 3000);
	file = file_at(target_path);
	for (uint64_t block = 0; block < BLOCKS; block++) {
		set_block(target_path, block, (block / 3 + 1 + block % 2) % 3, 99, 3000 + block);
		file->block[block].cached = file->block[block].state == TIERFS_STATE_RESIDENT && block % 4 == 1;
	}
	fake_fail((struct fake_fault){ .op = FAKE_WRITE, .pool = 1, .times = 150, .err = EBUSY });
	begin(true);
	move.receiver.in_place = true;
	move_must(&move);
	expect_same_content(source_path, target_path);
	for (uint64_t block = 0; block < BLOCKS; block++)
		ck_assert_uint_eq(file->block[block].generation, file_at(source_path)->block[block].generation);
	ck_assert_uint_eq(count_blocks(target_path, TIERFS_STATE_COLD, true), 0);
	move_fini(&move);
}
END_TEST

/* Daemons are replaced, and the disk is full for a moment: it is asked for again. */
START_TEST(it_goes_on)
{
	static const enum fake_op op[] = { FAKE_WRITE, FAKE_READ, FAKE_WANTED };

	begin_with_the_rest();
	fake_fail(
		(struct fake_fault){ .op = op[_i], .pool = 1, .call = true, .after = 1, .times = 2, .err = ENOTCONN });
	if (_i == 0)
		fake_fail((struct fake_fault){ .op = FAKE_WRITE, .pool = 1, .after = 70, .times = 1, .err = ENOSPC });
	fake_fail((struct fake_fault){ .op = FAKE_LIST, .pool = 0, .after = 20, .times = 3, .err = EBUSY });
	move_must(&move);
	expect_same(source_path, target_path, BLOCKS);
	move_fini(&move);
}
END_TEST

/* --- what breaks -------------------------------------------------------------------------------------------------- */

START_TEST(another_connection_goes_on)
{
	uint64_t left;

	begin_with_the_rest();
	hook_after = 100;
	hook_breaks = &move;
	fake.hook = break_off;
	move_run(&move);
	ck_assert_int_ne(move.sent, 0);
	ck_assert_int_ne(move.received, 0);
	ck_assert_str_ne(move.server.why, "");
	ck_assert_str_ne(move.fetcher.why, "");
	move_fini(&move);
	expect_nothing_wrong();
	left = count_blocks(target_path, TIERFS_STATE_COLD, true);
	ck_assert_uint_gt(left, 0);
	fake.hook = NULL;
	move_init(&move, true);
	move.rest_only = true;
	move_must(&move);
	ck_assert_uint_eq(move.fetcher.totals.other_blocks, left);
	move_fini(&move);
	expect_same(source_path, target_path, BLOCKS);
}
END_TEST

/* One end fails, and both say why. */
static void expect_failure(int err, const char *why)
{
	move_run(&move);
	ck_assert(move.sent == err || move.received == err);
	ck_assert_msg(strstr(move.fetcher.why, why) != NULL, "%s", move.fetcher.why);
	ck_assert_msg(strstr(move.server.why, why) != NULL, "%s", move.server.why);
	move_fini(&move);
	expect_nothing_wrong();
}

#define CHANGED 40U

START_TEST(a_source_that_has_changed)
{
	const struct fake_block was = file_at(source_path)->block[CHANGED];

	ck_assert_int_eq(was.state, TIERFS_STATE_COLD);
	begin_with_the_rest();
	set_block(source_path, CHANGED, TIERFS_STATE_COLD, was.generation, 9999);
	expect_failure(-ESTALE, "block 40 cannot be written: it is not what it was");
	ck_assert(file_at(target_path)->block[CHANGED].away);
	/* It is what it was again. */
	set_block(source_path, CHANGED, TIERFS_STATE_RESIDENT, was.generation, 1 + CHANGED);
	move_init(&move, true);
	move.rest_only = true;
	move_must(&move);
	expect_same_content(source_path, target_path);
	move_fini(&move);
}
END_TEST

START_TEST(an_end_that_fails)
{
	static const struct fake_fault fault[] = {
		{ .op = FAKE_LIST, .pool = 0, .call = true, .after = 3, .times = UINT64_MAX, .err = ENOTCONN },
		{ .op = FAKE_WRITE, .pool = 1, .after = 50, .times = UINT64_MAX, .err = EIO },
		{ .op = FAKE_WANTED, .pool = 1, .call = true, .times = UINT64_MAX, .err = EBUSY },
	};
	static const char *const why[] = { "the daemon is gone", "cannot be written: Input/output error",
					   "another process has begun" };

	begin_with_the_rest();
	fake_fail(fault[_i]);
	if (_i < 2) {
		expect_failure(-fault[_i].err, why[_i]);
		return;
	}
	move_run(&move);
	ck_assert_int_ne(move.received, 0);
	ck_assert_msg(strstr(move.fetcher.why, why[_i]) != NULL, "%s", move.fetcher.why);
	move_fini(&move);
	expect_nothing_wrong();
}
END_TEST

static int cannot_be_read(enum fake_op op, struct fake_file *file, uint64_t block)
{
	return op == FAKE_LIST && file->pool == &fake.pool[0] && block == CHANGED ? -EIO : 0;
}

/* Or it is a hole there now: the others come. */
START_TEST(a_block_that_is_gone)
{
	begin_with_the_rest();
	if (_i)
		set_block(source_path, CHANGED, TIERFS_STATE_HOLE, 0, 0);
	else
		fake.hook = cannot_be_read;
	move_run(&move);
	ck_assert_int_eq(move.received, -EIO);
	ck_assert_msg(strstr(move.fetcher.why, "block 40 cannot be read at the source") != NULL, "%s",
		      move.fetcher.why);
	ck_assert_uint_eq(move.fetcher.totals.gone_blocks, 1);
	ck_assert_uint_eq(move.server.totals.gone_blocks, 1);
	ck_assert_uint_eq(count_blocks(target_path, TIERFS_STATE_COLD, true), 1);
	move_fini(&move);
	expect_nothing_wrong();
}
END_TEST

START_TEST(another_file)
{
	begin_with_the_rest();
	ck_assert_int_eq(truncate(source_path, (off_t)(BLOCKS - 1) * BLOCK), 0);
	source_close(&move.source);
	ck_assert_int_eq(source_open(source_path, false, &move.source, &(const char *){ NULL }), 0);
	move_run(&move);
	ck_assert_int_eq(move.received, -ESTALE);
	ck_assert_int_ne(move.sent, 0);
	ck_assert(strstr(move.fetcher.why, "another size"));
	move_fini(&move);
}
END_TEST

/* --- large blocks ------------------------------------------------------------------------------------------------- */

#define LARGE (1U << 20)
#define LARGE_BLOCKS 24U

static int write_value(void *arg, const struct source_value *value)
{
	struct stream_record record = { .type = STREAM_BLOCK,
					.generation = value->generation,
					.tier = value->tier,
					.block = value->block,
					.payload = value->payload,
					.length_bytes = value->length_bytes };

	return writer_block(arg, &record);
}

/* The rest as a file: all answers are there at once. */
static int write_rest(const char *path)
{
	struct stream_header header = { .size_bytes = UINT64_C(1) * LARGE * LARGE_BLOCKS, .block_bytes = LARGE };
	struct channel file = { .in_fd = -1, .out_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) };
	struct source_wish wish = {};
	uint64_t block[LARGE_BLOCKS];
	struct writer *writer;

	for (uint64_t i = 0; i < LARGE_BLOCKS; i++)
		block[i] = i;
	ck_assert_int_eq(writer_new(STREAM_REST, &header, channel_write, &file, &writer), 0);
	ck_assert_int_eq(source_values(&move.source, &wish, block, LARGE_BLOCKS, write_value, writer), 0);
	ck_assert_int_eq(writer_end(writer, IDENT_NONE), 0);
	writer_free(writer);
	ck_assert_int_eq(lseek(file.out_fd, 0, SEEK_SET), 0);
	return file.out_fd;
}

START_TEST(more_than_the_buffer_takes)
{
	char path[SCRATCH_PATH_LEN + 8];

	pair_teardown();
	pair_setup_blocks(LARGE, LARGE);
	make_file(source_path, UINT64_C(1) * LARGE * LARGE_BLOCKS);
	for (uint64_t block = 0; block < LARGE_BLOCKS; block++)
		set_block(source_path, block, TIERFS_STATE_COLD, 1, 2 + 3 * block);
	cold_blocks = LARGE_BLOCKS;
	begin_with_the_rest();
	snprintf(path, sizeof(path), "%s/rest", scratch.path);
	move.in.in_fd = write_rest(path);
	pair_receive(&move);
	ck_assert_msg(!move.received, "%s", move.fetcher.why);
	pair_close(&move.out);
	move_fini(&move);
	expect_same(source_path, target_path, LARGE_BLOCKS);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("rest");
	TCase *tcase = tcase_create("rest");

	suite_add_tcase(suite, tcase);
	tcase_set_timeout(tcase, 120);
	tcase_add_checked_fixture(tcase, setup, pair_teardown);
	tcase_add_test(tcase, nothing_is_away_at_last);
	tcase_add_test(tcase, what_somebody_waits_for_comes_first);
	tcase_add_test(tcase, in_place);
	tcase_add_loop_test(tcase, it_goes_on, 0, 3);
	tcase_add_test(tcase, another_connection_goes_on);
	tcase_add_test(tcase, a_source_that_has_changed);
	tcase_add_loop_test(tcase, an_end_that_fails, 0, 3);
	tcase_add_loop_test(tcase, a_block_that_is_gone, 0, 2);
	tcase_add_test(tcase, another_file);
	tcase_add_test(tcase, more_than_the_buffer_takes);
	return check_run(suite);
}
