/* What src/engine/huge.c and src/mem/huge.h take for granted of the kernel: when it makes huge pages of shared memory,
 * what becomes of a part that is punched, and how one is split without changing what anybody reads. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
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

#include "lib_check.h"
#include "lib_scratch.h"
#include "map/holds.h"
#include "map/holds_prog.h"
#include "map/uffd.h"
#include "mem/huge.h"

#define PAGE 4096UL
#define UNIT_PAGES (HUGE_BYTES / PAGE)
#define FILE_BYTES (4 * HUGE_BYTES)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static struct holds *holds;
static struct scratch scratch;
static int dir;
static struct arena arena;
static uint8_t *memory; /* a mapping of all of it, aligned */

static uint8_t *map_aligned(int fd)
{
	uint8_t *room = mmap(NULL, FILE_BYTES + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *at = (uint8_t *)(((uintptr_t)room + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES);

	ck_assert_ptr_ne(room, MAP_FAILED);
	at = mmap(at, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	ck_assert_ptr_ne(at, MAP_FAILED);
	return at;
}

static void setup(void)
{
	ck_assert_int_eq(holds_open(&holds), 0);
	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	scratch_new(&scratch, "huge");
	ck_assert_int_eq(mount("huge", scratch.path, "tmpfs", 0, "noswap,huge=never"), 0);
	dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(arena_init(&arena, dir, 1, FILE_BYTES), 0);
	memory = map_aligned(arena.fd);
}

static void teardown(void)
{
	munmap(memory, FILE_BYTES);
	arena_fini(&arena);
	close(dir);
	ck_assert_int_eq(umount2(scratch.path, MNT_DETACH), 0);
	scratch_free(&scratch);
	holds_close(holds);
}

/* How many pages of the range are part of a large folio (or pinned). */
static uint64_t large(uint64_t page, uint64_t count)
{
	uint8_t held[FILE_BYTES / PAGE];
	uint64_t found = 0;

	ck_assert_int_eq(holds_look(holds, HOLDS_PINNED, arena.fd, page, count, HOLDS_OR_LARGE, held), 0);
	for (uint64_t i = 0; i < count; i++)
		found += held[i];
	return found;
}

static uint64_t mapped_huge(void)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	unsigned long start, end, kib, sum = 0;
	bool ours = false;
	char line[512];

	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			ours = start < (uintptr_t)memory + FILE_BYTES && end > (uintptr_t)memory;
		else if (ours && sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1)
			sum += kib << 10;
	}
	fclose(smaps);
	return sum;
}

static bool present(uint64_t offset)
{
	return lseek(arena.fd, (off_t)offset, SEEK_DATA) == (off_t)offset;
}

static void make_huge(uint64_t unit)
{
	static uint8_t got[HUGE_BYTES];
	bool made = false;

	ck_assert_int_eq(huge_fill(&arena, unit * HUGE_BYTES, &made), 0);
	ck_assert(made);
	ck_assert_uint_eq(large(unit * UNIT_PAGES, UNIT_PAGES), UNIT_PAGES);
	ck_assert_int_eq(arena_read(&arena, got, HUGE_BYTES, unit * HUGE_BYTES), 0);
	/* Not by an assertion for each byte: Check takes a second for 400,000. */
	ck_assert(got[0] == 0 && memcmp(got, got + 1, HUGE_BYTES - 1) == 0);
	for (uint64_t page = 0; page < UNIT_PAGES; page++)
		memory[unit * HUGE_BYTES + page * PAGE] = (uint8_t)(page + 1);
}

static void check_content(uint64_t unit)
{
	for (uint64_t page = 0; page < UNIT_PAGES; page++)
		ck_assert_uint_eq(memory[unit * HUGE_BYTES + page * PAGE], (uint8_t)(page + 1));
}

static void drop_entries(void)
{
	ck_assert_int_eq(madvise(memory, FILE_BYTES, MADV_DONTNEED), 0);
}

/* Holds a page, as a device would, until it is let go. */
static int pin(uint64_t page)
{
	struct io_uring_params params = { 0 };
	struct iovec buffer = { .iov_base = memory + page * PAGE, .iov_len = PAGE };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	ck_assert_int_ge(ring, 0);
	ck_assert_int_eq(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1), 0);
	return ring;
}

