/* What map/ and engine/demote.c take for granted of userfaultfd and tmpfs, on the kernel that runs. Root only. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <tierfs/protocol.h>

#include "map/uffd.h"
#include "mem/arena.h"
#include "lib_check.h"

/* Newer than Debian 12's headers; include/uapi/linux/userfaultfd.h of Linux 6.6. */
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#ifndef UFFDIO_POISON
struct uffdio_poison {
	struct uffdio_range range;
	__u64 mode;
	__s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif

#define PAGE 4096UL
#define PAGES 64UL
#define PATIENCE_MS 10000
#define PAGEMAP_UFFD_WP (UINT64_C(1) << 57)

/* --- a file on a tmpfs that nobody else sees, mapped and registered ------------------------------------------- */

struct memory {
	int fd, uffd, pagemap;
	uint8_t *map;
};

static int tmpfs = -1;
static struct memory mem;

/* Mounted nowhere: it goes when the last descriptor does, also when a test ends badly. */
static int new_tmpfs(void)
{
	int context = fsopen("tmpfs", FSOPEN_CLOEXEC), fd;

	if (context < 0)
		return -1;
	if (fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		fd = -1;
	else
		fd = fsmount(context, FSMOUNT_CLOEXEC, 0);
	close(context);
	return fd;
}

static int next_event(uint64_t *ret_addr, enum uffd_event_kind *ret_kind)
{
	struct uffd_event event;
	int count = uffd_read(mem.uffd, &event, 1);

	if (count < 0)
		return count;
	*ret_addr = event.addr;
	*ret_kind = event.kind;
	return 0;
}

/* As the library does it: from the device, so that faults of the kernel count too. */
static int new_uffd(uint64_t more_features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = TIERFS_UFFD_FEATURES | more_features };
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd = -1;

	if (device >= 0) {
		fd = (int)ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(device);
	}
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void setup_unregistered(void)
{
	tmpfs = new_tmpfs();
	ck_assert_int_ge(tmpfs, 0);
	mem.fd = openat(tmpfs, "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(mem.fd, 0);
	ck_assert_int_eq(ftruncate(mem.fd, PAGES * PAGE), 0);
	mem.map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mem.fd, 0);
	ck_assert_ptr_ne(mem.map, MAP_FAILED);
	mem.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(mem.pagemap, 0);
	mem.uffd = new_uffd(0);
	ck_assert_int_ge(mem.uffd, 0);
}

static uint64_t at(uint64_t page)
{
	return (uintptr_t)mem.map + page * PAGE;
}

static void setup(void)
{
	setup_unregistered();
	ck_assert_int_eq(uffd_register(mem.uffd, at(0), PAGES * PAGE), 0);
}

static void teardown(void)
{
	if (mem.uffd >= 0)
		close(mem.uffd);
	munmap(mem.map, PAGES * PAGE);
	close(mem.pagemap);
	close(mem.fd);
	close(tmpfs);
}

/* Into the file, past the page tables. */
static void put(uint64_t page, uint8_t value)
{
	uint8_t data[PAGE];

	memset(data, value, sizeof(data));
	ck_assert_int_eq(pwrite(mem.fd, data, sizeof(data), (off_t)(page * PAGE)), PAGE);
}

static uint8_t get(uint64_t page)
{
	uint8_t value;

	ck_assert_int_eq(pread(mem.fd, &value, 1, (off_t)(page * PAGE)), 1);
	return value;
}

static void copy(uint64_t page, uint8_t value)
{
	uint8_t data[PAGE];

	memset(data, value, sizeof(data));
	ck_assert_int_eq(uffd_copy(mem.uffd, at(page), data, PAGE), 0);
}

static void protect(uint64_t page, uint64_t count)
{
	ck_assert_int_eq(uffd_protect(mem.uffd, at(page), count * PAGE, true), 0);
}

static void zap(uint64_t page, uint64_t count)
{
	ck_assert_int_eq(madvise(mem.map + page * PAGE, count * PAGE, MADV_DONTNEED), 0);
}

static void punch(uint64_t page, uint64_t count)
{
	ck_assert_int_eq(fallocate(mem.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(page * PAGE),
				   (off_t)(count * PAGE)),
			 0);
}

static void wake(uint64_t page)
{
	ck_assert_int_eq(uffd_wake(mem.uffd, at(page), PAGE), 0);
}

/* --- what the page tables say --------------------------------------------------------------------------------- */

static void mark(void *arg, uint64_t addr, uint64_t length)
{
	uint8_t *mapped = arg;

	memset(mapped + (addr - at(0)) / PAGE, 1, length / PAGE);
}

static uint64_t pagemap_entry(uint64_t page)
{
	uint64_t entry;

	ck_assert_int_eq(pread(mem.pagemap, &entry, sizeof(entry), (off_t)(at(page) / PAGE * sizeof(entry))),
			 sizeof(entry));
	return entry;
}

/* How many pages are mapped; PAGEMAP_SCAN, and reading the file, must say the same of each. */
static uint64_t mapped_pages(void)
{
	uint8_t mapped[PAGES] = { 0 };
	uint64_t count = 0;

	ck_assert_int_eq(uffd_mapped(mem.pagemap, at(0), PAGES * PAGE, mark, mapped), 0);
	for (uint64_t page = 0; page < PAGES; page++) {
		ck_assert_uint_eq(mapped[page], pagemap_entry(page) >> 63);
		count += mapped[page];
	}
	return count;
}

static bool is_mapped(uint64_t page)
{
	return pagemap_entry(page) >> 63;
}

static bool is_protected(uint64_t page)
{
	return pagemap_entry(page) & PAGEMAP_UFFD_WP;
}

/* --- touching in a thread, which may have to wait ------------------------------------------------------------- */

struct touch {
	pthread_t thread;
	uint64_t page;
	bool writes;
	uint8_t value; /* written, or what was read */
	_Atomic pid_t tid;
	_Atomic bool done;
};

static void *run_touch(void *arg)
{
	struct touch *touch = arg;
	volatile uint8_t *byte = mem.map + touch->page * PAGE;

	atomic_store(&touch->tid, gettid());
	if (touch->writes)
		*byte = touch->value;
	else
		touch->value = *byte;
	atomic_store(&touch->done, true);
	return NULL;
}

static void start(struct touch *touch)
{
	ck_assert_int_eq(pthread_create(&touch->thread, NULL, run_touch, touch), 0);
}

static void finish(struct touch *touch)
{
	pthread_join(touch->thread, NULL);
}

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

/* The thread sleeps, and not because it has ended. */
static void expect_blocked(const struct touch *touch)
{
	char path[64], text[256], state = 'R';

	for (int i = 0; i < PATIENCE_MS && state == 'R' && !atomic_load(&touch->done); i++) {
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)atomic_load(&touch->tid));
		file = fopen(path, "re");
		ck_assert_ptr_nonnull(file);
		ck_assert_ptr_nonnull(fgets(text, sizeof(text), file));
		state = strrchr(text, ')')[2];
		fclose(file);
		if (state == 'R')
			pause_ms(1);
	}
	ck_assert_int_ne(state, 'R');
	ck_assert(!atomic_load(&touch->done));
}

