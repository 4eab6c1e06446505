/* Moving a file between two pools: what is sent arrives as it was, of two copies only the difference travels, and
 * whatever fails, the target is whole or as it was, and both ends say why. Cold access is a fake: no daemon, no mount.
 */
/* link: -Wl,--wrap=open64 -Wl,--wrap=__open64_2 -Wl,--wrap=pwrite64 -Wl,--wrap=fallocate64 -Wl,--wrap=fsync */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "lib/fake_access.h"
#include "lib/move_pair.h"
#include "lib_check.h"

#define BLOCKS 700U /* more than all requests under way take */
#define FEW 240U    /* for what is done often */
#define FOREVER UINT64_MAX

static struct move move;

static void remove_target(void)
{
	unlink(target_path);
	unlink(partial_path);
}

/* What is there now must still be there afterwards. */
static void make_target(uint64_t size_bytes, uint64_t seed)
{
	make_file(target_path, size_bytes);
	for (uint64_t block = 0; block < size_bytes / BLOCK; block++)
		set_block(target_path, block, TIERFS_STATE_COLD, 9, seed + block);
}

static void expect_target(uint64_t size_bytes, uint64_t seed)
{
	uint8_t want[BLOCK];
	size_t bytes;
	uint8_t *content = read_file(target_path, &bytes);

	ck_assert_uint_eq(bytes, size_bytes);
	for (uint64_t block = 0; block < size_bytes / BLOCK; block++) {
		make_content(seed + block, want, BLOCK);
		ck_assert_mem_eq(content + block * BLOCK, want, BLOCK);
	}
	free(content);
}

/* --- whole files -------------------------------------------------------------------------------------------------- */

/* _i: a pipe, or both ways. */
START_TEST(a_file_arrives_as_it_was)
{
	make_mixed(source_path, BLOCKS, 1);
	move_init(&move, _i);
	move_must(&move);
	expect_same(source_path, target_path, BLOCKS);
	ck_assert_int_ne(access(partial_path, F_OK), 0);
	ck_assert_uint_eq(move.sender.cold_blocks, count_blocks(source_path, TIERFS_STATE_COLD, false));
	ck_assert_uint_eq(move.sender.resident_blocks, count_blocks(source_path, TIERFS_STATE_RESIDENT, false));
	ck_assert_uint_eq(move.sender.cold_blocks + move.sender.resident_blocks + move.sender.hole_blocks, BLOCKS);
	ck_assert_uint_eq(move.sender.stream_bytes, move.receiver.stream_bytes);
	move_fini(&move);
}
END_TEST

START_TEST(small_and_empty_files)
{
	static const uint64_t size[] = { 0, 1, 8, BLOCK, BLOCK + 1 };

	for (size_t i = 0; i < sizeof(size) / sizeof(size[0]); i++) {
		unlink(source_path);
		remove_target();
		make_file(source_path, size[i]);
		if (size[i])
			set_block(source_path, 0, TIERFS_STATE_RESIDENT, 3, 3);
		move_once(true);
		expect_same(source_path, target_path, 2);
	}
}
END_TEST

/* Zeros in DRAM, what the kernel caches, and what is on its way. */
START_TEST(blocks_in_odd_states)
{
	struct fake_file *file;

	make_mixed(source_path, BLOCKS, 1);
	file = file_at(source_path);
	set_block(source_path, 6, TIERFS_STATE_RESIDENT, 1, 0);
	set_block(source_path, BLOCKS - 1, TIERFS_STATE_RESIDENT, 1, 77);
	for (uint64_t block = 10; block < BLOCKS; block += 5)
		if (file->block[block].state == TIERFS_STATE_RESIDENT)
			file->block[block].cached = true;
	fake_fail((struct fake_fault){ .op = FAKE_LIST, .pool = 0, .after = 20, .times = 5, .err = EBUSY });
	fake_fail((struct fake_fault){ .op = FAKE_LIST, .pool = 0, .after = 500, .times = 7, .err = ENOBUFS });
	fake_fail((struct fake_fault){ .op = FAKE_WRITE, .pool = 1, .after = 30, .times = 5, .err = EBUSY });
	move_once(true);
	expect_same_content(source_path, target_path);
	ck_assert_int_eq(file_at(target_path)->block[6].state, TIERFS_STATE_HOLE);
}
END_TEST

