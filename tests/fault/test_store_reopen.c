/* link: -rdynamic -ldl */
/* fault/test_store_reopen.c - writes of the database fail for a while, under a store that is in use.
 *
 * This program stands between the database and write(2) and pwrite(2), and makes those to its log or to its tables
 * fail. Puts then fail, gets do not; when the disk is well again, so are puts, without a restart, and nothing that was
 * acknowledged is missing, now and after the store was opened anew.
 */
#undef _FILE_OFFSET_BITS /* pwrite and pwrite64 shall be two functions: either may be called */

#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "cold/store_rocks.h"
#include "lib_check.h"

#define INO 4
#define BLOCKS 6000U
#define BATCH 16U
#define VALUE_BYTES 600U

static struct scratch scratch;
static _Atomic int log_error_number, table_error_number;
static _Atomic uint64_t injected;

static bool fails(int fd, const char *suffix, int error)
{
	char link[64], path[512];
	size_t suffix_len = strlen(suffix);
	ssize_t len;

	if (!error)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof(path) - 1);
	if (len < (ssize_t)suffix_len || memcmp(path + len - suffix_len, suffix, suffix_len) != 0 ||
	    strncmp(path, scratch.path, strlen(scratch.path)) != 0) /* the standard error may be a file.log, too */
		return false;
	injected++;
	errno = error;
	return true;
}

ssize_t write(int fd, const void *buf, size_t len)
{
	static ssize_t (*real)(int, const void *, size_t);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "write");
	return fails(fd, ".log", log_error_number) ? -1 : real(fd, buf, len);
}

static ssize_t pwrite_or_fail(const char *name, int fd, const void *buf, size_t len, off_t offset)
{
	ssize_t (*real)(int, const void *, size_t, off_t);

	*(void **)&real = dlsym(RTLD_NEXT, name);
	return fails(fd, ".sst", table_error_number) ? -1 : real(fd, buf, len, offset);
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	return pwrite_or_fail("pwrite", fd, buf, len, offset);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off_t offset)
{
	return pwrite_or_fail("pwrite64", fd, buf, len, offset);
}

/* --- content --- */

static char dir[SCRATCH_PATH_LEN + 16];
static struct store *store;
static uint32_t version_of[BLOCKS], maybe_of[BLOCKS];

static void open_store(bool create)
{
	struct store_rocks_config config = {
		.dir = dir,
		.create = create,
		.block_bytes = 4096,
		.write_buffer_bytes = 256 << 10,
		.segment_bytes = 1 << 20,
	};

	ck_assert_int_eq(store_rocks_open(&config, &store), 0);
}

static void fill(uint8_t *at, uint32_t block, uint32_t version)
{
	memset(at, (int)(block + version), VALUE_BYTES);
	memcpy(at, &block, 4);
	memcpy(at + 4, &version, 4);
}

static int put(uint32_t first, uint32_t version)
{
	static uint8_t values[BATCH][VALUE_BYTES];
	struct store_item items[BATCH];
	int r;

	for (uint32_t i = 0; i < BATCH; i++) {
		uint32_t block = (first + i * 37) % BLOCKS;

		fill(values[i], block, version);
		items[i] = (struct store_item){ { INO, block }, values[i], VALUE_BYTES };
		maybe_of[block] = version;
	}
	r = store->ops->put(store, STORE_DEMOTION, items, BATCH);
	for (uint32_t i = 0; r == 0 && i < BATCH; i++)
		version_of[items[i].key.block] = version;
	return r;
}

/* The last acknowledged version, or the one that failed after it. */
static void check_content(void)
{
	for (uint32_t block = 0; block < BLOCKS; block++) {
		uint8_t got[VALUE_BYTES], want[VALUE_BYTES];
		uint32_t version = 0;
		size_t len;
		int r = store->ops->get(store, STORE_GUEST, (struct store_key){ INO, block }, got, sizeof(got), &len);

		ck_assert(r == 0 || r == -ENOENT);
		if (r == 0)
			memcpy(&version, got + 4, 4);
		ck_assert_msg(version == version_of[block] ||
				      (version >= version_of[block] && version <= maybe_of[block]),
			      "block %u: version %u, not %u", block, version, version_of[block]);
		if (r == 0) {
			fill(want, block, version);
			ck_assert_mem_eq(got, want, VALUE_BYTES);
		}
	}
}

/* --- the test --- */

static const struct {
	const char *name;
	_Atomic int *what;
	int error;
	int seen; /* by the caller */
} faults[] = {
	{ "log, ENOSPC", &log_error_number, ENOSPC, -ENOSPC },
	{ "log, EIO", &log_error_number, EIO, -EIO },
	{ "tables, ENOSPC", &table_error_number, ENOSPC, -ENOSPC },
	{ "tables, EIO", &table_error_number, EIO, -EIO },
};

START_TEST(errors_pass)
{
	uint32_t version = 1;
	int r = 0;

	snprintf(dir, sizeof(dir), "%s/XXXXXX", scratch.path);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	open_store(true);
	for (; version <= 600; version++)
		ck_assert_int_eq(put(version * 101, version), 0);

	*faults[_i].what = faults[_i].error;
	for (int i = 0; i < 2000 && r == 0; i++, version++)
		r = put(version * 101, version);
	ck_assert_msg(r == faults[_i].seen, "%s: %d", faults[_i].name, r);
	ck_assert_uint_gt(injected, 0);
	for (int i = 0; i < 50; i++, version++)
		put(version * 101, version);
	check_content();

	*faults[_i].what = 0;
	for (int i = 0; (r = put(version * 101, version)) < 0 && i < 1000; i++, version++)
		usleep(10000);
	ck_assert_int_eq(r, 0);
	for (int i = 0; i < 300; i++) {
		version++;
		ck_assert_int_eq(put(version * 101, version), 0);
	}
	check_content();
	ck_assert_int_eq(store->ops->sync(store), 0);
	store->ops->free(store);
	open_store(false);
	check_content();
	store->ops->free(store);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("store_reopen");
	TCase *tests = tcase_create("reopen");
	int failed;

	scratch_new(&scratch, "reopen");
	tcase_set_timeout(tests, 60);
	tcase_add_loop_test(tests, errors_pass, 0, (int)(sizeof(faults) / sizeof(faults[0])));
	suite_add_tcase(suite, tests);
	failed = check_run(suite);
	scratch_free(&scratch);
	return failed;
}
