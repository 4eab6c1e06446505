/* timeout: 300 */
/* fault/test_store_full.c - small disks that get full, by the store itself and by others; needs root, for the mounts.
 *
 * Content that was acknowledged stays readable, puts say ENOSPC and nothing worse happens, and it goes on by itself
 * when there is space again.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "cold/meta.h"
#include "cold/store_rocks.h"
#include "lib_check.h"

#define INO 9
#define BATCH 64U
#define VALUE_MAX 6000U

struct disk {
	const char *name;
	uint64_t size_mib;
	bool tmpfs;
};

static const struct disk disks[] = {
	{ "tmpfs, 48 MiB", 48, true },
	{ "ext4, 256 MiB", 256, false },
	{ "ext4, 64 MiB", 64, false },
};
#define DISKS (int)(sizeof(disks) / sizeof(disks[0]))

static struct scratch scratch;
static struct store *store;

/* --- mounts; main() takes them away again, whatever happens to the tests --- */

static void mount_point(int disk, char *path, size_t cap)
{
	snprintf(path, cap, "%s/disk%d", scratch.path, disk);
}

static int mount_ext4(int disk, const char *path)
{
	char command[5 * SCRATCH_PATH_LEN];

	snprintf(command, sizeof(command),
		 "truncate -s %luM '%s/image%d' && mkfs.ext4 -q -F '%s/image%d' && mount -o loop '%s/image%d' '%s'",
		 (unsigned long)disks[disk].size_mib, scratch.path, disk, scratch.path, disk, scratch.path, disk, path);
	return system(command) == 0 ? 0 : -1;
}

static int mount_disk(int disk)
{
	char path[SCRATCH_PATH_LEN + 16], options[64];

	mount_point(disk, path, sizeof(path));
	if (mkdir(path, 0700) < 0)
		return -1;
	if (!disks[disk].tmpfs)
		return mount_ext4(disk, path);
	snprintf(options, sizeof(options), "size=%luM", (unsigned long)disks[disk].size_mib);
	return mount("tmpfs", path, "tmpfs", 0, options);
}

static void unmount_all(void)
{
	for (int disk = 0; disk < DISKS; disk++) {
		char path[SCRATCH_PATH_LEN + 16];

		mount_point(disk, path, sizeof(path));
		umount(path);
	}
}

/* --- content --- */

static uint32_t value_of(uint64_t block, uint32_t round, uint8_t *at)
{
	uint64_t state = block * UINT64_C(0x9e3779b97f4a7c15) + round;
	uint32_t len = 4000 + (uint32_t)(block * 7919 % (VALUE_MAX - 4000));

	for (uint32_t i = 0; i < len; i++) {
		state = state * UINT64_C(6364136223846793005) + 1442695040888963407U;
		at[i] = (uint8_t)(state >> 56);
	}
	return len;
}

static int put(uint64_t first, uint32_t round)
{
	static uint8_t values[BATCH][VALUE_MAX];
	struct store_item items[BATCH];

	for (uint32_t i = 0; i < BATCH; i++)
		items[i] = (struct store_item){ { INO, first + i }, values[i], value_of(first + i, round, values[i]) };
	return store->ops->put(store, STORE_DEMOTION, items, BATCH);
}

static void expect_blocks(uint64_t first, uint64_t end, uint32_t round)
{
	for (uint64_t block = first; block < end; block++) {
		uint8_t want[VALUE_MAX], got[VALUE_MAX];
		uint32_t len = value_of(block, round, want);
		size_t got_len = 0;
		int r = store->ops->get(store, STORE_GUEST, (struct store_key){ INO, block }, got, sizeof(got),
					&got_len);

		ck_assert_msg(r == 0, "block %lu: %s", (unsigned long)block, strerror(-r));
		ck_assert_uint_eq(got_len, len);
		ck_assert_mem_eq(got, want, len);
	}
}

static struct store_figures figures(void)
{
	struct store_figures now;

	store->ops->figures(store, &now);
	return now;
}

static uint64_t free_bytes(const char *path)
{
	struct statvfs fs;

	ck_assert_int_eq(statvfs(path, &fs), 0);
	return (uint64_t)fs.f_bavail * fs.f_frsize;
}

static int put_meta(uint32_t version, bool durable)
{
	struct meta_change change = { "key", 3, &version, sizeof(version) };

	return store->meta->put(store, &change, 1, durable);
}

static void open_store(const char *path, bool create)
{
	struct store_rocks_config config = { .dir = path, .create = create, .block_bytes = 16384 };

	ck_assert_int_eq(store_rocks_open(&config, &store), 0);
}

/* Puts until it is full. Returns the first block that was not acknowledged. */
static uint64_t fill_up(uint64_t first, uint32_t round)
{
	int r;

	while ((r = put(first, round)) == 0)
		first += BATCH;
	ck_assert_int_eq(r, -ENOSPC);
	ck_assert(figures().full);
	return first;
}

/* The same put until it succeeds; space comes back behind the scenes. */
static void put_when_possible(uint64_t first, uint32_t round)
{
	int r = put(first, round);

	for (int i = 0; r == -ENOSPC && i < 6000; i++) {
		usleep(10000);
		r = put(first, round);
	}
	ck_assert_int_eq(r, 0);
	ck_assert(!figures().full);
}

/* Takes all the space there is, as someone else would. */
static void fill_by_another(const char *path)
{
	static char bytes[65536];
	size_t len = sizeof(bytes);
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	while (len) {
		if (write(fd, bytes, len) <= 0)
			len /= 2;
	}
	fsync(fd);
	close(fd);
}

/* --- the tests --- */