START_TEST(no_more_goes_to_dram_than_has_room)
{
	make_mixed(source_path, 300, 1); /* what is resident is one request */
	fake.pool[1].dram_blocks = 50;
	move_init(&move, true);
	move_must(&move);
	expect_same_content(source_path, target_path);
	ck_assert_uint_eq(count_blocks(target_path, TIERFS_STATE_RESIDENT, false), 50);
	/* The youngest ones have it. */
	for (uint64_t block = 0; block < 300; block++)
		if (file_at(target_path)->block[block].state == TIERFS_STATE_RESIDENT)
			ck_assert_uint_lt(file_at(target_path)->block[block].generation, 150);
	ck_assert_uint_eq(move.receiver.dram_blocks, 50);
	move_fini(&move);
}
END_TEST

/* _i: which way round. */
START_TEST(between_block_sizes)
{
	pair_teardown();
	pair_setup_blocks(_i ? 4 * BLOCK : BLOCK, _i ? BLOCK : 4 * BLOCK);
	make_file(source_path, UINT64_C(100) * 4 * BLOCK - 1000);
	for (uint64_t block = 0; block < 100; block++)
		set_block(source_path, block, block % 3, 5, 1 + block);
	move_once(true);
	expect_same_content(source_path, target_path);
	/* A list of other blocks says nothing, and the second time is as the first. */
	set_block(source_path, 50, TIERFS_STATE_HOLE, 0, 0);
	move_init(&move, true);
	move_must(&move);
	ck_assert_uint_eq(move.sender.skipped_blocks, 0);
	move_fini(&move);
	expect_same_content(source_path, target_path);
}
END_TEST

/* In place there is a list of blocks of the other size, which is of no use. */
START_TEST(cold_blocks_cannot_come_last_between_block_sizes)
{
	pair_teardown();
	pair_setup_blocks(BLOCK, 4 * BLOCK);
	make_file(source_path, 16 * BLOCK);
	set_block(source_path, 3, TIERFS_STATE_COLD, 5, 1);
	make_file(target_path, 16 * BLOCK);
	set_block(target_path, 1, TIERFS_STATE_COLD, 5, 7);
	move_init(&move, true);
	move.receiver.in_place = true;
	move.sender.post_copy = true;
	move_run(&move);
	ck_assert_int_eq(move.received, -EINVAL);
	ck_assert(strstr(move.receiver.why, "another size"));
	ck_assert_msg(strstr(move.sender.why, "another size") != NULL, "%s", move.sender.why);
	move_fini(&move);
}
END_TEST

/* --- deltas ------------------------------------------------------------------------------------------------------- */

START_TEST(only_the_difference_travels)
{
	make_mixed(source_path, BLOCKS, 1);
	move_once(true);
	set_block(source_path, 100, TIERFS_STATE_RESIDENT, 200, 5000);
	set_block(source_path, 101, TIERFS_STATE_COLD, 201, 5001);
	set_block(source_path, 105, TIERFS_STATE_HOLE, 0, 0);
	move_init(&move, true);
	move_must(&move);
	ck_assert(move.receiver.delta);
	ck_assert_uint_eq(move.sender.cold_blocks, 1);
	ck_assert_uint_eq(move.sender.resident_blocks, 1);
	ck_assert_uint_eq(move.sender.hole_blocks, 1);
	expect_same_content(source_path, target_path);
	ck_assert_uint_eq(file_at(target_path)->block[101].generation, 201);
	move_fini(&move);
}
END_TEST

/* FILE is mapped, and has content. What the kernel caches is written through the file, and is as old as was said. */
START_TEST(in_place)
{
	struct fake_file *file;

	make_mixed(source_path, BLOCKS, 1);
	make_mixed(target_path, BLOCKS, 3000);
	file = file_at(target_path);
	for (uint64_t block = 0; block < BLOCKS; block += 2)
		if (file->block[block].state == TIERFS_STATE_RESIDENT)
			file->block[block].cached = true;
	for (uint64_t block = 0; block < BLOCKS; block++)
		file->block[block].generation ^= file->block[block].state ? 0x55 : 0;
	move_init(&move, _i);
	move.receiver.in_place = true;
	move_must(&move);
	ck_assert_int_eq(move.receiver.delta, _i);
	expect_same(source_path, target_path, BLOCKS);
	move_fini(&move);
}
END_TEST

