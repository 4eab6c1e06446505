/* prog_cached - prints how many bytes of a file the kernel caches, as cachestat(2) counts them.
 *
 *	prog_cached FILE
 *
 * The file is opened with O_DIRECT, so that looking at it changes nothing. Exit 77: this kernel has no cachestat.
 */
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "prog.h"

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

int main(int argc, char **argv)
{
	struct {
		uint64_t offset, length;
	} all = { 0, 0 };
	struct {
		uint64_t cached, dirty, writeback, evicted, recently_evicted;
	} pages;
	int fd;

	if (argc != 2)
		prog_die("usage: prog_cached FILE");
	fd = open(argv[1], O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		prog_die("%s: %s", argv[1], strerror(errno));
	if (syscall(SYS_cachestat, fd, &all, &pages, 0) < 0) {
		if (errno == ENOSYS)
			return 77;
		prog_die("cachestat: %s", strerror(errno));
	}
	printf("%lu\n", pages.cached * PROG_PAGE);
	return PROG_OK;
}