START_TEST(full_of_ones_own)
{
	char path[SCRATCH_PATH_LEN + 16];
	uint64_t end, size = disks[_i].size_mib << 20, half;

	mount_point(_i, path, sizeof(path));
	open_store(path, true);
	end = fill_up(0, 1);
	ck_assert_msg(end * 5000 >= size / 2, "%lu blocks on %s", (unsigned long)end, disks[_i].name);
	ck_assert_uint_ge(free_bytes(path), 1 << 20); /* the database never saw it full */
	ck_assert_int_eq(put_meta(1, true), 0);
	expect_blocks(0, end, 1);
	ck_assert_int_eq(store->ops->sync(store), 0);

	half = end / 2 / BATCH * BATCH;
	ck_assert_int_eq(store->ops->remove(store, INO, 0, half), 0);
	put_when_possible(0, 2);
	expect_blocks(0, BATCH, 2);
	expect_blocks(half, end, 1);
	store->ops->free(store);

	open_store(path, false);
	expect_blocks(0, BATCH, 2);
	expect_blocks(half, end, 1);
	ck_assert_int_eq(store->ops->remove(store, INO, 0, UINT64_MAX), 0);
	store->ops->free(store);
}
END_TEST

/* A third of each segment is garbage, and puts that do not wait take each bit of space that they are let have: the
 * collector has to get by with what is its own. */
START_TEST(full_and_pressed)
{
	char path[SCRATCH_PATH_LEN + 16];
	uint64_t end, first;
	int r = -ENOSPC;

	mount_point(_i, path, sizeof(path));
	open_store(path, true);
	end = first = fill_up(0, 1);
	for (uint64_t block = 0; block < end; block += 3)
		ck_assert_int_eq(store->ops->remove(store, INO, block, 1), 0);
	for (int i = 0; first < end + end / 6 && i < 1000000; i++) {
		r = put(first, 1);
		if (r == 0)
			first += BATCH;
		else
			ck_assert_int_eq(r, -ENOSPC);
	}
	ck_assert_uint_ge(first, end + end / 6);
	expect_blocks(end, first, 1);
	for (uint64_t block = 1; block < end; block += 3)
		expect_blocks(block, block + 2 < end ? block + 2 : end, 1);
	ck_assert_int_eq(store->ops->remove(store, INO, 0, UINT64_MAX), 0);
	store->ops->free(store);
}
END_TEST

/* Half of each segment is garbage, and the garbage is all the space there is. */
START_TEST(full_of_garbage)
{
	char path[SCRATCH_PATH_LEN + 16];
	uint64_t end;

	mount_point(_i, path, sizeof(path));
	open_store(path, true);
	end = fill_up(0, 1);
	for (uint64_t block = 0; block < end; block += 2)
		ck_assert_int_eq(store->ops->remove(store, INO, block, 1), 0);
	for (uint64_t first = 0; first < end / 4; first += BATCH)
		put_when_possible(end + first, 1);
	expect_blocks(end, end + end / 4, 1);
	for (uint64_t block = 1; block < end; block += 2)
		expect_blocks(block, block + 1, 1);
	ck_assert_int_eq(store->ops->remove(store, INO, 0, UINT64_MAX), 0);
	store->ops->free(store);
}
END_TEST

START_TEST(full_by_another)
{
	char path[SCRATCH_PATH_LEN + 16], other[SCRATCH_PATH_LEN + 32];
	int puts = 0, r;

	mount_point(_i, path, sizeof(path));
	snprintf(other, sizeof(other), "%s/other", path);
	open_store(path, true);
	for (uint64_t first = 0; first < 10 * BATCH; first += BATCH)
		ck_assert_int_eq(put(first, 1), 0);
	ck_assert_int_eq(put_meta(1, true), 0);
	fill_by_another(other);
	while ((r = put((uint64_t)(10 + puts) * BATCH, 1)) == 0 && puts < 1000)
		puts++;
	ck_assert_int_eq(r, -ENOSPC);
	ck_assert_int_eq(put_meta(2, true), -ENOSPC);
	ck_assert_int_eq(put_meta(2, false), -ENOSPC);
	expect_blocks(0, (uint64_t)(10 + puts) * BATCH, 1);
	ck_assert_int_eq(store->ops->sync(store), 0);

	ck_assert_int_eq(unlink(other), 0);
	put_when_possible(0, 3);
	ck_assert_int_eq(put_meta(3, true), 0);
	store->ops->free(store);
	open_store(path, false);
	expect_blocks(0, BATCH, 3);
	expect_blocks(BATCH, (uint64_t)(10 + puts) * BATCH, 1);
	ck_assert_int_eq(store->ops->remove(store, INO, 0, UINT64_MAX), 0);
	store->ops->free(store);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("store_full");
	TCase *tests = tcase_create("full");
	int failed = 0;

	if (geteuid() != 0) {
		puts("needs root, to mount small filesystems");
		return 77;
	}
	scratch_new(&scratch, "full");
	for (int disk = 0; disk < DISKS; disk++) {
		if (mount_disk(disk) < 0) {
			perror(disks[disk].name);
			unmount_all();
			scratch_free(&scratch);
			return EXIT_FAILURE;
		}
	}
	tcase_set_timeout(tests, 120);
	tcase_add_loop_test(tests, full_of_ones_own, 0, DISKS);
	tcase_add_loop_test(tests, full_of_garbage, 0, DISKS);
	tcase_add_loop_test(tests, full_and_pressed, 0, DISKS);
	tcase_add_loop_test(tests, full_by_another, 0, DISKS);
	suite_add_tcase(suite, tests);
	failed = check_run(suite);
	unmount_all();
	scratch_free(&scratch);
	return failed;
}
