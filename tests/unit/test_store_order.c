/* unit/test_store_order.c - what could not be told after a loss of power: values that the collector copied are durable
 * before a record that names the copies is written, since the kernel may write a record to the disk at any time.
 *
 * The calls of the store and of the database come by here. The collector is known by the name of its thread.
 */
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "cold/store_rocks.h"
#include "lib_check.h"

#define BLOCKS 600
#define VALUE_BYTES 5000U
#define ROUNDS_MAX 400
#define MOVES_WANTED 3

static atomic_int moves; /* records that the collector wrote, in so many calls */
static atomic_int early; /* of them: before the values were synced */
static _Thread_local bool copied;

static bool is_collector(void)
{
	char name[16] = "";

	return pthread_getname_np(pthread_self(), name, sizeof(name)) == 0 && strcmp(name, "tierfs-collect") == 0;
}

static bool is_part_of(int fd, const char *part)
{
	char link[64], path[SCRATCH_PATH_LEN * 2];
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof(path) - 1);
	if (len < 0)
		return false;
	path[len] = '\0';
	return strstr(path, part) != NULL;
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	if (is_collector() && is_part_of(fd, "/values/"))
		copied = true;
	return syscall(SYS_pwrite64, fd, buf, len, offset);
}

int fdatasync(int fd)
{
	if (is_collector() && is_part_of(fd, "/values/"))
		copied = false;
	return (int)syscall(SYS_fdatasync, fd);
}

ssize_t write(int fd, const void *buf, size_t len)
{
	if (is_collector() && is_part_of(fd, ".log")) {
		atomic_fetch_add(&moves, 1);
		atomic_fetch_add(&early, copied);
	}
	return syscall(SYS_write, fd, buf, len);
}

static void put_every(struct store *store, uint64_t stride, uint8_t fill)
{
	static uint8_t value[VALUE_BYTES];

	memset(value, fill, sizeof(value));
	for (uint64_t block = 0; block < BLOCKS; block += stride) {
		struct store_item item = { { 3, block }, value, VALUE_BYTES };

		ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, &item, 1), 0);
	}
}

START_TEST(copies_are_durable_before_their_records)
{
	struct scratch scratch;
	struct store_rocks_config config = {
		.dir = scratch.path,
		.create = true,
		.block_bytes = 16384,
		.write_buffer_bytes = 1 << 20,
		.segment_bytes = 1 << 20,
	};
	struct store *store;

	scratch_new(&scratch, "store_order");
	ck_assert_int_eq(store_rocks_open(&config, &store), 0);
	put_every(store, 1, 1);
	for (int round = 0; round < ROUNDS_MAX && atomic_load(&moves) < MOVES_WANTED; round++)
		put_every(store, 2, (uint8_t)round);
	store->ops->free(store);
	scratch_free(&scratch);
	ck_assert_int_ge(atomic_load(&moves), MOVES_WANTED);
	ck_assert_int_eq(atomic_load(&early), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("store_order");
	TCase *tests = tcase_create("order");

	tcase_set_timeout(tests, 120);
	tcase_add_test(tests, copies_are_durable_before_their_records);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