/* Returns when the kernel has dropped the reference, which it does a little later. */
static void unpin(int ring, uint64_t page)
{
	uint8_t pinned = 1;

	ck_assert_int_eq(syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0), 0);
	close(ring);
	while (pinned)
		ck_assert_int_eq(holds_look(holds, HOLDS_PINNED, arena.fd, page, 1, HOLDS_ONLY, &pinned), 0);
}

static void punch(uint64_t offset, uint64_t length)
{
	ck_assert_int_eq(arena_punch(&arena, offset, length), 0);
}

/* --- making --------------------------------------------------------------------------------------------------- */

/* MADV_HUGEPAGE makes none on a mount with huge=never, neither by a fault nor by a write. */
START_TEST(never_by_itself)
{
	static uint8_t data[HUGE_BYTES];

	ck_assert_int_eq(madvise(memory, FILE_BYTES, MADV_HUGEPAGE), 0);
	memory[0] = 1;
	ck_assert(!present(PAGE));
	ck_assert_int_eq(arena_write(&arena, data, HUGE_BYTES, HUGE_BYTES), 0);
	ck_assert_uint_eq(large(0, 2 * UNIT_PAGES), 0);
	ck_assert_uint_eq(mapped_huge(), 0);
}
END_TEST

START_TEST(one_entry)
{
	make_huge(1);
	ck_assert_uint_eq(mapped_huge(), HUGE_BYTES);
	drop_entries();
	ck_assert_uint_eq(mapped_huge(), 0);
	memory[HUGE_BYTES + 5 * PAGE] = 6;
	ck_assert_uint_eq(mapped_huge(), HUGE_BYTES);
	check_content(1);
}
END_TEST

static int watch(void)
{
	struct uffdio_api api = { .api = UFFD_API,
				  .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP |
					      UFFD_FEATURE_WP_HUGETLBFS_SHMEM };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ioctl(fd, UFFDIO_API, &api), 0);
	ck_assert_int_eq(uffd_register(fd, (uintptr_t)memory, FILE_BYTES), 0);
	return fd;
}

/* Also where userfaultfd looks for missing and protected pages; protection of a part takes the one entry away. */
START_TEST(one_entry_under_userfaultfd)
{
	int fd = watch();

	make_huge(1);
	ck_assert_uint_eq(mapped_huge(), HUGE_BYTES);
	ck_assert_int_eq(uffd_protect(fd, (uintptr_t)memory + HUGE_BYTES, 4 * PAGE, true), 0);
	ck_assert_uint_eq(mapped_huge(), 0);
	ck_assert_int_eq(uffd_protect(fd, (uintptr_t)memory + HUGE_BYTES, 4 * PAGE, false), 0);
	check_content(1);
	close(fd);
}
END_TEST

/* A hole that somebody waits for by userfaultfd is not filled behind its back. */
START_TEST(holes_stay)
{
	static uint8_t data[HUGE_BYTES];
	int fd = watch();

	ck_assert_int_eq(arena_write(&arena, data, HUGE_BYTES, 0), 0);
	punch(7 * PAGE, PAGE);
	ck_assert_int_ne(madvise(memory, HUGE_BYTES, MADV_COLLAPSE), 0);
	ck_assert_uint_eq(large(0, UNIT_PAGES), 0);
	ck_assert(!present(7 * PAGE));
	close(fd);
}
END_TEST

/* --- punching ------------------------------------------------------------------------------------------------- */