static void expect_event(uint64_t page, enum uffd_event_kind kind)
{
	struct pollfd wait = { .fd = mem.uffd, .events = POLLIN };
	enum uffd_event_kind got_kind;
	uint64_t addr;

	ck_assert_int_eq(poll(&wait, 1, PATIENCE_MS), 1);
	ck_assert_int_eq(next_event(&addr, &got_kind), 0);
	ck_assert_uint_eq(addr, at(page));
	ck_assert_int_eq(got_kind, kind);
}

static void expect_no_event(void)
{
	enum uffd_event_kind kind;
	uint64_t addr;

	ck_assert_int_eq(next_event(&addr, &kind), -EAGAIN);
}

/* A touch that needs nobody: it ends although no event is answered. */
static uint8_t touch_alone(uint64_t page, bool writes, uint8_t value)
{
	struct touch touch = { .page = page, .writes = writes, .value = value };

	start(&touch);
	for (int i = 0; i < PATIENCE_MS && !atomic_load(&touch.done); i++) {
		expect_no_event();
		pause_ms(1);
	}
	ck_assert(atomic_load(&touch.done));
	finish(&touch);
	return touch.value;
}

/* --- protection ----------------------------------------------------------------------------------------------- */

START_TEST(protection_survives_a_zap)
{
	struct touch writer = { .page = 5, .writes = true, .value = 9 };

	put(5, 1);
	touch_alone(5, true, 2);
	protect(4, 4);
	zap(0, PAGES);
	ck_assert(is_protected(5));
	ck_assert_uint_eq(touch_alone(5, false, 0), 2);
	start(&writer);
	expect_event(5, UFFD_EVENT_PROTECTED);
	expect_blocked(&writer);
	ck_assert_uint_eq(get(5), 2);
	ck_assert_int_eq(uffd_protect(mem.uffd, at(5), PAGE, false), 0);
	finish(&writer);
	ck_assert_uint_eq(get(5), 9);
}
END_TEST

