/* Blocks whose content is on another host: who waits for them, what ends the wait, and what may take their place. The
 * engine is real, the store in memory. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "cold/codec.h"
#include "engine/access.h"
#include "engine/away.h"
#include "engine/cache.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/interrupt.h"
#include "engine/load.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/resize.h"
#include "engine/tenant.h"
#include "engine/write.h"
#include "policy/tiering.h"
#include "lib_check.h"
#include "lib/lib_ident.h"

#define INO 7
#define BLOCK 16384U
#define BLOCKS 1024U
#define PAYLOAD_AT 65536U

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *file;
static uint8_t memory[1 << 20] __attribute__((aligned(64)));

static void start(void)
{
	struct engine_config config = { .store = store,
					.arena_dir = arena_dir,
					.block_bytes = BLOCK,
					.dram_bytes = BLOCKS * BLOCK,
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
	scratch_new(&scratch, "away");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	start();
}

static void teardown(void)
{
	stop();
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

/* What a block has on the other host. */
static const uint8_t *content_of(uint64_t block)
{
	static _Thread_local uint8_t content[BLOCK] __attribute__((aligned(64)));

	for (size_t i = 0; i < BLOCK; i++)
		content[i] = (uint8_t)(i / 64 * 7 + block + i % 13);
	return content;
}

static const struct tierfs_access_record *write_one(uint64_t block, enum tierfs_access_form form, const void *payload,
						    size_t bytes, struct tierfs_ident ident, uint8_t flags)
{
	struct access_buffer buffer = {
		.base = memory, .bytes = sizeof(memory), .record = (struct tierfs_access_record *)memory, .records = 1
	};

	buffer.record[0] = (struct tierfs_access_record){ .block = block,
							  .count = 1,
							  .ident = ident,
							  .form = (uint8_t)form,
							  .payload_at = PAYLOAD_AT,
							  .payload_bytes = (uint32_t)bytes,
							  .generation = 9,
							  .tier = 1,
							  .flags = flags };
	memcpy(memory + PAYLOAD_AT, payload, bytes);
	ck_assert_int_eq(access_write(file, 0, &buffer), 0);
	return buffer.record;
}

