/* The helper that takes pages out of the kernel's cache, on files of an ordinary filesystem: what leaves, what stays
 * and why, how the file is found, and what happens when the helper does not answer.
 *
 * A page is pinned by vmsplice(), which holds a reference as a disk does that reads into it.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/magic.h>

#include "../lib/lib_scratch.h"
#include "base/clock.h"
#include "map/evict.h"
#include "map/evict_child.h"
#include "lib_check.h"

#define PAGE EVICT_PAGE
#define BLOCK (4U * PAGE)
#define BLOCKS 64U
#define BYTES (BLOCKS * BLOCK)

static struct scratch scratch;
static struct evict *evict;
static char path[SCRATCH_PATH_LEN + 16];
static int fd;
static struct stat attr;
static struct evict_answer answers[EVICT_RANGES_MAX];
static struct evict_summary summary;

static void setup(void)
{
	scratch_new(&scratch, "evict");
	snprintf(path, sizeof(path), "%s/ram", scratch.path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, BYTES), 0);
	ck_assert_int_eq(fstat(fd, &attr), 0);
	ck_assert_int_eq(evict_start(&evict), 0);
}

static void teardown(void)
{
	evict_stop(evict);
	close(fd);
	scratch_free(&scratch);
}

/* Without read-ahead: pages come one by one, as they do in a mount. */
static char *map_file(void)
{
	char *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	ck_assert_ptr_ne(at, MAP_FAILED);
	ck_assert_int_eq(madvise(at, BYTES, MADV_RANDOM), 0);
	return at;
}

static char pattern(uint64_t offset, int round)
{
	return (char)((int)(offset / PAGE * 31) + round + 1);
}

static void fill(char *at, uint64_t from, uint64_t to, int round)
{
	for (uint64_t i = from; i < to; i += PAGE)
		memset(at + i, pattern(i, round), PAGE);
}

static void check(const char *at, uint64_t from, uint64_t to, int round)
{
	for (uint64_t i = from; i < to; i += PAGE) {
		ck_assert_int_eq(at[i], pattern(i, round));
		ck_assert_int_eq(at[i + PAGE - 1], pattern(i, round));
	}
}

static void out(const char *name, uint64_t offset, uint64_t length)
{
	struct evict_range range = { .offset = offset, .length = length };

	ck_assert_int_eq(evict_out(evict, attr.st_dev, attr.st_ino, name, &range, 1, answers, &summary), 0);
}

static uint64_t cached_bytes(void)
{
	uint8_t cached[BLOCKS];
	uint64_t bytes;

	ck_assert_int_eq(evict_measure(evict, attr.st_dev, attr.st_ino, path, 0, BLOCK, BLOCKS, cached, &bytes), 0);
	return bytes;
}

/* A process that maps the file, reads it all, and ends when the pipe is closed. */
struct other {
	pid_t pid;
	int go;
};

static void other_start(struct other *other, bool lock_memory)
{
	int ready[2], go[2];
	char byte;

	ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(go, O_CLOEXEC), 0);
	other->pid = fork();
	ck_assert_int_ge(other->pid, 0);
	if (other->pid == 0) {
		volatile char *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(go[1]);
		for (unsigned int i = 0; i < BYTES; i += PAGE)
			(void)at[i];
		/* mlock() does nothing under a sanitizer. */
		if ((lock_memory && syscall(SYS_mlock, at, BYTES) < 0) || write(ready[1], "", 1) != 1)
			_exit(1);
		while (read(go[0], &byte, 1) < 0)
			;
		_exit(0);
	}
	close(ready[1]);
	close(go[0]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	other->go = go[1];
}