/* The same when the zap comes through a pidfd, many ranges in one call, and nobody read between it and the write. */
START_TEST(protection_survives_a_vector_of_zaps)
{
	struct touch writer = { .page = 9, .writes = true, .value = 7 };
	struct iovec range[] = { { mem.map + 2 * PAGE, PAGE }, { mem.map + 8 * PAGE, 4 * PAGE } };
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);

	ck_assert_int_ge(self, 0);
	for (uint64_t page = 0; page < 16; page++) {
		put(page, 1);
		touch_alone(page, true, 2);
	}
	protect(0, 16);
	ck_assert_int_eq(syscall(SYS_process_madvise, self, range, 2, MADV_DONTNEED, 0), 5 * PAGE);
	ck_assert_uint_eq(mapped_pages(), 11);
	start(&writer);
	expect_event(9, UFFD_EVENT_PROTECTED);
	expect_blocked(&writer);
	ck_assert_int_eq(uffd_protect(mem.uffd, at(9), PAGE, false), 0);
	finish(&writer);
	ck_assert_uint_eq(get(9), 7);
	close(self);
}
END_TEST

/* The order of a demotion: protect, (copy,) punch. Who writes in between waits, and then finds the page missing. */
START_TEST(blocked_writer_finds_the_page_missing)
{
	struct touch writer = { .page = 3, .writes = true, .value = 8 };
	uint8_t data[PAGE];

	put(3, 4);
	touch_alone(3, true, 5);
	protect(3, 1);
	start(&writer);
	expect_event(3, UFFD_EVENT_PROTECTED);
	expect_blocked(&writer);
	ck_assert_uint_eq(get(3), 5);
	punch(3, 1);
	expect_blocked(&writer); /* a punch wakes nobody */
	expect_no_event();
	wake(3);
	expect_event(3, UFFD_EVENT_MISSING);
	expect_blocked(&writer);
	memset(data, 6, sizeof(data));
	ck_assert_int_eq(uffd_copy(mem.uffd, at(3), data, PAGE), 0);
	finish(&writer);
	ck_assert_uint_eq(get(3), 8);
	ck_assert_uint_eq(mem.map[3 * PAGE + 1], 6);
}
END_TEST

/* --- what is mapped ------------------------------------------------------------------------------------------- */

START_TEST(a_look_sees_the_pages_that_were_touched)
{
	for (uint64_t page = 0; page < PAGES; page++)
		put(page, 1);
	ck_assert_uint_eq(mapped_pages(), 0);
	touch_alone(32, false, 0);
	ck_assert_uint_eq(mapped_pages(), 1);
	ck_assert(is_mapped(32));
	touch_alone(40, true, 2);
	ck_assert_uint_eq(mapped_pages(), 2);
	zap(0, PAGES);
	ck_assert_uint_eq(mapped_pages(), 0);

	protect(0, PAGES);
	ck_assert_uint_eq(mapped_pages(), 0);
	touch_alone(33, false, 0);
	ck_assert_uint_eq(mapped_pages(), 1);
	ck_assert(is_mapped(33));
	zap(0, PAGES);
	ck_assert_uint_eq(mapped_pages(), 0);
}
END_TEST

/* What would be seen if registering did not switch fault-around off. */
START_TEST(unregistered_memory_is_mapped_around_a_touch)
{
	for (uint64_t page = 0; page < PAGES; page++)
		put(page, 1);
	touch_alone(32, false, 0);
	ck_assert_uint_gt(mapped_pages(), 1);
}
END_TEST

