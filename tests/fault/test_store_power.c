/* fault/test_store_power.c - power is lost: what was durable is there, in the old version or in a newer one.
 *
 * The loss is simulated by the worst that a filesystem may do: of the database's log only what was synced is there,
 * while names that were unlinked and ends that were cut off are gone. This program stands between the database and its
 * syncs, and notes how long each log was when it was last synced. A copy of the store is cut back to that and opened.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "cold/store_rocks.h"
#include "lib_check.h"

#define INO 3
#define BLOCKS 2000U
#define VALUE_BYTES 5000U
#define SPAN_BYTES 8192U /* of a value that is put alone */
#define SEGMENT_BYTES (1U << 20)
#define LOGS 64U

static struct scratch scratch;
static char dir[SCRATCH_PATH_LEN + 16], copy[SCRATCH_PATH_LEN + 16];
static struct store *store;

/* --- how much of each log is durable --- */

static struct {
	char name[32];
	off_t bytes;
} logs[LOGS];
static size_t logs_count;
static pthread_mutex_t logs_lock = PTHREAD_MUTEX_INITIALIZER; /* of the list; held while a log is synced */
static atomic_uint log_syncs;
static atomic_int fail_values, fail_log; /* syncs that are to fail */

/* The name of a file of the store under test, if it ends so. */
static bool is_log(int fd, char *name, size_t cap)
{
	char link[64], path[2 * SCRATCH_PATH_LEN];
	ssize_t len;
	const char *base;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof(path) - 1);
	if (len < 4)
		return false;
	path[len] = '\0';
	if (strcmp(path + len - 4, ".log") != 0 || strncmp(path, dir, strlen(dir)) != 0)
		return false;
	base = strrchr(path, '/') + 1;
	snprintf(name, cap, "%.30s", base);
	return true;
}

/* The path of a segment that could not be synced: what was in it is lost. Complete when has_lost says so. */
static char lost[2 * SCRATCH_PATH_LEN];
static atomic_bool has_lost;

static bool fails_as_value(int fd)
{
	char link[64], path[2 * SCRATCH_PATH_LEN];
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof(path) - 1);
	if (len < 0)
		return false;
	path[len] = '\0';
	if (!strstr(path, "/values/") || atomic_fetch_sub(&fail_values, 1) <= 0)
		return false;
	snprintf(lost, sizeof(lost), "%s", path);
	atomic_store(&has_lost, true);
	return true;
}

static void note_log(const char *name, off_t bytes)
{
	size_t i = 0;

	while (i < logs_count && strcmp(logs[i].name, name) != 0)
		i++;
	if (i < LOGS) {
		snprintf(logs[i].name, sizeof(logs[i].name), "%s", name);
		logs[i].bytes = bytes;
		if (i == logs_count)
			logs_count++;
	}
	atomic_fetch_add(&log_syncs, 1);
}

static int sync_file(long number, int fd)
{
	char name[32];
	struct stat attr;
	bool log = is_log(fd, name, sizeof(name));
	bool fail = (log && atomic_load(&fail_log) && atomic_fetch_sub(&fail_log, 1) > 0) ||
		    (!log && atomic_load(&fail_values) && fails_as_value(fd));
	int r;

	if (fail) {
		errno = EIO;
		return -1;
	}
	if (!log)
		return (int)syscall(number, fd);
	pthread_mutex_lock(&logs_lock);
	r = fstat(fd, &attr) < 0 ? -1 : (int)syscall(number, fd);
	if (r == 0)
		note_log(name, attr.st_size);
	pthread_mutex_unlock(&logs_lock);
	return r;
}

/* --- what of the values is not durable: written since its segment was last synced --- */

#define WRITES 4096U

static struct {
	char name[16];
	off_t from;
	size_t bytes;
} writes[WRITES];
static size_t writes_count;
static pthread_mutex_t writes_lock = PTHREAD_MUTEX_INITIALIZER; /* held while values are written and synced */