/* A list that was made with another key, or of other content. */
static void take_list_of(const char *path)
{
	const char *what = NULL;
	struct source_table table = {};
	struct source target;
	struct mac *mac;

	move.sender.base = calloc(BLOCKS + 1, sizeof(*move.sender.base));
	memset(move.sender.base_key, 'k', sizeof(move.sender.base_key));
	ck_assert_int_eq(source_open(path, false, &target, &what), 0);
	ck_assert_int_eq(source_table_init(&table, BLOCKS), 0);
	ck_assert_int_eq(mac_new(MAC_LIST, move.sender.base_key, &mac), 0);
	ck_assert_int_eq(source_list(&target, mac, NULL, &table, move.sender.base), 0);
	ck_assert_int_eq(source_list_ident(move.sender.base_key, move.sender.base, BLOCKS, &move.sender.base_ident), 0);
	mac_free(mac);
	source_table_fini(&table);
	source_close(&target);
}

START_TEST(a_delta_over_a_pipe)
{
	make_mixed(source_path, BLOCKS, 1);
	move_once(false);
	set_block(source_path, 100, TIERFS_STATE_RESIDENT, 200, 5000);
	move_init(&move, false);
	take_list_of(target_path);
	move_must(&move);
	ck_assert(move.receiver.delta);
	ck_assert_uint_eq(move.sender.cold_blocks + move.sender.resident_blocks, 1);
	expect_same_content(source_path, target_path);
	move_fini(&move);
}
END_TEST

START_TEST(a_delta_over_another_key_is_refused)
{
	make_mixed(source_path, BLOCKS, 1);
	move_once(false);
	set_block(source_path, 100, TIERFS_STATE_RESIDENT, 200, 5000);
	for (int wrong = 0; wrong < 3; wrong++) {
		move_init(&move, false);
		take_list_of(target_path);
		if (wrong == 0)
			move.sender.base_key[0] ^= 1;
		else if (wrong == 1)
			move.sender.base_ident.word[0] ^= 1;
		else
			set_block(target_path, 7, TIERFS_STATE_COLD, 1, 9999);
		move_run(&move);
		ck_assert_int_eq(move.received, -ESTALE);
		ck_assert(strstr(move.receiver.why, "not here"));
		ck_assert_int_eq(access(target_path, F_OK), 0);
		ck_assert_int_ne(access(partial_path, F_OK), 0);
		move_fini(&move);
	}
}
END_TEST

/* --- failures ----------------------------------------------------------------------------------------------------- */

/* FILE has another size, so nothing builds on it. */
START_TEST(the_disk_is_full)
{
	make_mixed(source_path, BLOCKS, 1);
	make_target(30 * BLOCK, 4000);
	fake_fail((struct fake_fault){ .op = FAKE_WRITE, .pool = 1, .after = 200, .times = FOREVER, .err = ENOSPC });
	move_init(&move, _i);
	move_run(&move);
	ck_assert_int_eq(move.received, -ENOSPC);
	ck_assert_int_ne(move.sent, 0);
	ck_assert_msg(strstr(move.receiver.why, "No space left") && strstr(move.receiver.why, "block"), "%s",
		      move.receiver.why);
	if (_i)
		ck_assert_msg(strstr(move.sender.why, "No space left") != NULL, "%s", move.sender.why);
	move_fini(&move);
	expect_target(30 * BLOCK, 4000);
	/* There is room again: what came is not sent a second time. */
	memset(fake.fault, 0, sizeof(fake.fault));
	ck_assert_int_eq(access(partial_path, F_OK), 0);
	move_init(&move, true);
	move_must(&move);
	ck_assert(move.receiver.delta);
	ck_assert_uint_ge(move.sender.skipped_blocks, 200);
	move_fini(&move);
	expect_same(source_path, target_path, BLOCKS);
}
END_TEST

