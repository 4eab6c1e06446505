/* Touches pages of a mapped file on request, and lives on if one is poison.
 *
 * usage: prog_poison FILE
 *
 * Each line on stdin is a page's number; the answer is its first byte, or "dies" if the touch raises SIGBUS.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE ((size_t)4096)

static sigjmp_buf after_fault;

static void on_fault(int signal)
{
	(void)signal;
	siglongjmp(after_fault, 1);
}

static void touch(const volatile uint8_t *memory, size_t page)
{
	if (sigsetjmp(after_fault, 1))
		puts("dies");
	else
		printf("%u\n", memory[page * PAGE]);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_fault };
	int fd = argc == 2 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
	struct stat st;
	size_t page;
	void *memory;

	if (fd < 0 || fstat(fd, &st) < 0)
		return 1;
	memory = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED || sigaction(SIGBUS, &action, NULL) < 0)
		return 1;
	puts("ready");
	fflush(stdout);
	while (scanf("%zu", &page) == 1)
		touch(memory, page);
	return 0;
}