static bool is_value(int fd, char *name, size_t cap)
{
	char link[64], path[2 * SCRATCH_PATH_LEN];
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof(path) - 1);
	if (len < 0)
		return false;
	path[len] = '\0';
	if (!strstr(path, "/values/") || strncmp(path, dir, strlen(dir)) != 0)
		return false;
	snprintf(name, cap, "%.8s", strrchr(path, '/') + 1);
	return true;
}

ssize_t pwrite(int fd, const void *buf, size_t bytes, off_t from)
{
	ssize_t n;

	pthread_mutex_lock(&writes_lock);
	n = syscall(SYS_pwrite64, fd, buf, bytes, from);
	if (n > 0 && writes_count < WRITES && is_value(fd, writes[writes_count].name, sizeof(writes[0].name))) {
		writes[writes_count].from = from;
		writes[writes_count++].bytes = (size_t)n;
	}
	pthread_mutex_unlock(&writes_lock);
	return n;
}

static int sync_values(int fd)
{
	char name[16];
	int r;

	if (!is_value(fd, name, sizeof(name)))
		return sync_file(SYS_fdatasync, fd);
	pthread_mutex_lock(&writes_lock);
	r = sync_file(SYS_fdatasync, fd);
	for (size_t i = 0; r == 0 && i < writes_count;) {
		if (strcmp(writes[i].name, name) == 0)
			writes[i] = writes[--writes_count];
		else
			i++;
	}
	pthread_mutex_unlock(&writes_lock);
	return r;
}

static void lose_writes(void)
{
	static const char zeros[1 << 20];
	char path[2 * SCRATCH_PATH_LEN];

	ck_assert_uint_lt(writes_count, WRITES);
	for (size_t i = 0; i < writes_count; i++) {
		int fd;

		snprintf(path, sizeof(path), "%.200s/values/%.15s", copy, writes[i].name);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0)
			continue; /* it is gone */
		ck_assert_uint_le(writes[i].bytes, sizeof(zeros));
		ck_assert_int_eq(syscall(SYS_pwrite64, fd, zeros, writes[i].bytes, writes[i].from), writes[i].bytes);
		close(fd);
	}
}

int fdatasync(int fd)
{
	return sync_values(fd);
}

int fsync(int fd)
{
	return sync_file(SYS_fsync, fd);
}

/* --- content --- */

static int open_store(const char *path, bool create, struct store **ret)
{
	struct store_rocks_config config = {
		.dir = path,
		.create = create,
		.block_bytes = 16384,
		.write_buffer_bytes = 8 << 20,
		.segment_bytes = SEGMENT_BYTES,
	};

	return store_rocks_open(&config, ret);
}

static void fill(uint8_t *value, uint64_t block, uint8_t version)
{
	memset(value, version, VALUE_BYTES);
	memcpy(value, &block, sizeof(block));
}

static int put(uint64_t first, uint64_t count, uint64_t stride, uint8_t version)
{
	static uint8_t value[VALUE_BYTES];
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < count; i++) {
		uint64_t block = first + i * stride;
		struct store_item item = { { INO, block }, value, VALUE_BYTES };

		fill(value, block, version);
		r = store->ops->put(store, STORE_DEMOTION, &item, 1);
	}
	return r;
}

static void start(void)
{
	snprintf(dir, sizeof(dir), "%s/XXXXXX", scratch.path);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	logs_count = 0;
	ck_assert_int_eq(open_store(dir, true, &store), 0);
	ck_assert_int_eq(put(0, BLOCKS, 1, 1), 0);
	ck_assert_int_eq(store->ops->sync(store), 0);
}

static unsigned int values_count(void)
{
	char path[SCRATCH_PATH_LEN + 32];
	unsigned int count = 0;
	DIR *open;

	snprintf(path, sizeof(path), "%s/values", dir);
	open = opendir(path);
	ck_assert_ptr_nonnull(open);
	while (readdir(open))
		count++;
	closedir(open);
	return count - 2;
}

/* --- the loss --- */

static void cut_log(const char *name)
{
	char path[3 * SCRATCH_PATH_LEN];
	off_t bytes = 0;

	for (size_t i = 0; i < logs_count; i++) {
		if (strcmp(logs[i].name, name) == 0)
			bytes = logs[i].bytes;
	}
	snprintf(path, sizeof(path), "%s/%s", copy, name);
	ck_assert_int_eq(truncate(path, bytes), 0);
}