START_TEST(punch_of_all)
{
	int ring;

	make_huge(1);
	make_huge(2);
	ring = pin(2 * UNIT_PAGES + 9);
	punch(HUGE_BYTES, 2 * HUGE_BYTES);
	ck_assert_int_eq(lseek(arena.fd, 0, SEEK_DATA), -1);
	unpin(ring, 2 * UNIT_PAGES + 9);
}
END_TEST

START_TEST(punch_of_a_part)
{
	make_huge(1);
	punch(HUGE_BYTES + 16 * PAGE, 4 * PAGE);
	for (uint64_t page = 0; page < UNIT_PAGES; page++)
		ck_assert_int_eq(present(HUGE_BYTES + page * PAGE), page < 16 || page >= 20);
}
END_TEST

/* The trap: what is held somewhere else in the huge page keeps the punched part present, as zeros. */
START_TEST(punch_of_a_part_while_held)
{
	int ring;

	make_huge(1);
	ring = pin(UNIT_PAGES + 400);
	punch(HUGE_BYTES + 16 * PAGE, 4 * PAGE);
	for (uint64_t page = 0; page < UNIT_PAGES; page++) {
		ck_assert(present(HUGE_BYTES + page * PAGE));
		ck_assert_uint_eq(memory[HUGE_BYTES + page * PAGE], page >= 16 && page < 20 ? 0 : (uint8_t)(page + 1));
	}
	unpin(ring, UNIT_PAGES + 400);
}
END_TEST

/* --- splitting ------------------------------------------------------------------------------------------------ */

START_TEST(split_unmapped)
{
	make_huge(1);
	drop_entries();
	ck_assert_int_eq(huge_split(&arena, HUGE_BYTES + 64 * PAGE, 4 * PAGE), 0);
	ck_assert_uint_eq(large(0, 4 * UNIT_PAGES), 0);
	check_content(1);
	punch(HUGE_BYTES + 16 * PAGE, 4 * PAGE);
	ck_assert(!present(HUGE_BYTES + 16 * PAGE));
}
END_TEST

/* Where pages are absent it makes none; what is left of a huge page in smaller folios is split as well. */
START_TEST(split_with_holes)
{
	make_huge(1);
	drop_entries();
	punch(HUGE_BYTES + 16 * PAGE, 4 * PAGE);
	ck_assert_int_eq(huge_split(&arena, HUGE_BYTES, HUGE_BYTES), 0);
	ck_assert_uint_eq(large(0, 4 * UNIT_PAGES), 0);
	for (uint64_t page = 0; page < UNIT_PAGES; page++)
		ck_assert_int_eq(present(HUGE_BYTES + page * PAGE), page < 16 || page >= 20);
}
END_TEST

START_TEST(no_split_while_held)
{
	int ring;

	make_huge(1);
	ring = pin(UNIT_PAGES + 400);
	drop_entries();
	ck_assert_int_eq(huge_split(&arena, HUGE_BYTES, HUGE_BYTES), 0);
	ck_assert_uint_eq(large(UNIT_PAGES, UNIT_PAGES), UNIT_PAGES);
	unpin(ring, UNIT_PAGES + 400);
	ck_assert_int_eq(huge_split(&arena, HUGE_BYTES, HUGE_BYTES), 0);
	ck_assert_uint_eq(large(0, 4 * UNIT_PAGES), 0);
	check_content(1);
}
END_TEST