static void make_away(uint64_t block)
{
	const struct tierfs_access_record *record = write_one(block, TIERFS_FORM_AWAY, "", 0,
							      ident_of(content_of(block), BLOCK), TIERFS_BLOCK_SET_AGE);

	ck_assert_int_eq(record->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_int_eq(record->state, TIERFS_STATE_COLD);
	ck_assert(record->flags & TIERFS_BLOCK_AWAY);
	ck_assert_int_eq(record->generation, 9);
}

static const struct tierfs_access_record *bring(uint64_t block, uint64_t content)
{
	return write_one(block, TIERFS_FORM_PLAIN, content_of(content), BLOCK, ident_of(content_of(content), BLOCK),
			 TIERFS_BLOCK_AWAY);
}

static struct ramfile_figures figures(void)
{
	struct ramfile_figures now;

	ramfile_figures(file, &now);
	return now;
}

static void expect(uint64_t block, uint64_t content)
{
	static uint8_t got[BLOCK];
	size_t length;

	ck_assert_int_eq(ramfile_read(file, got, BLOCK, block * BLOCK, &length), 0);
	ck_assert_uint_eq(length, BLOCK);
	ck_assert_mem_eq(got, content_of(content), BLOCK);
}

/* --- a call in a thread of its own ------------------------------------------------------------------------------ */

struct call {
	pthread_t thread;
	enum { CALL_READ, CALL_FILL, CALL_WRITE, CALL_DISCARD, CALL_WRITE_BACK } kind;
	uint64_t offset;
	size_t length;
	uint8_t data[2 * BLOCK];
	_Atomic bool interrupted;
	int err;
};

static bool was_interrupted(void *arg)
{
	struct call *call = arg;

	return atomic_load(&call->interrupted);
}

static void *call_main(void *arg)
{
	struct call *call = arg;
	size_t length;

	interrupt_on(was_interrupted, call);
	switch (call->kind) {
	case CALL_READ:
		call->err = ramfile_read(file, call->data, call->length, call->offset, &length);
		break;
	case CALL_FILL:
		call->err = cache_fill(file, call->data, call->length, call->offset, &length);
		break;
	case CALL_WRITE:
		call->err = ramfile_write(file, call->data, call->length, call->offset, false);
		break;
	case CALL_WRITE_BACK:
		call->err = cache_write_back(file, call->data, call->length, call->offset);
		break;
	case CALL_DISCARD:
		call->err = ramfile_discard(file, call->offset, call->length);
		break;
	}
	return NULL;
}

/* Starts it, and returns when it waits for blocks that are away. */
static void call_start(struct call *call)
{
	ck_assert_int_eq(pthread_create(&call->thread, NULL, call_main, call), 0);
	while (!figures().wanted_blocks)
		usleep(1000);
}

static int call_end(struct call *call)
{
	pthread_join(call->thread, NULL);
	return call->err;
}

/* --- tests ------------------------------------------------------------------------------------------------------ */

START_TEST(reads_wait_for_what_is_away)
{
	struct call call = { .kind = _i ? CALL_FILL : CALL_READ, .offset = 4096, .length = 2 * BLOCK - 4096 };
	uint64_t wanted[4], supplier = 0, away;
	size_t count;

	make_away(1);
	ck_assert_int_eq(ramfile_write(file, content_of(0), BLOCK, 0, true), 0);
	ck_assert_uint_eq(figures().away_bytes, BLOCK);
	ck_assert_uint_eq(figures().cold_bytes, 2 * BLOCK);
	call_start(&call);
	ck_assert_int_eq(away_wanted(file, &supplier, 0, wanted, 4, &count, &away), 0);
	ck_assert_uint_eq(count, 1);
	ck_assert_uint_eq(wanted[0], 1);
	ck_assert_uint_eq(away, 1);
	ck_assert_int_eq(away_wanted(file, &supplier, 0, wanted, 4, &count, &away), 0);
	ck_assert_uint_eq(count, 0); /* told once */
	ck_assert_int_eq(bring(1, 1)->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_int_eq(call_end(&call), 0);
	ck_assert_mem_eq(call.data, content_of(0) + 4096, BLOCK - 4096);
	ck_assert_mem_eq(call.data + BLOCK - 4096, content_of(1), BLOCK);
	ck_assert_uint_eq(figures().away_bytes, 0);
	ck_assert_uint_eq(figures().wanted_blocks, 0);
}
END_TEST

/* Not one after the other. */
START_TEST(a_read_wants_all_that_it_needs)
{
	struct call call = { .kind = CALL_READ, .offset = 4096, .length = 2 * BLOCK - 4096 };
	uint64_t wanted[4], supplier = 0, away;
	size_t count;

	for (uint64_t block = 0; block < 3; block++)
		make_away(block);
	call_start(&call);
	ck_assert_int_eq(away_wanted(file, &supplier, 0, wanted, 4, &count, &away), 0);
	ck_assert_uint_eq(count, 2);
	ck_assert_uint_eq(wanted[0], 0);
	ck_assert_uint_eq(wanted[1], 1);
	ck_assert_int_eq(bring(1, 1)->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_int_eq(bring(0, 0)->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_int_eq(call_end(&call), 0);
	ck_assert_mem_eq(call.data, content_of(0) + 4096, BLOCK - 4096);
	ck_assert_mem_eq(call.data + BLOCK - 4096, content_of(1), BLOCK);
	ck_assert_uint_eq(figures().wanted_blocks, 0);
	ck_assert_int_eq(bring(2, 2)->result, TIERFS_ACCESS_WRITE_OK);
}
END_TEST

START_TEST(parts_wait_and_are_merged)
{
	static const struct {
		int kind;
		uint64_t at;
	} calls[] = { { CALL_WRITE, 100 }, { CALL_DISCARD, 8192 }, { CALL_WRITE_BACK, 4096 } };
	struct call call = { .kind = calls[_i].kind, .offset = BLOCK + calls[_i].at, .length = 4096 };
	uint8_t want[BLOCK], got[BLOCK];
	size_t length;

	make_away(1);
	memset(call.data, call.kind == CALL_DISCARD ? 0 : 0x5a, sizeof(call.data));
	memcpy(want, content_of(1), BLOCK);
	memcpy(want + calls[_i].at, call.data, 4096);
	call_start(&call);
	ck_assert_int_eq(bring(1, 1)->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_int_eq(call_end(&call), 0);
	ck_assert_int_eq(ramfile_read(file, got, BLOCK, BLOCK, &length), 0);
	ck_assert_mem_eq(got, want, BLOCK);
}
END_TEST

START_TEST(a_wait_can_be_given_up)
{
	struct call call = { .kind = _i, .offset = 4096, .length = 4096 };

	make_away(0);
	call_start(&call);
	atomic_store(&call.interrupted, true);
	ck_assert_int_eq(call_end(&call), -EINTR);
	ck_assert_uint_eq(figures().away_bytes, BLOCK);
}
END_TEST

START_TEST(only_what_is_away_is_replaced)
{
	const struct tierfs_access_record *record;

	for (uint64_t block = 0; block < 6; block++)
		make_away(block);
	record = bring(0, 1); /* not what it has there */
	ck_assert_int_eq(record->result, TIERFS_ACCESS_ERROR);
	ck_assert_int_eq(record->error, ESTALE);
	ck_assert_int_eq(bring(0, 0)->result, TIERFS_ACCESS_WRITE_OK);
	expect(0, 0);
	ck_assert_int_eq(ramfile_write(file, content_of(11), BLOCK, 1 * BLOCK, true), 0);
	ck_assert_int_eq(ramfile_write(file, content_of(12), BLOCK, 2 * BLOCK, false), 0);
	ck_assert_int_eq(ramfile_discard(file, 3 * BLOCK, BLOCK), 0);
	ck_assert_int_eq(bring(1, 1)->result, TIERFS_ACCESS_READ_OK);
	ck_assert_int_eq(bring(2, 2)->result, TIERFS_ACCESS_READ_OK);
	ck_assert_int_eq(bring(3, 3)->result, TIERFS_ACCESS_HOLE);
	expect(1, 11);
	expect(2, 12);
	ck_assert_uint_eq(figures().away_bytes, 2 * BLOCK);
	/* A write without the flag replaces it; into DRAM it cannot go. */
	record = write_one(4, TIERFS_FORM_PLAIN, content_of(14), BLOCK, IDENT_NONE, TIERFS_BLOCK_TO_DRAM);
	ck_assert_int_eq(record->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_int_eq(record->state, TIERFS_STATE_COLD);
	expect(4, 14);
	ck_assert_int_eq(ramfile_truncate(file, 5 * BLOCK), 0);
	ck_assert_uint_eq(figures().away_bytes, 0);
}
END_TEST

START_TEST(nobody_gets_what_is_not_here)
{
	static const struct {
		enum tierfs_access_form form;
		size_t bytes;
		uint64_t ident;
		uint8_t flags;
	} bad[] = {
		{ TIERFS_FORM_AWAY, 0, 0, 0 },
		{ TIERFS_FORM_AWAY, 8, 17, 0 },
		{ TIERFS_FORM_AWAY, 0, 17, TIERFS_BLOCK_AWAY },
		{ TIERFS_FORM_NONE, 0, 0, TIERFS_BLOCK_AWAY },
	};
	struct access_buffer buffer = { .base = memory,
					.bytes = sizeof(memory),
					.record = (struct tierfs_access_record *)memory,
					.records = 8,
					.payload_at = PAYLOAD_AT,
					.payload_bytes = sizeof(memory) - PAYLOAD_AT };
	uint8_t value[CODEC_HEADER_BYTES];
	const struct tierfs_access_record *record;
	struct file_done done;
	size_t records;
	uint64_t next;

	make_away(2);
	for (uint32_t flags = 0; flags < 4; flags++) { /* as stored or not, also resident or not */
		ck_assert_int_eq(access_read(file, flags, 2, 1, &buffer, &records, &next), 0);
		ck_assert_int_eq(buffer.record[0].result, TIERFS_ACCESS_ERROR);
		ck_assert_int_eq(buffer.record[0].error, EREMOTE);
		ck_assert_uint_eq(buffer.record[0].payload_bytes, 0);
		ck_assert(!ident_known(buffer.record[0].ident));
	}
	ck_assert_int_eq(load_promote(file, 0, BLOCKS * BLOCK, NULL, NULL, &done), 0);
	ck_assert_uint_eq(done.done_bytes, 0);
	ck_assert_uint_eq(done.skipped_bytes, BLOCK);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		record = write_one(3, bad[i].form, "12345678", bad[i].bytes,
				   bad[i].ident ? ident_from(bad[i].ident) : IDENT_NONE, bad[i].flags);
		ck_assert_int_eq(record->result, TIERFS_ACCESS_ERROR);
		ck_assert_int_eq(record->error, EINVAL);
	}
	/* A value without content is no content. */
	codec_encode_away(BLOCK, (struct store_key){ 0, 3 }, (struct codec_hotness){ 0 }, ident_from(17), value);
	record = write_one(3, TIERFS_FORM_STORED, value, sizeof(value), IDENT_NONE, 0);
	ck_assert_int_eq(record->result, TIERFS_ACCESS_ERROR);
	ck_assert_int_eq(record->error, EREMOTE);
}
END_TEST

START_TEST(away_after_a_restart)
{
	make_away(5);
	stop();
	start();
	ck_assert_uint_eq(figures().away_bytes, BLOCK);
	ck_assert_int_eq(bring(5, 6)->error, ESTALE);
	ck_assert_int_eq(bring(5, 5)->result, TIERFS_ACCESS_WRITE_OK);
	stop();
	start();
	expect(5, 5);
}
END_TEST

/* A put that fails leaves the block away, with its identity, and who waits goes on waiting. */
START_TEST(a_failed_put_loses_nothing)
{
	struct call call = { .kind = CALL_READ, .offset = 0, .length = BLOCK };

	make_away(0);
	call_start(&call);
	store_mem_fail_nth(store, STORE_MEM_PUT, 1, ENOSPC);
	ck_assert_int_eq(bring(0, 0)->error, ENOSPC);
	ck_assert_int_eq(bring(0, 1)->error, ESTALE);
	ck_assert_int_eq(bring(0, 0)->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_int_eq(call_end(&call), 0);
	ck_assert_mem_eq(call.data, content_of(0), BLOCK);
}
END_TEST

/* The key says so, and the table does not: a put that failed and was done all the same. */
START_TEST(found_out_late)
{
	struct call call = { .kind = CALL_READ, .offset = 0, .length = BLOCK };
	struct store_key key = { INO, 0 };
	uint8_t value[CODEC_HEADER_BYTES];
	struct store_item item = { .key = key, .value = value, .length_bytes = sizeof(value) };

	ck_assert_int_eq(ramfile_write(file, content_of(3), BLOCK, 0, true), 0);
	codec_encode_away(BLOCK, key, (struct codec_hotness){ 0 }, ident_of(content_of(0), BLOCK), value);
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, &item, 1), 0);
	call_start(&call);
	ck_assert_int_eq(bring(0, 3)->error, ESTALE);
	ck_assert_int_eq(bring(0, 0)->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_int_eq(call_end(&call), 0);
	ck_assert_mem_eq(call.data, content_of(0), BLOCK);
}
END_TEST

/* A write to DRAM over such a key that was cut short: that block is lost, and the rest of the file is not. */
START_TEST(a_part_over_what_is_away)
{
	struct store_key key = { INO, 0 };
	uint8_t value[CODEC_HEADER_BYTES], page[4096] = { 1 }, got[BLOCK];
	struct store_item item = { .key = key, .value = value, .length_bytes = sizeof(value) };
	size_t length;
	int fd;

	ck_assert_int_eq(ramfile_write(file, content_of(1), BLOCK, BLOCK, true), 0);
	ck_assert_int_eq(ramfile_write(file, content_of(2), BLOCK, 2 * BLOCK, false), 0); /* keeps the arena */
	stop();
	codec_encode_away(BLOCK, key, (struct codec_hotness){ 0 }, ident_from(17), value);
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, &item, 1), 0);
	fd = openat(arena_dir, "7", O_WRONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, page, sizeof(page), 4096), sizeof(page));
	close(fd);
	start();
	ck_assert_int_eq(ramfile_read(file, got, BLOCK, 0, &length), -EIO);
	expect(1, 1);
	expect(2, 2);
	ck_assert_int_eq(ramfile_discard(file, 0, BLOCK), 0);
	ck_assert_int_eq(ramfile_read(file, got, BLOCK, 0, &length), 0);
}
END_TEST

/* More faults than are kept apart from the table: each block is told, to each supplier. */
START_TEST(faults_wait_and_every_supplier_is_told)
{
	static uint64_t wanted[AWAY_TOLD_MAX];
	uint64_t first = 0, second = 0, away;
	struct process *process;
	uint8_t byte;
	size_t count;

	for (uint64_t block = 0; block < BLOCKS; block++)
		make_away(block);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_int_eq(away_wanted(file, &first, 0, wanted, AWAY_TOLD_MAX, &count, &away), 0);
	ck_assert_uint_eq(count, 0);
	for (int round = 0; round < 2; round++)
		for (uint64_t block = 0; block < BLOCKS; block += 2)
			ck_assert(!process_touch(process, block * BLOCK, &byte, 1, false));
	for (uint64_t *supplier = &first;; supplier = &second) {
		uint8_t told[BLOCKS] = { 0 };

		do {
			ck_assert_int_eq(away_wanted(file, supplier, 0, wanted, AWAY_TOLD_MAX, &count, &away), 0);
			for (size_t i = 0; i < count; i++)
				told[wanted[i]] = 1;
		} while (count);
		for (uint64_t block = 0; block < BLOCKS; block++)
			ck_assert_int_eq(told[block], block % 2 == 0);
		if (supplier == &second)
			break;
	}
	ck_assert_int_eq(away_wanted(file, &first, 0, wanted, AWAY_TOLD_MAX, &count, &away), -EBUSY);
	away_leave(file, first);
	ck_assert_int_eq(away_wanted(file, &second, 0, wanted, AWAY_TOLD_MAX, &count, &away), 0);
	ck_assert_uint_eq(away, BLOCKS);
	ck_assert_int_eq(bring(4, 4)->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert(process_touch(process, 4 * BLOCK + 5, &byte, 1, false));
	ck_assert_int_eq(byte, content_of(4)[5]);
	ck_assert_int_eq(ramfile_discard(file, 6 * BLOCK, BLOCK), 0);
	ck_assert(process_touch(process, 6 * BLOCK + 5, &byte, 1, false));
	ck_assert_int_eq(byte, 0);
	away_leave(file, second);
	process_unmap(process);
}
END_TEST

/* Who waits for it would wait for ever: what comes for a block that is away is stored whatever its tenant may store. */
START_TEST(no_limit_refuses_what_comes)
{
	struct tenant_share share = { .max_bytes = UINT64_MAX, .disk_bytes = 2 * CODEC_HEADER_BYTES };
	static struct tenant tenant;
	const uint64_t away[] = { 3, 4 };

	tenant = (struct tenant){ .ino = 99 };
	tenants_begin(engine);
	tenants_put(engine, &tenant, NULL, &share);
	tenants_place(file, &tenant);
	tenants_end(engine);
	for (size_t i = 0; i < 2; i++)
		make_away(away[i]);
	ck_assert_int_eq(write_one(5, TIERFS_FORM_AWAY, "", 0, ident_of(content_of(5), BLOCK), 0)->error, EDQUOT);
	ck_assert_int_eq(
		write_one(6, TIERFS_FORM_PLAIN, content_of(6), BLOCK, ident_of(content_of(6), BLOCK), 0)->error,
		EDQUOT);
	for (size_t i = 0; i < 2; i++) {
		ck_assert_int_eq(bring(away[i], away[i])->result, TIERFS_ACCESS_WRITE_OK);
		expect(away[i], away[i]);
	}
	ck_assert_uint_eq(figures().away_bytes, 0);
	tenant_place(file, NULL);
	tenants_begin(engine);
	tenants_end(engine);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("away");
	TCase *tests = tcase_create("away");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_set_timeout(tests, 60);
	tcase_add_loop_test(tests, reads_wait_for_what_is_away, 0, 2);
	tcase_add_test(tests, no_limit_refuses_what_comes);
	tcase_add_test(tests, a_read_wants_all_that_it_needs);
	tcase_add_loop_test(tests, parts_wait_and_are_merged, 0, 3);
	tcase_add_loop_test(tests, a_wait_can_be_given_up, CALL_READ, CALL_WRITE_BACK);
	tcase_add_test(tests, only_what_is_away_is_replaced);
	tcase_add_test(tests, nobody_gets_what_is_not_here);
	tcase_add_test(tests, away_after_a_restart);
	tcase_add_test(tests, a_failed_put_loses_nothing);
	tcase_add_test(tests, found_out_late);
	tcase_add_test(tests, a_part_over_what_is_away);
	tcase_add_test(tests, faults_wait_and_every_supplier_is_told);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