/* --- answers to a missing page -------------------------------------------------------------------------------- */

static void expect_writable_after_copy(uint64_t page)
{
	ck_assert(is_protected(page));
	ck_assert(!is_mapped(page));
	copy(page, 3);
	ck_assert(is_mapped(page));
	ck_assert(!is_protected(page));
	touch_alone(page, true, 4);
	ck_assert_uint_eq(get(page), 4);
}

/* A marker is what a protection leaves where no page is mapped. */
START_TEST(pages_put_over_a_marker_are_writable)
{
	protect(10, 1); /* never present */
	expect_writable_after_copy(10);

	touch_alone(10, true, 1);
	protect(10, 1); /* demoted while idle */
	zap(10, 1);
	punch(10, 1);
	expect_writable_after_copy(10);

	protect(11, 1);
	ck_assert_int_eq(uffd_zero(mem.uffd, at(11), PAGE), 0);
	touch_alone(11, true, 4);
	ck_assert_uint_eq(get(11), 4);
}
END_TEST

START_TEST(copy_and_zeropage_keep_a_cached_page)
{
	uint8_t data[PAGE] = { 5 };
	struct uffdio_zeropage zero = { .range = { .start = at(7), .len = PAGE } };
	struct uffdio_copy put_copy = { .dst = at(7), .src = (uintptr_t)data, .len = PAGE };
	uint8_t *other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mem.fd, 7 * PAGE);

	ck_assert_ptr_ne(other, MAP_FAILED);
	other[0] = 3;
	ck_assert_int_lt(ioctl(mem.uffd, UFFDIO_ZEROPAGE, &zero), 0);
	ck_assert_int_eq(errno, EEXIST);
	ck_assert_int_eq(zero.zeropage, -EEXIST);
	ck_assert_int_lt(ioctl(mem.uffd, UFFDIO_COPY, &put_copy), 0);
	ck_assert_int_eq(errno, EEXIST);
	ck_assert_uint_eq(touch_alone(7, false, 0), 3);
	munmap(other, PAGE);

	zero.range.start = at(8);
	ck_assert_int_eq(ioctl(mem.uffd, UFFDIO_ZEROPAGE, &zero), 0);
	touch_alone(8, true, 1);
	ck_assert_uint_eq(get(8), 1);
}
END_TEST

START_TEST(write_and_wake_answer_a_missing_page)
{
	struct touch reader = { .page = 20 }, writer = { .page = 21, .writes = true, .value = 2 };

	start(&reader);
	expect_event(20, UFFD_EVENT_MISSING);
	expect_blocked(&reader);
	put(20, 6);
	expect_blocked(&reader); /* the write alone is no answer */
	wake(20);
	finish(&reader);
	ck_assert_uint_eq(reader.value, 6);

	protect(21, 1);
	start(&writer);
	expect_event(21, UFFD_EVENT_MISSING);
	put(21, 1);
	wake(21);
	expect_event(21, UFFD_EVENT_PROTECTED);
	ck_assert_int_eq(uffd_protect(mem.uffd, at(21), PAGE, false), 0);
	finish(&writer);
	ck_assert_uint_eq(get(21), 2);
	expect_no_event();
}
END_TEST

/* --- poison --------------------------------------------------------------------------------------------------- */

static _Thread_local sigjmp_buf after_fault;

static void on_fault(int signal)
{
	(void)signal;
	siglongjmp(after_fault, 1);
}

static bool touch_dies(uint64_t page)
{
	struct sigaction action = { .sa_handler = on_fault };

	sigaction(SIGBUS, &action, NULL);
	if (sigsetjmp(after_fault, 1))
		return true;
	(void)*(volatile uint8_t *)(mem.map + page * PAGE);
	return false;
}

static void use_poison(void)
{
	close(mem.uffd);
	mem.uffd = new_uffd(UFFD_FEATURE_POISON);
	ck_assert_int_ge(mem.uffd, 0);
	ck_assert_int_eq(uffd_register(mem.uffd, at(0), PAGES * PAGE), 0);
}

static void *run_dying_touch(void *arg)
{
	struct touch *touch = arg;

	atomic_store(&touch->tid, gettid());
	touch->value = touch_dies(touch->page);
	atomic_store(&touch->done, true);
	return NULL;
}