/* A process of its own that maps the unit and writes to it all the time. */
static pid_t start_writer(void)
{
	int tube[2];
	pid_t pid;

	ck_assert_int_eq(pipe(tube), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		volatile uint8_t *at = memory + HUGE_BYTES; /* inherited, at the same address */

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		at[1] = 0;
		if (write(tube[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			at[1]++;
	}
	ck_assert_int_eq(read(tube[0], &(char){ 0 }, 1), 1);
	close(tube[0]);
	close(tube[1]);
	return pid;
}

static void stop_writer(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* In the process that maps it, while it uses it: advice by another process. */
START_TEST(split_in_its_process)
{
	struct iovec part = { .iov_base = memory + HUGE_BYTES, .iov_len = HUGE_BYTES - PAGE };
	int pidfd;
	pid_t pid;

	make_huge(1);
	drop_entries();
	pid = start_writer();
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	ck_assert_int_ge(pidfd, 0);
	/* Somebody may look at the page just then; whoever wants it split tries again. */
	for (int attempt = 0; attempt < 100 && large(0, 4 * UNIT_PAGES); attempt++) {
		ck_assert_int_ge(syscall(SYS_process_madvise, pidfd, &part, 1, MADV_COLD, 0), 0);
		usleep(10000);
	}
	ck_assert_uint_eq(large(0, 4 * UNIT_PAGES), 0);
	stop_writer(pid);
	check_content(1);
	close(pidfd);
}
END_TEST

/* What another process maps is left alone. */
START_TEST(no_split_for_others)
{
	pid_t pid;

	make_huge(1);
	drop_entries();
	pid = start_writer();
	ck_assert_int_eq(huge_split(&arena, HUGE_BYTES, 16 * PAGE), 0);
	ck_assert_uint_eq(large(UNIT_PAGES, UNIT_PAGES), UNIT_PAGES);
	stop_writer(pid);
	ck_assert_int_eq(huge_split(&arena, HUGE_BYTES, 16 * PAGE), 0);
	ck_assert_uint_eq(large(UNIT_PAGES, UNIT_PAGES), 0);
	check_content(1);
}
END_TEST

/* A file that ends in the middle of a unit, or was cut while somebody works on it: no signal. */
START_TEST(split_beyond_the_end)
{
	make_huge(1);
	drop_entries();
	ck_assert_int_eq(arena_resize(&arena, HUGE_BYTES + 8 * PAGE), 0);
	ck_assert_int_eq(huge_split(&arena, HUGE_BYTES, HUGE_BYTES), 0);
	ck_assert_uint_eq(large(UNIT_PAGES, 8), 0);
	ck_assert_int_eq(arena_resize(&arena, 0), 0);
	ck_assert_int_eq(huge_split(&arena, HUGE_BYTES, HUGE_BYTES), 0);
}
END_TEST

/* -------------------------------------------------------------------------------------------------------------- */

static const char *why_not(void)
{
	const char *reason, *what = NULL;
	char text[128] = "";
	FILE *file;
	int fd;

	if (geteuid() != 0)
		return "needs root";
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
	return "one thread asks the kernel, slowly with a sanitizer";
#endif
	if (holds_prog_load(HOLDS_PINNED, &fd, &reason))
		return reason;
	close(fd);
	file = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re");
	if (!file || !fgets(text, sizeof(text), file))
		what = "this kernel has no huge pages";
	else if (strstr(text, "[deny]") || strstr(text, "[force]"))
		what = "shmem_enabled overrides the mount's option";
	if (file)
		fclose(file);
	return what;
}

int main(void)
{
	Suite *suite = suite_create("kernel huge pages");
	TCase *tcase = tcase_create("huge");
	const char *reason = why_not();

	suite_add_tcase(suite, tcase);
	if (reason) {
		printf("skipped: %s\n", reason);
		return check_skip(suite);
	}
	tcase_set_timeout(tcase, 30);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, never_by_itself);
	tcase_add_test(tcase, one_entry);
	tcase_add_test(tcase, one_entry_under_userfaultfd);
	tcase_add_test(tcase, holes_stay);
	tcase_add_test(tcase, punch_of_all);
	tcase_add_test(tcase, punch_of_a_part);
	tcase_add_test(tcase, punch_of_a_part_while_held);
	tcase_add_test(tcase, split_unmapped);
	tcase_add_test(tcase, split_with_holes);
	tcase_add_test(tcase, no_split_while_held);
	tcase_add_test(tcase, split_in_its_process);
	tcase_add_test(tcase, no_split_for_others);
	tcase_add_test(tcase, split_beyond_the_end);
	return check_run(suite);
}