static void other_end(struct other *other)
{
	int status;

	close(other->go);
	ck_assert_int_eq(waitpid(other->pid, &status, 0), other->pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

START_TEST(test_dirty_pages_leave)
{
	char *at = map_file();

	for (int round = 0; round < 3; round++) {
		fill(at, 0, BYTES, round);
		out(path, 0, BYTES);
		ck_assert(summary.opened);
		ck_assert_uint_eq(summary.mappers, 1);
		ck_assert_uint_eq(summary.other, 0);
		ck_assert_int_eq(summary.sync_error, 0);
		ck_assert_uint_eq(answers[0].cached_bytes, 0);
		ck_assert_uint_eq(answers[0].dirty_bytes, 0);
		ck_assert_uint_eq(cached_bytes(), 0);
		check(at, 0, BYTES, round);
	}
	munmap(at, BYTES);
}
END_TEST

START_TEST(test_only_the_ranges)
{
	struct evict_range ranges[BLOCKS / 2];
	uint8_t cached[BLOCKS];
	char *at = map_file();
	uint64_t bytes;

	fill(at, 0, BYTES, 0);
	for (unsigned int i = 0; i < BLOCKS / 2; i++)
		ranges[i] = (struct evict_range){ .offset = 2ULL * i * BLOCK, .length = BLOCK };
	ck_assert_int_eq(evict_out(evict, attr.st_dev, attr.st_ino, path, ranges, BLOCKS / 2, answers, &summary), 0);
	for (unsigned int i = 0; i < BLOCKS / 2; i++)
		ck_assert_uint_eq(answers[i].cached_bytes, 0);
	ck_assert_int_eq(evict_measure(evict, attr.st_dev, attr.st_ino, path, 0, BLOCK, BLOCKS, cached, &bytes), 0);
	ck_assert_uint_eq(bytes, BYTES / 2);
	for (unsigned int i = 0; i < BLOCKS; i++)
		ck_assert_uint_eq(cached[i], i % 2);
	check(at, 0, BYTES, 0);
	munmap(at, BYTES);
}
END_TEST

START_TEST(test_two_mappers_keep_pages)
{
	char *at = map_file();
	struct other other;

	fill(at, 0, BYTES, 0);
	other_start(&other, false);
	out(path, 0, BYTES);
	ck_assert_uint_eq(summary.mappers, 2);
	ck_assert_uint_eq(answers[0].cached_bytes, BYTES);
	ck_assert_uint_eq(answers[0].dirty_bytes, 0);
	other_end(&other);
	/* The other one is still in the table, and is found to be gone. */
	out(path, 0, BYTES);
	ck_assert_uint_eq(summary.mappers, 1);
	ck_assert_uint_eq(answers[0].cached_bytes, 0);
	check(at, 0, BYTES, 0);
	munmap(at, BYTES);
}
END_TEST

START_TEST(test_locked_memory_stays)
{
	struct other other;

	other_start(&other, true);
	out(path, 0, BYTES);
	ck_assert_uint_eq(summary.mappers, 1);
	ck_assert_uint_eq(summary.other, 1);
	ck_assert_int_eq(summary.other_error, -EINVAL);
	ck_assert_uint_eq(answers[0].cached_bytes, BYTES);
	other_end(&other);
}
END_TEST

START_TEST(test_pinned_page_stays)
{
	char *at = map_file(), back[PAGE];
	struct iovec iov = { .iov_base = at + BLOCK, .iov_len = PAGE };
	int ends[2];

	fill(at, 0, BYTES, 0);
	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	ck_assert_int_eq(vmsplice(ends[1], &iov, 1, 0), PAGE);
	out(path, 0, BYTES);
	ck_assert_uint_eq(answers[0].cached_bytes, PAGE);
	ck_assert_int_eq(read(ends[0], back, PAGE), PAGE);
	ck_assert_int_eq(back[0], pattern(BLOCK, 0));
	out(path, 0, BYTES);
	ck_assert_uint_eq(answers[0].cached_bytes, 0);
	check(at, 0, BYTES, 0);
	close(ends[0]);
	close(ends[1]);
	munmap(at, BYTES);
}
END_TEST

START_TEST(test_unlinked)
{
	char *at = map_file();
	int decoy;

	fill(at, 0, BYTES, 0);
	ck_assert_int_eq(unlink(path), 0);
	out(NULL, 0, BYTES);
	ck_assert(summary.opened);
	ck_assert_uint_eq(answers[0].cached_bytes, 0);

	/* A name that leads to another file by now is not trusted. */
	decoy = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(decoy, 0);
	check(at, 0, BYTES, 0);
	out(path, 0, BYTES);
	ck_assert(summary.opened);
	ck_assert_uint_eq(answers[0].cached_bytes, 0);
	close(decoy);
	munmap(at, BYTES);
}
END_TEST

START_TEST(test_moved_mapping)
{
	char *at = map_file(), *elsewhere;

	ck_assert_int_eq(unlink(path), 0);
	fill(at, 0, BYTES, 0);
	out(NULL, 0, BYTES);
	ck_assert_uint_eq(answers[0].cached_bytes, 0);
	elsewhere = mmap(NULL, BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(elsewhere, MAP_FAILED);
	at = mremap(at, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere);
	ck_assert_ptr_eq(at, elsewhere);
	fill(at, 0, BYTES, 1);
	out(NULL, 0, BYTES);
	ck_assert(summary.opened);
	ck_assert_uint_eq(answers[0].cached_bytes, 0);
	check(at, 0, BYTES, 1);
	munmap(at, BYTES);
}
END_TEST

START_TEST(test_other_mount_namespace)
{
	char inner[SCRATCH_PATH_LEN + 32];
	int ready[2], status;
	char byte;
	pid_t pid;

	snprintf(inner, sizeof(inner), "%s/inner", scratch.path);
	ck_assert_int_eq(mkdir(inner, 0700), 0);
	ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		char name[SCRATCH_PATH_LEN + 48];
		char *at;
		int mine;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		snprintf(name, sizeof(name), "%s/ram", inner);
		if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount(scratch.path, inner, NULL, MS_BIND, NULL) < 0)
			_exit(1);
		mine = open(name, O_RDWR);
		at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, mine, 0);
		if (at == MAP_FAILED)
			_exit(1);
		fill(at, 0, BYTES, 0);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	out(NULL, 0, BYTES);
	ck_assert(summary.opened);
	ck_assert_uint_eq(summary.mappers, 1);
	ck_assert_uint_eq(answers[0].cached_bytes, 0);
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
}
END_TEST

START_TEST(test_nobody_maps)
{
	struct evict_range range = { .offset = 0, .length = BYTES };
	char page[PAGE];

	for (unsigned int i = 0; i < BYTES; i += PAGE) {
		memset(page, pattern(i, 0), PAGE);
		ck_assert_int_eq(pwrite(fd, page, PAGE, i), PAGE);
	}
	ck_assert_uint_eq(cached_bytes(), BYTES);
	ck_assert_int_eq(evict_drop(evict, attr.st_dev, attr.st_ino, path, &range, 1, answers, &summary), 0);
	ck_assert(summary.opened);
	ck_assert_uint_eq(summary.mappers, 0);
	ck_assert_uint_eq(answers[0].cached_bytes, 0);
	ck_assert_int_eq(pread(fd, page, PAGE, BLOCK), PAGE);
	ck_assert_int_eq(page[7], pattern(BLOCK, 0));
	out(path, 0, BYTES);
	ck_assert_uint_eq(answers[0].cached_bytes, 0);
	/* No name, no mapper: no way in. */
	out(NULL, 0, BYTES);
	ck_assert(!summary.opened);
	ck_assert_int_eq(summary.open_error, -ENOENT);
}
END_TEST

START_TEST(test_arguments)
{
	static const struct evict_range bad[] = {
		{ 0, 0 }, { 1, PAGE }, { 0, PAGE + 1 }, { UINT64_MAX - PAGE + 1, PAGE }, { PAGE, INT64_MAX - PAGE + 1 },
	};
	struct evict_range range = { 0, PAGE };
	char long_path[PATH_MAX + 1];
	uint8_t cached[4];
	uint64_t bytes;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_int_eq(evict_out(evict, attr.st_dev, attr.st_ino, path, &bad[i], 1, answers, &summary),
				 -EINVAL);
	ck_assert_int_eq(evict_out(evict, attr.st_dev, attr.st_ino, path, &range, 0, answers, &summary), -EINVAL);
	ck_assert_int_eq(evict_out(evict, attr.st_dev, attr.st_ino, path, &range, EVICT_RANGES_MAX + 1, answers,
				   &summary),
			 -EINVAL);
	memset(long_path, 'a', PATH_MAX);
	long_path[PATH_MAX] = '\0';
	ck_assert_int_eq(evict_out(evict, attr.st_dev, attr.st_ino, long_path, &range, 1, answers, &summary),
			 -ENAMETOOLONG);
	ck_assert_int_eq(evict_measure(evict, attr.st_dev, attr.st_ino, path, 0, 100, 1, cached, &bytes), -EINVAL);
	ck_assert_int_eq(evict_measure(evict, attr.st_dev, attr.st_ino, path, 0, BLOCK, UINT64_MAX / 2, cached, &bytes),
			 -EINVAL);
	ck_assert_int_eq(evict_measure(evict, attr.st_dev, attr.st_ino + 1, path, 0, BLOCK, 1, cached, &bytes),
			 -ENOENT);
	ck_assert_int_eq(evict_measure(evict, attr.st_dev, attr.st_ino, path, 0, BLOCK, 0, cached, &bytes), 0);
	ck_assert_uint_eq(bytes, 0);
	evict_stop(NULL);
}
END_TEST

/* More blocks than one message answers for. */
START_TEST(test_measure_large)
{
	uint64_t count = 3ULL * EVICT_MEASURE_BLOCKS_MAX / 2, bytes = 0, seen = 0;
	static const uint64_t touched[] = { 0, 17, 4095, 65535, 65536, 90000, 98303 };
	uint8_t *cached = malloc(count);
	char byte = 'x';

	ck_assert_ptr_nonnull(cached);
	memset(cached, 7, count);
	ck_assert_int_eq(ftruncate(fd, (off_t)(count * PAGE)), 0);
	for (size_t i = 0; i < sizeof(touched) / sizeof(touched[0]); i++)
		ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)(touched[i] * PAGE)), 1);
	ck_assert_int_eq(evict_measure(evict, attr.st_dev, attr.st_ino, path, 0, PAGE, count, cached, &bytes), 0);
	for (size_t i = 0; i < sizeof(touched) / sizeof(touched[0]); i++)
		ck_assert_uint_eq(cached[touched[i]], 1);
	for (uint64_t i = 0; i < count; i++) {
		ck_assert_uint_le(cached[i], 1);
		seen += cached[i];
	}
	ck_assert_uint_eq(seen * PAGE, bytes);
	ck_assert_uint_eq(seen, sizeof(touched) / sizeof(touched[0]));
	free(cached);
}
END_TEST