START_TEST(poison_is_sigbus)
{
	use_poison();
	ck_assert_int_eq(uffd_poison(mem.uffd, at(2), PAGE), 0);
	ck_assert(touch_dies(2));
	ck_assert(touch_dies(2));
	expect_no_event();
	copy(3, 1);
	ck_assert(!touch_dies(3));
}
END_TEST

START_TEST(poison_is_sigbus_to_who_waits)
{
	struct touch touch = { .page = 4 };

	use_poison();
	ck_assert_int_eq(pthread_create(&touch.thread, NULL, run_dying_touch, &touch), 0);
	expect_event(4, UFFD_EVENT_MISSING);
	expect_blocked(&touch);
	ck_assert_int_eq(uffd_poison(mem.uffd, at(4), PAGE), 0);
	finish(&touch);
	ck_assert_uint_eq(touch.value, true);
	expect_no_event();
}
END_TEST

/* So a block that could not be read heals when it is brought after all. */
START_TEST(a_copy_goes_over_poison)
{
	use_poison();
	ck_assert_int_eq(uffd_poison(mem.uffd, at(2), 2 * PAGE), 0);
	ck_assert(touch_dies(2));
	copy(2, 7);
	ck_assert(!touch_dies(2));
	ck_assert_uint_eq(mem.map[2 * PAGE], 7);
	ck_assert(touch_dies(3));
	expect_no_event();
}
END_TEST

/* Nothing that is done to the file takes poison off, nor a copy that finds the page there. */
START_TEST(poison_stays_over_a_page_that_came_by_itself)
{
	use_poison();
	ck_assert_int_eq(uffd_poison(mem.uffd, at(2), PAGE), 0);
	put(2, 1);
	ck_assert(touch_dies(2));
	copy(2, 1);
	ck_assert(touch_dies(2));
	punch(2, 1);
	ck_assert(touch_dies(2));
	expect_no_event();
}
END_TEST

/* The range is not registered for minor faults. */
START_TEST(poison_is_taken_off_where_the_file_has_a_page)
{
	use_poison();
	ck_assert_int_eq(uffd_poison(mem.uffd, at(2), 3 * PAGE), 0);
	put(2, 1);
	put(5, 1);
	ck_assert(!touch_dies(5));
	ck_assert_int_eq(uffd_heal(mem.uffd, at(2), 4 * PAGE, false), 0);
	ck_assert(!touch_dies(2));
	ck_assert_uint_eq(mem.map[2 * PAGE], 1);
	ck_assert(touch_dies(3));
	ck_assert(touch_dies(4));
	ck_assert_int_eq(uffd_heal(mem.uffd, at(3), PAGE, true), 0);
	ck_assert(!touch_dies(3));
	ck_assert_uint_eq(mem.map[3 * PAGE], 0);
	ck_assert(touch_dies(4));
	mem.map[2 * PAGE] = 9; /* it is writable */
	expect_no_event();
}
END_TEST

/* Every block that was demoted left markers behind. A protection that is taken off takes them away. */
START_TEST(poison_needs_a_range_without_markers)
{
	struct uffdio_poison poison = { .range = { .start = at(2), .len = PAGE } };
	struct touch reader = { .page = 2 };

	use_poison();
	put(2, 1);
	touch_alone(2, true, 1);
	protect(2, 1);
	zap(2, 1);
	punch(2, 1);
	ck_assert_int_lt(ioctl(mem.uffd, UFFDIO_POISON, &poison), 0);
	ck_assert_int_eq(errno, EEXIST);
	start(&reader);
	expect_event(2, UFFD_EVENT_MISSING);
	copy(2, 7);
	finish(&reader);
	ck_assert_uint_eq(reader.value, 7);

	protect(2, 1);
	punch(2, 1);
	ck_assert_int_eq(uffd_protect(mem.uffd, at(2), PAGE, false), 0);
	ck_assert_int_eq(uffd_poison(mem.uffd, at(2), PAGE), 0);
	ck_assert(touch_dies(2));
	expect_no_event();
}
END_TEST

/* --- who holds the descriptor --------------------------------------------------------------------------------- */

/* Runs step in a child, which ends with it. Exit status 0 means that it returned true. */
static pid_t in_child(bool (*step)(void *arg), void *arg)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(step(arg) ? 0 : 1);
	}
	return pid;
}