/* Of the log, or of the values, what was not synced is lost. No log is synced while the copy is made, so what goes
 * meanwhile may go with what is durable of the log now. (The copying program complains of it.) */
static struct store *lose_power(bool of_log)
{
	char command[4 * SCRATCH_PATH_LEN];
	struct dirent *entry;
	struct store *after;
	DIR *open;

	snprintf(copy, sizeof(copy), "%s/copy", scratch.path);
	snprintf(command, sizeof(command), "rm -rf '%s' && cp -a --sparse=always '%s' '%s' 2>&-", copy, dir, copy);
	pthread_mutex_lock(&logs_lock);
	pthread_mutex_lock(&writes_lock);
	ck_assert_int_ne(system(command), -1);
	if (!of_log)
		lose_writes();
	pthread_mutex_unlock(&writes_lock);
	open = opendir(copy);
	ck_assert_ptr_nonnull(open);
	while ((entry = readdir(open))) {
		size_t len = strlen(entry->d_name);

		if (of_log && len > 4 && strcmp(entry->d_name + len - 4, ".log") == 0)
			cut_log(entry->d_name);
	}
	closedir(open);
	pthread_mutex_unlock(&logs_lock);
	if (atomic_load(&has_lost)) {
		snprintf(command, sizeof(command), "%s%s", copy, lost + strlen(dir));
		ck_assert(truncate(command, 0) == 0 || errno == ENOENT);
	}
	ck_assert_int_eq(open_store(copy, false, &after), 0);
	return after;
}

/* Each block has one of two versions; 0: it may be missing. */
static void expect_after_loss(uint8_t one, uint8_t other)
{
	struct store *after = lose_power(true);

	for (uint64_t block = 0; block < BLOCKS; block++) {
		uint8_t got[VALUE_BYTES], want[VALUE_BYTES];
		size_t len = 0;
		int r = after->ops->get(after, STORE_GUEST, (struct store_key){ INO, block }, got, sizeof(got), &len);

		if (r == -ENOENT && (!one || !other))
			continue;
		ck_assert_msg(r == 0, "block %u: %s", (unsigned int)block, strerror(-r));
		ck_assert_uint_eq(len, VALUE_BYTES);
		ck_assert_msg(got[100] && (got[100] == one || got[100] == other), "block %u: version %u",
			      (unsigned int)block, got[100]);
		fill(want, block, got[100]);
		ck_assert_mem_eq(got, want, VALUE_BYTES);
	}
	after->ops->free(after);
}

START_TEST(what_was_replaced_is_there)
{
	start();
	ck_assert_int_eq(put(0, BLOCKS, 1, 2), 0);
	expect_after_loss(1, 2);
	store->ops->free(store);
}
END_TEST

START_TEST(what_was_removed_is_there)
{
	start();
	ck_assert_int_eq(store->ops->remove(store, INO, 0, UINT64_MAX), 0);
	expect_after_loss(1, 0);
	store->ops->free(store);
}
END_TEST

START_TEST(garbage_goes_when_it_is_durable)
{
	unsigned int syncs;

	start();
	/* Fewer than what hurries; and no sync is asked for. */
	syncs = atomic_load(&log_syncs);
	ck_assert_int_eq(store->ops->remove(store, INO, 0, BLOCKS / 4), 0);
	ck_assert_int_eq(put(0, BLOCKS / 4, 1, 1), 0);
	for (int i = 0; atomic_load(&log_syncs) == syncs && i < 6000; i++)
		usleep(10000);
	ck_assert_uint_gt(atomic_load(&log_syncs), syncs);
	ck_assert_int_eq(put(0, BLOCKS, 1, 2), 0);
	ck_assert_int_eq(store->ops->sync(store), 0);
	for (int i = 0; values_count() > BLOCKS * SPAN_BYTES / SEGMENT_BYTES + 3 && i < 6000; i++)
		usleep(10000); /* the collector may be at it */
	ck_assert_uint_le(values_count(), BLOCKS * SPAN_BYTES / SEGMENT_BYTES + 3);
	expect_after_loss(2, 2);
	store->ops->free(store);
}
END_TEST