static void wait_for_end(pid_t pid)
{
	int pidfd = pidfd_open(pid, 0);
	struct pollfd pollfd = { .fd = pidfd, .events = POLLIN };

	if (pidfd < 0)
		return;
	ck_assert_int_eq(poll(&pollfd, 1, 5000), 1);
	close(pidfd);
}

START_TEST(test_helper_killed)
{
	struct evict_range range = { 0, BYTES };
	char *at = map_file();

	fill(at, 0, BYTES, 0);
	for (int i = 0; i < 5; i++) {
		pid_t pid = evict_pid(evict);

		ck_assert_int_gt(pid, 0);
		kill(pid, SIGKILL);
		wait_for_end(pid);
		ck_assert_int_eq(evict_out(evict, attr.st_dev, attr.st_ino, path, &range, 1, answers, &summary),
				 -EPIPE);
		ck_assert_int_ne(evict_pid(evict), pid);
		out(path, 0, BYTES);
		ck_assert_uint_eq(answers[0].cached_bytes, 0);
		check(at, 0, BYTES, 0);
	}
	munmap(at, BYTES);
}
END_TEST

START_TEST(test_helper_hangs)
{
	struct evict_range range = { 0, BYTES };
	pid_t pid = evict_pid(evict);

	evict_set_timeout(evict, 100 * NS_PER_MS);
	kill(pid, SIGSTOP);
	ck_assert_int_eq(evict_out(evict, attr.st_dev, attr.st_ino, path, &range, 1, answers, &summary), -ETIMEDOUT);
	wait_for_end(pid);
	ck_assert_int_ne(evict_pid(evict), pid);
	evict_set_timeout(evict, 30 * NS_PER_S);
	out(path, 0, BYTES);
	ck_assert(summary.opened);
}
END_TEST

