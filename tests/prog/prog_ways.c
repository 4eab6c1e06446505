/* prog_ways - maps a file in one of the ways that there are, and says what became of it.
 *
 *	prog_ways FILE O_RDONLY|O_RDWR shared|private read|write [hold]
 *		One line: "attached", "plain" or "private", each after the memory was read and, with write, written; or
 *		SIGBUS, or the name of the error of mmap(2). With hold it then waits for a line, touches all of it once
 *		more, says "stays" or "SIGBUS", and waits for the end of the input.
 *	prog_ways FILE remap ROUNDS
 *		Maps FILE shared and writes to all of it, again and again, while a thread of it maps it private, reads a
 *		page and unmaps it, ROUNDS times.
 *	prog_ways FILE send FROM
 *		Copies it by sendfile(2) to nowhere, from that offset on and from the start, until it is killed.
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prog.h"

static const char *path;
static size_t size_bytes;

static __thread sigjmp_buf on_bus;

static void bus(int number)
{
	(void)number;
	siglongjmp(on_bus, 1);
}

/* False: a page cannot be had. */
static bool touch(volatile uint8_t *memory, size_t length, bool write)
{
	if (sigsetjmp(on_bus, 1))
		return false;
	for (size_t i = 0; i < length; i += PROG_PAGE) {
		uint8_t value = memory[i];

		if (write)
			memory[i] = (uint8_t)(value + 1);
	}
	return true;
}

/* --- one mapping ------------------------------------------------------------------------------------------------ */

/* Whether what is mapped there is the file itself, or memory of the daemon's. */
static bool is_file(const void *memory)
{
	char line[4096], *name;
	FILE *maps = fopen("/proc/self/maps", "r");
	bool found = false;

	while (maps && !found && fgets(line, sizeof(line), maps)) {
		name = strchr(line, '/');
		found = strtoul(line, NULL, 16) == (uintptr_t)memory && name && strncmp(name, path, strlen(path)) == 0;
	}
	if (maps)
		fclose(maps);
	return found;
}

static int try_way(char **arg)
{
	int access = strcmp(arg[0], "O_RDWR") == 0 ? O_RDWR : O_RDONLY;
	bool private = strcmp(arg[1], "private") == 0, write = strcmp(arg[2], "write") == 0;
	int fd = open(path, access | O_CLOEXEC);
	uint8_t *memory = MAP_FAILED;

	if (fd >= 0)
		memory = mmap(NULL, size_bytes, PROT_READ | (write ? PROT_WRITE : 0),
			      private ? MAP_PRIVATE : MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		puts(strerrorname_np(errno));
	else if (!touch(memory, size_bytes, write))
		puts("SIGBUS");
	else
		puts(private ? "private" : is_file(memory) ? "plain" : "attached");
	if (arg[3] && getchar() != EOF) {
		puts(memory != MAP_FAILED && touch(memory, size_bytes, false) ? "stays" : "SIGBUS");
		while (getchar() != EOF)
			;
	}
	return PROG_OK;
}

/* --- a mapping that comes and goes beside one that stays -------------------------------------------------------- */

static _Atomic bool remapped;

static void *remap(void *arg)
{
	unsigned long rounds = *(unsigned long *)arg;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	for (unsigned long i = 0; i < rounds; i++) {
		uint8_t *memory = mmap(NULL, size_bytes, PROT_READ, MAP_PRIVATE, fd, 0);

		if (memory == MAP_FAILED)
			prog_die("%s: mmap: %s", path, strerror(errno));
		touch(memory + i * PROG_PAGE % size_bytes, 1, false);
		munmap(memory, size_bytes);
	}
	close(fd);
	remapped = true;
	return NULL;
}

static int remap_beside(unsigned long rounds)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	pthread_t thread;

	if (memory == MAP_FAILED)
		prog_die("%s: mmap: %s", path, strerror(errno));
	for (size_t i = 0; i < size_bytes; i += PROG_PAGE)
		*(uint64_t *)(memory + i) = prog_mix(i);
	if (pthread_create(&thread, NULL, remap, &rounds) != 0)
		prog_die("no thread");
	while (!remapped)
		touch(memory, size_bytes, true);
	pthread_join(thread, NULL);
	return PROG_OK;
}

static _Noreturn void send_all(off_t from)
{
	int to = open("/dev/null", O_WRONLY | O_CLOEXEC);

	for (off_t at = from;; at = 0) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		while (fd >= 0 && at < (off_t)size_bytes && sendfile(to, fd, &at, 1 << 16) > 0)
			;
		close(fd);
	}
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = bus };
	struct stat attr;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 4)
		prog_die("usage: prog_ways FILE O_RDONLY|O_RDWR shared|private read|write [hold] | remap ROUNDS | send "
			 "FROM");
	path = argv[1];
	if (stat(path, &attr) < 0)
		prog_die("%s: %s", path, strerror(errno));
	size_bytes = (size_t)attr.st_size;
	sigaction(SIGBUS, &action, NULL);
	if (strcmp(argv[2], "remap") == 0)
		return remap_beside(strtoul(argv[3], NULL, 10));
	if (strcmp(argv[2], "send") == 0)
		send_all((off_t)strtoul(argv[3], NULL, 10));
	if (argc < 5)
		prog_die("which way?");
	return try_way(argv + 2);
}
