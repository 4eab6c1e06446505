/* prog_plain - a program that maps a file and knows nothing of tierfs. Does what its arguments say, in order:
 *
 *	prog_plain [--direct] FILE STEP...
 *
 *	dirty LENGTH       writes a word to each page, from the start on
 *	check LENGTH       they hold what dirty wrote
 *	huge               madvise(MADV_HUGEPAGE)
 *	touch OFFSET       reads a byte
 *	reopen             opens the file once more, for reading and for writing, stats it and closes
 *	child              a child that inherited the mapping comes and goes
 *	cached             prints what the kernel caches of the file, and what of that is dirty, in bytes (cachestat)
 *	punch COUNT        punches that many single pages, every other one; prints the milliseconds of all, of the first
 *	hold               prints "holding" and waits for a line, or the end of the input
 *
 * --direct: the file is opened with O_DIRECT. Exit 1: it cannot be mapped, the errno is printed. 2: a step failed.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "prog.h"

#define PAGE 4096UL
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

static const char *path;
static int fd;
static uint64_t size_bytes;
static volatile uint8_t *memory;

static uint64_t pattern(uint64_t offset)
{
	return offset * 0x9e3779b97f4a7c15UL + 1;
}

static void dirty(uint64_t length)
{
	for (uint64_t offset = 0; offset < length; offset += PAGE)
		*(volatile uint64_t *)(memory + offset) = pattern(offset);
}

static void check(uint64_t length)
{
	for (uint64_t offset = 0; offset < length; offset += PAGE)
		if (*(volatile uint64_t *)(memory + offset) != pattern(offset))
			prog_die("wrong word at %lu", offset);
}

static void reopen(void)
{
	static const int access[] = { O_RDONLY, O_RDWR };
	struct stat attr;

	for (int i = 0; i < 2; i++) {
		int again = open(path, access[i] | O_CLOEXEC);

		if (again < 0 || fstat(again, &attr) < 0 || stat(path, &attr) < 0 || close(again) < 0)
			prog_die("%s: cannot be opened again: %s", path, strerror(errno));
	}
}

static void child(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	if (pid < 0 || waitpid(pid, NULL, 0) < 0)
		prog_die("fork: %s", strerror(errno));
}

static void cached(void)
{
	struct {
		uint64_t offset, length;
	} range = { 0, size_bytes };
	struct {
		uint64_t cached, dirty, writeback, evicted, recently_evicted;
	} pages;

	if (syscall(SYS_cachestat, fd, &range, &pages, 0) < 0)
		prog_die("cachestat: %s", strerror(errno));
	printf("%lu %lu\n", pages.cached * PAGE, (pages.dirty + pages.writeback) * PAGE);
}

static void punch(uint64_t count)
{
	uint64_t started_ns = prog_now_ns(), first_ns = 0;

	for (uint64_t i = 0; i < count; i++) {
		if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(2 * i * PAGE), PAGE) < 0)
			prog_die("punch: %s", strerror(errno));
		if (i == 0)
			first_ns = prog_now_ns() - started_ns;
	}
	printf("%lu %lu\n", (prog_now_ns() - started_ns) / 1000000, first_ns / 1000000);
	for (uint64_t i = 0; i < count; i++)
		if (memory[2 * i * PAGE] != 0)
			prog_die("a hole is not zero");
}

static void hold(void)
{
	puts("holding");
	fflush(stdout);
	getchar();
}

static char **step(char **arg)
{
	if (!strcmp(*arg, "dirty"))
		dirty(strtoull(*++arg, NULL, 10));
	else if (!strcmp(*arg, "check"))
		check(strtoull(*++arg, NULL, 10));
	else if (!strcmp(*arg, "huge"))
		madvise((void *)memory, size_bytes, MADV_HUGEPAGE);
	else if (!strcmp(*arg, "touch"))
		(void)memory[strtoull(*++arg, NULL, 10)];
	else if (!strcmp(*arg, "reopen"))
		reopen();
	else if (!strcmp(*arg, "child"))
		child();
	else if (!strcmp(*arg, "cached"))
		cached();
	else if (!strcmp(*arg, "punch"))
		punch(strtoull(*++arg, NULL, 10));
	else if (!strcmp(*arg, "hold"))
		hold();
	else
		prog_die("%s: no such step", *arg);
	return arg + 1;
}

int main(int argc, char **argv)
{
	bool direct = argc > 1 && !strcmp(argv[1], "--direct");
	struct stat attr;

	argv += direct ? 2 : 1;
	if (!*argv)
		prog_die("usage: prog_plain [--direct] FILE STEP...");
	path = *argv++;
	fd = open(path, O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0));
	if (fd < 0 || fstat(fd, &attr) < 0)
		prog_die("%s: %s", path, strerror(errno));
	size_bytes = (uint64_t)attr.st_size;
	memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED) {
		puts(strerrorname_np(errno));
		return 1;
	}
	while (*argv)
		argv = step(argv);
	return 0;
}