static pid_t parent_of(pid_t pid)
{
	char name[64], line[256];
	int parent = 0;
	FILE *file;

	snprintf(name, sizeof(name), "/proc/%d/status", (int)pid);
	file = fopen(name, "re");
	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "PPid: %d", &parent) == 1)
			break;
	fclose(file);
	return parent;
}

START_TEST(test_spawner_killed)
{
	struct evict_range range = { 0, BYTES };
	pid_t worker = evict_pid(evict), spawner = parent_of(worker);

	kill(spawner, SIGKILL);
	wait_for_end(spawner);
	wait_for_end(worker);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(evict_out(evict, attr.st_dev, attr.st_ino, path, &range, 1, answers, &summary),
				 -EPIPE);
	ck_assert_int_eq(evict_pid(evict), 0);
}
END_TEST

START_TEST(test_helper_is_alone)
{
	pid_t processes[] = { evict_pid(evict), parent_of(evict_pid(evict)) };

	cached_bytes(); /* it has begun by then */
	for (int i = 0; i < 2; i++) {
		int count = 0, sockets = 0;

		for (int nr = 0; nr < 64; nr++) {
			char name[64], target[256] = "";

			snprintf(name, sizeof(name), "/proc/%d/fd/%d", (int)processes[i], nr);
			if (readlink(name, target, sizeof(target) - 1) < 0)
				continue;
			count++;
			sockets += !strncmp(target, "socket:", 7);
			ck_assert_msg(!strncmp(target, "socket:", 7) || !strcmp(target, "/dev/null"), "%s", target);
		}
		ck_assert_int_eq(count, 4);
		ck_assert_int_eq(sockets, 1);
	}
	evict_stop(evict);
	evict = NULL;
	for (int i = 0; i < 2; i++)
		wait_for_end(processes[i]);
}
END_TEST