START_TEST(the_sender_breaks_off)
{
	make_mixed(source_path, BLOCKS, 1);
	make_target(30 * BLOCK, 4000);
	hook_after = 400;
	hook_breaks = &move;
	fake.hook = break_off;
	move_init(&move, true);
	move_run(&move);
	ck_assert_int_eq(move.received, -ENODATA);
	ck_assert_int_ne(move.sent, 0);
	ck_assert_str_ne(move.sender.why, "");
	ck_assert_str_ne(move.receiver.why, "");
	move_fini(&move);
	expect_target(30 * BLOCK, 4000);
	fake.hook = NULL;
	move_init(&move, true);
	move_must(&move);
	ck_assert_uint_gt(move.sender.skipped_blocks, 0);
	ck_assert_uint_lt(move.sender.cold_blocks + move.sender.resident_blocks, BLOCKS * 2 / 3);
	move_fini(&move);
	expect_same(source_path, target_path, BLOCKS);
}
END_TEST

/* Each call, at its first, its second and its later ones, at either end; and then it goes on. */
START_TEST(a_call_fails)
{
	static const struct fake_fault fault[] = {
		{ .op = FAKE_READ, .pool = 0, .call = true, .err = ENOTCONN },
		{ .op = FAKE_LIST, .pool = 0, .call = true, .err = ENOTCONN },
		{ .op = FAKE_LIST, .pool = 0, .err = EIO },
		{ .op = FAKE_IDENTIFY, .pool = 0, .call = true, .err = ENOTCONN },
		{ .op = FAKE_READ, .pool = 1, .call = true, .err = ENOTCONN },
		{ .op = FAKE_LIST, .pool = 1, .call = true, .err = ENOTCONN },
		{ .op = FAKE_OPEN, .pool = 1, .call = true, .err = EUSERS },
		{ .op = FAKE_WRITE, .pool = 1, .call = true, .err = ENOTCONN },
		{ .op = FAKE_WRITE, .pool = 1, .err = EIO },
		{ .op = FAKE_PWRITE, .pool = 1, .call = true, .err = EIO },
		{ .op = FAKE_PUNCH, .pool = 1, .call = true, .err = EIO },
		{ .op = FAKE_SET, .pool = 1, .call = true, .err = ENOTCONN },
		{ .op = FAKE_FSYNC, .pool = 1, .call = true, .err = EIO },
	};
	uint64_t after = (uint64_t)_i % 3;
	struct fake_fault one = fault[_i / 3];
	const char *why;

	make_mixed(source_path, FEW, 1);
	make_mixed(target_path, FEW, 300);
	for (uint64_t block = 6; block < FEW; block += 9) {
		file_at(source_path)->block[block].cached = true;
		file_at(target_path)->block[block].cached = true;
	}
	one.after = one.call ? after : after * 80;
	one.times = FOREVER;
	fake_fail(one);
	move_init(&move, true);
	move_run(&move);
	if (move.received || move.sent) {
		ck_assert_msg(move.received && move.sent, "%d (%s), %d (%s)", move.sent, move.sender.why, move.received,
			      move.receiver.why);
		ck_assert_str_ne(move.receiver.why, "");
		ck_assert_str_ne(move.sender.why, "");
		why = one.pool ? move.receiver.why : move.sender.why;
		ck_assert_msg(strstr(why, one.err == ENOTCONN ? "daemon is gone" : strerror(one.err)) != NULL, "%s",
			      why);
		/* The other end says the same. */
		ck_assert_msg(strstr(one.pool ? move.sender.why : move.receiver.why, why) != NULL, "%s is not %s",
			      one.pool ? move.sender.why : move.receiver.why, why);
	} else {
		expect_same_content(source_path, target_path);
	}
	move_fini(&move);
	memset(fake.fault, 0, sizeof(fake.fault));
	move_once(true);
	expect_same_content(source_path, target_path);
}
END_TEST