static void expect_success(pid_t pid)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}

struct helper {
	int go[2]; /* a byte: answer */
	uint8_t data[PAGE];
};

static bool answer_when_told(void *arg)
{
	struct helper *helper = arg;
	char byte;

	close(helper->go[1]);
	return read(helper->go[0], &byte, 1) == 1 && uffd_copy(mem.uffd, at(1), helper->data, PAGE) == 0 &&
	       uffd_copy(mem.uffd, at(2), helper->data, PAGE) == 0;
}

START_TEST(faults_wait_while_one_copy_is_held)
{
	struct touch early = { .page = 1 }, late = { .page = 2 };
	struct helper helper;
	pid_t pid;

	memset(helper.data, 5, sizeof(helper.data));
	ck_assert_int_eq(pipe(helper.go), 0);
	pid = in_child(answer_when_told, &helper);
	start(&early);
	expect_event(1, UFFD_EVENT_MISSING);
	close(mem.uffd);
	mem.uffd = -1;
	start(&late);
	expect_blocked(&early);
	while (!atomic_load(&late.tid))
		pause_ms(1);
	expect_blocked(&late);
	ck_assert_int_eq(write(helper.go[1], "", 1), 1);
	finish(&early);
	finish(&late);
	ck_assert_uint_eq(early.value, 5);
	ck_assert_uint_eq(late.value, 5);
	expect_success(pid);
	close(helper.go[0]);
	close(helper.go[1]);
}
END_TEST

/* What happens when nobody holds it: why the daemon keeps every copy until the mapping is gone. */
START_TEST(without_a_holder_missing_pages_are_zeros)
{
	struct touch reader = { .page = 1 };

	start(&reader);
	expect_event(1, UFFD_EVENT_MISSING);
	close(mem.uffd);
	mem.uffd = -1;
	finish(&reader);
	ck_assert_uint_eq(reader.value, 0);
}
END_TEST

static bool read_event_and_die(void *arg)
{
	uint64_t *addr = arg;
	enum uffd_event_kind kind;
	struct pollfd wait = { .fd = mem.uffd, .events = POLLIN };

	return poll(&wait, 1, PATIENCE_MS) == 1 && next_event(addr, &kind) == 0;
}

START_TEST(event_of_a_dead_reader_comes_again)
{
	struct touch reader = { .page = 6 }, writer = { .page = 7, .writes = true, .value = 3 };
	uint64_t addr;

	start(&reader);
	expect_success(in_child(read_event_and_die, &addr));
	expect_no_event();
	expect_blocked(&reader);
	ck_assert_int_eq(uffd_wake(mem.uffd, at(0), PAGES * PAGE), 0);
	expect_event(6, UFFD_EVENT_MISSING);
	copy(6, 4);
	finish(&reader);
	ck_assert_uint_eq(reader.value, 4);

	put(7, 1);
	protect(7, 1);
	start(&writer);
	expect_success(in_child(read_event_and_die, &addr));
	expect_blocked(&writer);
	ck_assert_int_eq(uffd_wake(mem.uffd, at(0), PAGES * PAGE), 0);
	expect_event(7, UFFD_EVENT_PROTECTED);
	ck_assert_int_eq(uffd_protect(mem.uffd, at(7), PAGE, false), 0);
	finish(&writer);
	ck_assert_uint_eq(get(7), 3);
}
END_TEST

/* Not a look at its own memory: that is gone before. */
static bool register_for_parent(void *arg)
{
	uint64_t addr;
	enum uffd_event_kind kind;
	uint8_t data[PAGE];
	struct pollfd wait = { .fd = mem.uffd, .events = POLLIN };

	memset(data, 9, sizeof(data));
	if (munmap(mem.map, PAGES * PAGE) || uffd_register(mem.uffd, at(0), PAGES * PAGE))
		return false;
	if (write(*(int *)arg, "", 1) != 1 || poll(&wait, 1, PATIENCE_MS) != 1)
		return false;
	return next_event(&addr, &kind) == 0 && addr == at(30) && uffd_copy(mem.uffd, addr, data, PAGE) == 0;
}