/* Half of each segment is replaced, so the collector moves the rest; it may be anywhere when power goes. */
START_TEST(what_the_collector_moves_is_there)
{
	start();
	for (uint8_t version = 2; version < 8; version++) {
		ck_assert_int_eq(put(0, BLOCKS / 2, 2, version), 0);
		ck_assert_int_eq(store->ops->sync(store), 0);
		ck_assert_int_eq(put(0, BLOCKS / 2, 2, version), 0);
	}
	ck_assert_int_eq(put(0, BLOCKS / 2, 2, 1), 0);
	expect_after_loss(1, 7);
	store->ops->free(store);
}
END_TEST

/* The other loss: all records are there, and no value that was not synced. */
START_TEST(what_was_promised_can_be_read)
{
	unsigned int old = 0;
	struct store *after;

	start();
	store->ops->keep(store, INO, true);
	ck_assert_int_eq(put(0, 200, 1, 2), 0);
	after = lose_power(false);
	for (uint64_t block = 0; block < BLOCKS; block++) {
		uint8_t got[VALUE_BYTES];
		size_t len = 0;

		ck_assert_int_eq(after->ops->get(after, STORE_GUEST, (struct store_key){ INO, block }, got, sizeof(got),
						 &len),
				 0);
		ck_assert_uint_eq(len, VALUE_BYTES);
		ck_assert_msg(got[100] == 1 || got[100] == 2, "block %u: %u", (unsigned int)block, got[100]);
		old += got[100] == 1;
	}
	ck_assert_uint_eq(old, BLOCKS - 200);
	after->ops->free(after);
	store->ops->free(store);
}
END_TEST

/* --- syncs that fail: the next one is not believed because it passes --- */

/* What the segment held is in others afterwards. */
START_TEST(a_failed_sync_of_values_is_made_good)
{
	int failed;

	start();
	atomic_store(&fail_values, 1);
	/* The collector may sync what was put before this sync does, and may be the one that meets the failure. */
	do {
		ck_assert_int_eq(put(0, 400, 1, 2), 0);
		failed = store->ops->sync(store);
		ck_assert(failed == -EIO || failed == 0);
	} while (!atomic_load(&has_lost));
	ck_assert_int_eq(store->ops->sync(store), 0);
	expect_after_loss(1, 2);
	store->ops->free(store);
}
END_TEST

START_TEST(a_failed_sync_of_the_log_is_made_good)
{
	int r;

	start();
	ck_assert_int_eq(put(0, 400, 1, 2), 0);
	atomic_store(&fail_log, 1);
	while (atomic_load(&fail_log) > 0)
		store->ops->sync(store);
	/* From here on the log that could not be synced is worth nothing: all is in new files. */
	pthread_mutex_lock(&logs_lock);
	for (size_t i = 0; i < logs_count; i++)
		logs[i].bytes = 0;
	pthread_mutex_unlock(&logs_lock);
	for (int i = 0; (r = store->ops->sync(store)) < 0 && i < 1000; i++)
		usleep(10000);
	ck_assert_int_eq(r, 0);
	expect_after_loss(1, 2);
	store->ops->free(store);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("store_power");
	TCase *tests = tcase_create("power");
	int failed;

	scratch_new(&scratch, "power");
	tcase_set_timeout(tests, 120);
	tcase_add_test(tests, what_was_replaced_is_there);
	tcase_add_test(tests, what_was_removed_is_there);
	tcase_add_test(tests, garbage_goes_when_it_is_durable);
	tcase_add_test(tests, what_the_collector_moves_is_there);
	tcase_add_test(tests, what_was_promised_can_be_read);
	tcase_add_test(tests, a_failed_sync_of_values_is_made_good);
	tcase_add_test(tests, a_failed_sync_of_the_log_is_made_good);
	suite_add_tcase(suite, tests);
	failed = check_run(suite);
	scratch_free(&scratch);
	return failed;
}