/* A target that is no RAM file: the sender is told. */
START_TEST(a_target_that_is_none)
{
	char path[SCRATCH_PATH_LEN + 32];
	int fd;

	make_mixed(source_path, 10, 1);
	snprintf(path, sizeof(path), "%s/plain", scratch.path);
	for (int there = 0; there < 2; there++) {
		fd = there ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
		move_init(&move, true);
		move.receiver.path = path;
		move_run(&move);
		ck_assert_int_eq(move.received, -ENOTTY);
		ck_assert_msg(strstr(move.receiver.why, "not in a tierfs mount") != NULL, "%s", move.receiver.why);
		ck_assert_int_ne(move.sent, 0);
		ck_assert_msg(strstr(move.sender.why, "not in a tierfs mount") != NULL, "%s", move.sender.why);
		move_fini(&move);
		if (fd >= 0)
			close(fd);
	}
}
END_TEST

/* --- rounds ------------------------------------------------------------------------------------------------------- */

static int change_something(void *arg, char why[static SENDER_WHY_LEN])
{
	(void)why;
	++*(int *)arg;
	set_block(source_path, 50, TIERFS_STATE_RESIDENT, 0, 6000);
	set_block(source_path, 300, TIERFS_STATE_COLD, 0, 6001);
	set_block(source_path, 301, TIERFS_STATE_HOLE, 0, 0);
	set_block(source_path, BLOCKS - 1, TIERFS_STATE_RESIDENT, 0, 6002);
	return 0;
}

START_TEST(what_changes_before_the_pause_comes)
{
	int called = 0;

	make_mixed(source_path, BLOCKS, 1);
	move_init(&move, _i);
	move.sender.live = true;
	move.sender.downtime_ns = 60 * NS_PER_S;
	move.sender.pause = change_something;
	move.sender.pause_arg = &called;
	move_must(&move);
	ck_assert_int_eq(called, 1);
	ck_assert_uint_ge(move.sender.rounds, 2);
	ck_assert_uint_eq(move.sender.rounds, move.receiver.rounds);
	ck_assert_uint_eq(move.sender.round_blocks, 3);
	expect_same_content(source_path, target_path);
	ck_assert_int_eq(file_at(target_path)->block[301].state, TIERFS_STATE_HOLE);
	move_fini(&move);
}
END_TEST

static int refuse_to_pause(void *arg, char why[static SENDER_WHY_LEN])
{
	(void)arg;
	snprintf(why, SENDER_WHY_LEN, "it does not stop");
	return -ECANCELED;
}

START_TEST(a_machine_that_does_not_pause)
{
	make_mixed(source_path, BLOCKS, 1);
	make_target(30 * BLOCK, 4000);
	move_init(&move, true);
	move.sender.live = true;
	move.sender.downtime_ns = 60 * NS_PER_S;
	move.sender.pause = refuse_to_pause;
	move_run(&move);
	ck_assert_int_eq(move.sent, -ECANCELED);
	ck_assert_int_eq(move.received, -ECANCELED);
	ck_assert_str_eq(move.sender.why, "it does not stop");
	ck_assert_msg(strstr(move.receiver.why, "it does not stop") != NULL, "%s", move.receiver.why);
	move_fini(&move);
	expect_target(30 * BLOCK, 4000);
}
END_TEST

/* --- a model ------------------------------------------------------------------------------------------------------ */

static uint64_t rng;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % below;
}

static void change_block(struct fake_file *file, int fd, uint64_t block)
{
	struct fake_block at = { .state = (uint8_t)rnd(3), .generation = (uint8_t)rnd(256), .tier = (uint8_t)rnd(4) };

	at.cached = at.state == TIERFS_STATE_RESIDENT && !rnd(6);
	set_block_of(file, fd, block, at, at.state == TIERFS_STATE_RESIDENT ? rnd(6) : 1 + rnd(5000));
}

static void change_blocks(uint64_t blocks, uint64_t changes)
{
	int fd = open(source_path, O_RDWR | O_CLOEXEC);

	for (uint64_t i = 0; i < changes; i++)
		change_block(file_at(source_path), fd, rnd(blocks));
	close(fd);
}

static uint64_t model_blocks;
static int model_fd;