START_TEST(registering_acts_on_the_memory_of_the_maker)
{
	struct touch reader = { .page = 30 };
	int ready[2];
	char byte;
	pid_t pid;

	ck_assert_int_eq(pipe(ready), 0);
	pid = in_child(register_for_parent, &ready[1]);
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	start(&reader);
	finish(&reader);
	ck_assert_uint_eq(reader.value, 9);
	expect_success(pid);
	close(ready[0]);
}
END_TEST

/* --- the arena ------------------------------------------------------------------------------------------------ */

static bool wait_for_end(void *arg)
{
	int *go = arg;
	char byte;

	close(go[1]);
	return read(go[0], &byte, 1) == 0;
}

START_TEST(holder_lives_as_long_as_a_mapping)
{
	struct arena arena;
	uint64_t holder = 0;
	int fd, go[2];
	uint8_t *map;
	pid_t pid;

	ck_assert_int_eq(arena_init(&arena, tmpfs, 77, 4 * PAGE), 0);
	ck_assert_int_eq(arena_next_holder(&arena, 0, &holder), -ENOENT);
	ck_assert_int_eq(arena_share(&arena, true, &fd), 0);
	ck_assert_int_eq(arena_hold(fd, 1234), 0);
	map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(map, MAP_FAILED);
	close(fd);
	ck_assert_int_eq(arena_next_holder(&arena, 0, &holder), 0);
	ck_assert_uint_eq(holder, 1234);
	ck_assert_int_eq(arena_next_holder(&arena, 1235, &holder), -ENOENT);

	ck_assert_int_eq(pipe(go), 0);
	pid = in_child(wait_for_end, go);
	munmap(map, 4 * PAGE);
	ck_assert_int_eq(arena_next_holder(&arena, 0, &holder), 0); /* a child that inherited it holds it too */
	close(go[1]);
	expect_success(pid);
	ck_assert_int_eq(arena_next_holder(&arena, 0, &holder), -ENOENT);
	close(go[0]);
	arena_fini(&arena);
}
END_TEST

static void expect_data(const struct arena *arena, uint64_t from, uint64_t first, uint64_t count)
{
	uint64_t start, end;

	ck_assert_int_eq(arena_next_data(arena, from * PAGE, &start, &end), 0);
	ck_assert_uint_eq(start, first * PAGE);
	ck_assert_uint_eq(end, (first + count) * PAGE);
}

START_TEST(seek_data_knows_every_page)
{
	struct arena arena = { .fd = mem.fd };
	uint64_t start;

	ck_assert_int_eq(arena_next_data(&arena, 0, &start, NULL), -ENXIO);
	put(3, 1);
	expect_data(&arena, 0, 3, 1);
	for (uint64_t page = 7; page < 10; page++)
		put(page, 1);
	expect_data(&arena, 4, 7, 3);
	punch(8, 1);
	expect_data(&arena, 4, 7, 1);
	expect_data(&arena, 8, 9, 1);
	copy(8, 2);
	expect_data(&arena, 4, 7, 3);
	ck_assert_int_eq(uffd_zero(mem.uffd, at(20), 2 * PAGE), 0); /* zeros are data */
	expect_data(&arena, 10, 20, 2);
	ck_assert_int_eq(arena_next_data(&arena, 22 * PAGE, &start, NULL), -ENXIO);
	for (uint64_t page = 0; page < PAGES; page += 2)
		put(page, 1);
	for (uint64_t page = 24; page < PAGES; page += 2)
		expect_data(&arena, page - 1, page, 1);
}
END_TEST

/* --- */

/* One read brings all that have come, each with its thread. */
START_TEST(events_say_which_thread_waits)
{
	struct touch touch[3] = { { .page = 3 }, { .page = 1 }, { .page = 2 } };
	struct pollfd wait = { .fd = mem.uffd, .events = POLLIN };
	struct uffd_event event[4];
	int count = 0;

	for (int i = 0; i < 3; i++)
		start(&touch[i]);
	while (count < 3) {
		int more;

		ck_assert_int_eq(poll(&wait, 1, PATIENCE_MS), 1);
		more = uffd_read(mem.uffd, event + count, 4 - (unsigned int)count);
		ck_assert_int_gt(more, 0);
		count += more;
	}
	ck_assert_int_eq(count, 3);
	for (int i = 0; i < 3; i++) {
		int of = 0;

		while (of < 2 && at(touch[of].page) != event[i].addr)
			of++;
		ck_assert_uint_eq(event[i].addr, at(touch[of].page));
		ck_assert_int_eq(event[i].tid, atomic_load(&touch[of].tid));
	}
	for (int i = 0; i < 3; i++) {
		copy(touch[i].page, 1);
		finish(&touch[i]);
	}
}
END_TEST