/* The daemon is killed: its helpers end. */
START_TEST(test_daemon_killed)
{
	int ends[2], status;
	pid_t pid, worker;

	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct evict *own;

		if (evict_start(&own) < 0)
			_exit(1);
		worker = evict_pid(own);
		if (write(ends[1], &worker, sizeof(worker)) != (ssize_t)sizeof(worker))
			_exit(1);
		pause();
		_exit(0);
	}
	close(ends[1]);
	ck_assert_int_eq(read(ends[0], &worker, sizeof(worker)), sizeof(worker));
	close(ends[0]);
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	wait_for_end(worker);
}
END_TEST

static void *caller(void *arg)
{
	struct evict_range range = { 0, BYTES };
	struct evict_answer answer;
	struct evict_summary sum;

	(void)arg;
	for (int i = 0; i < 50; i++)
		if (evict_out(evict, attr.st_dev, attr.st_ino, path, &range, 1, &answer, &sum) < 0 || !sum.opened)
			return (void *)1;
	return NULL;
}

/* Callers from several threads while the memory is written: no word is lost. */
START_TEST(test_under_load)
{
	pthread_t threads[3];
	char *at = map_file();
	void *failed;

	fill(at, 0, BYTES, 0);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, caller, NULL), 0);
	for (int round = 0; round < 40; round++) {
		check(at, 0, BYTES, round);
		fill(at, 0, BYTES, round + 1);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &failed);
		ck_assert_ptr_null(failed);
	}
	check(at, 0, BYTES, 40);
	munmap(at, BYTES);
}
END_TEST

/* Why there is nothing to test here, or NULL. */
static const char *obstacle(void)
{
	const char *dir = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
	struct statfs fs;

	if (getuid() != 0)
		return "must be root: it looks into other processes";
	if (evict_child_probe() < 0)
		return "the kernel has no cachestat(2), which came with Linux 6.5";
	if (statfs(dir, &fs) < 0 || fs.f_type == TMPFS_MAGIC)
		return "the temporary directory is on tmpfs, whose pages have nowhere to go; set TMPDIR";
	return NULL;
}

int main(void)
{
	Suite *suite = suite_create("evict");
	TCase *all = tcase_create("all");

	suite_add_tcase(suite, all);
	if (obstacle()) {
		printf("%s\n", obstacle());
		return check_skip(suite);
	}
	tcase_add_checked_fixture(all, setup, teardown);
	tcase_set_timeout(all, 30);
	tcase_add_test(all, test_dirty_pages_leave);
	tcase_add_test(all, test_only_the_ranges);
	tcase_add_test(all, test_two_mappers_keep_pages);
	tcase_add_test(all, test_locked_memory_stays);
	tcase_add_test(all, test_pinned_page_stays);
	tcase_add_test(all, test_unlinked);
	tcase_add_test(all, test_moved_mapping);
	tcase_add_test(all, test_other_mount_namespace);
	tcase_add_test(all, test_nobody_maps);
	tcase_add_test(all, test_arguments);
	tcase_add_test(all, test_measure_large);
	tcase_add_test(all, test_helper_killed);
	tcase_add_test(all, test_helper_hangs);
	tcase_add_test(all, test_spawner_killed);
	tcase_add_test(all, test_helper_is_alone);
	tcase_add_test(all, test_daemon_killed);
	tcase_add_test(all, test_under_load);
	return check_run(suite);
}