/* The machine runs while it is sent: under the mutex of fake, so rng has one user at a time. */
static int change_meanwhile(enum fake_op op, struct fake_file *file, uint64_t block)
{
	(void)block;
	if (op == FAKE_LIST && file->pool == &fake.pool[0] && !rnd(20))
		change_block(file, model_fd, rnd(model_blocks));
	return 0;
}

static int stop_changing(void *arg, char why[static SENDER_WHY_LEN])
{
	(void)arg;
	(void)why;
	pthread_mutex_lock(&fake.mutex);
	fake.hook = NULL;
	pthread_mutex_unlock(&fake.mutex);
	return 0;
}

static void move_somehow(void)
{
	bool there = access(target_path, F_OK) == 0;

	move_init(&move, rnd(4) > 0);
	move.sender.post_copy = move.out.two_way && !rnd(3);
	move.rest = true;
	move.receiver.in_place = there && !rnd(3);
	move.sender.live = !rnd(2);
	move.sender.downtime_ns = 60 * NS_PER_S;
	move.sender.pause = stop_changing;
	fake.hook = move.sender.live ? change_meanwhile : NULL;
	fake.pool[1].dram_blocks = rnd(3) ? UINT64_MAX : rnd(200);
	if (!rnd(2))
		fake_fail(
			(struct fake_fault){ .op = FAKE_WRITE, .pool = 1, .after = rnd(99), .times = 3, .err = EBUSY });
	if (!rnd(2))
		fake_fail(
			(struct fake_fault){ .op = FAKE_LIST, .after = rnd(99), .times = 1 + rnd(9), .err = ENOBUFS });
	move_must(&move);
	move_fini(&move);
	memset(fake.fault, 0, sizeof(fake.fault));
	expect_same_content(source_path, target_path);
}

START_TEST(any_content_and_any_changes)
{
	const char *seed = getenv("TIERFS_SEED");

	rng = seed ? strtoull(seed, NULL, 0) : clock_ns() | 1;
	printf("TIERFS_SEED=%llu\n", (unsigned long long)rng);
	fflush(stdout);
	for (int run = 0; run < 8; run++) {
		unlink(source_path);
		remove_target();
		memset(fake.file, 0, sizeof(fake.file)); /* they are all gone */
		model_blocks = 1 + rnd(run % 2 ? 500 : 20);
		make_file(source_path, model_blocks * BLOCK - rnd(BLOCK));
		model_fd = open(source_path, O_RDWR | O_CLOEXEC);
		for (int i = 0; i < 3; i++) {
			change_blocks(model_blocks, i ? rnd(40) : model_blocks * 2);
			move_somehow();
		}
		close(model_fd);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("move");
	TCase *tcase = tcase_create("move");

	suite_add_tcase(suite, tcase);
	tcase_set_timeout(tcase, 120);
	tcase_add_checked_fixture(tcase, pair_setup, pair_teardown);
	tcase_add_loop_test(tcase, a_file_arrives_as_it_was, 0, 2);
	tcase_add_test(tcase, small_and_empty_files);
	tcase_add_test(tcase, blocks_in_odd_states);
	tcase_add_test(tcase, no_more_goes_to_dram_than_has_room);
	tcase_add_loop_test(tcase, between_block_sizes, 0, 2);
	tcase_add_test(tcase, cold_blocks_cannot_come_last_between_block_sizes);
	tcase_add_test(tcase, only_the_difference_travels);
	tcase_add_loop_test(tcase, in_place, 0, 2);
	tcase_add_test(tcase, a_delta_over_a_pipe);
	tcase_add_test(tcase, a_delta_over_another_key_is_refused);
	tcase_add_loop_test(tcase, the_disk_is_full, 0, 2);
	tcase_add_test(tcase, the_sender_breaks_off);
	tcase_add_loop_test(tcase, a_call_fails, 0, 3 * 13);
	tcase_add_test(tcase, a_target_that_is_none);
	tcase_add_loop_test(tcase, what_changes_before_the_pause_comes, 0, 2);
	tcase_add_test(tcase, a_machine_that_does_not_pause);
	tcase_add_test(tcase, any_content_and_any_changes);
	return check_run(suite);
}