/* A process of an older library does not ask for it. */
START_TEST(without_the_feature_no_thread_is_told)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct pollfd wait = { .fd = -1, .events = POLLIN };
	struct touch touch = { .page = 3 };
	struct uffd_event event;
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	api.features = TIERFS_UFFD_FEATURES & ~(uint64_t)UFFD_FEATURE_THREAD_ID;
	close(mem.uffd);
	mem.uffd = wait.fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	ck_assert_int_eq(ioctl(mem.uffd, UFFDIO_API, &api), 0);
	ck_assert_int_eq(uffd_register(mem.uffd, at(0), PAGES * PAGE), 0);
	start(&touch);
	ck_assert_int_eq(poll(&wait, 1, PATIENCE_MS), 1);
	ck_assert_int_eq(uffd_read(mem.uffd, &event, 1), 1);
	ck_assert_int_eq(event.tid, 0);
	copy(3, 1);
	finish(&touch);
}
END_TEST

static const char *why_not(void)
{
	int fd;

	if (geteuid() != 0)
		return "needs root";
	fd = new_uffd(0);
	if (fd < 0)
		return "/dev/userfaultfd has not what is needed";
	close(fd);
	fd = new_tmpfs();
	if (fd < 0)
		return "no tmpfs can be made";
	close(fd);
	return NULL;
}

static bool can_poison(void)
{
	int fd = new_uffd(UFFD_FEATURE_POISON);

	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static void add_tests(TCase *tests)
{
	tcase_add_test(tests, protection_survives_a_zap);
	tcase_add_test(tests, protection_survives_a_vector_of_zaps);
	tcase_add_test(tests, blocked_writer_finds_the_page_missing);
	tcase_add_test(tests, a_look_sees_the_pages_that_were_touched);
	tcase_add_test(tests, pages_put_over_a_marker_are_writable);
	tcase_add_test(tests, copy_and_zeropage_keep_a_cached_page);
	tcase_add_test(tests, write_and_wake_answer_a_missing_page);
	tcase_add_test(tests, faults_wait_while_one_copy_is_held);
	tcase_add_test(tests, without_a_holder_missing_pages_are_zeros);
	tcase_add_test(tests, event_of_a_dead_reader_comes_again);
	tcase_add_test(tests, holder_lives_as_long_as_a_mapping);
	tcase_add_test(tests, seek_data_knows_every_page);
	tcase_add_test(tests, events_say_which_thread_waits);
	tcase_add_test(tests, without_the_feature_no_thread_is_told);
	if (can_poison()) {
		tcase_add_test(tests, poison_is_sigbus);
		tcase_add_test(tests, poison_is_sigbus_to_who_waits);
		tcase_add_test(tests, poison_needs_a_range_without_markers);
		tcase_add_test(tests, a_copy_goes_over_poison);
		tcase_add_test(tests, poison_stays_over_a_page_that_came_by_itself);
		tcase_add_test(tests, poison_is_taken_off_where_the_file_has_a_page);
	} else {
		printf("  without poison: this kernel has none\n");
	}
}

int main(void)
{
	Suite *suite = suite_create("kernel_uffd");
	TCase *registered = tcase_create("registered"), *unregistered = tcase_create("unregistered");
	const char *reason = why_not();

	suite_add_tcase(suite, registered);
	suite_add_tcase(suite, unregistered);
	if (reason) {
		printf("skipped: %s\n", reason);
		return check_skip(suite);
	}
	tcase_add_checked_fixture(registered, setup, teardown);
	add_tests(registered);
	tcase_add_checked_fixture(unregistered, setup_unregistered, teardown);
	tcase_add_test(unregistered, unregistered_memory_is_mapped_around_a_touch);
	tcase_add_test(unregistered, registering_acts_on_the_memory_of_the_maker);
	return check_run(suite);
}
