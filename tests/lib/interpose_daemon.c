/* interpose_daemon.c - preloaded into a daemon: it dies at a point, and what it says to syslog can be read.
 *
 *   TIERFS_TEST_DIE=OPCODE   kill -9 of itself when the kernel's next request of that number (linux/fuse.h) has been
 *                            carried out successfully and is about to be answered
 *   TIERFS_TEST_SYSLOG=FILE  lines for syslog go there
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>

static __thread uint64_t unique; /* of the request that this thread has read, if it is a fatal one */

ssize_t read(int fd, void *buf, size_t len)
{
	const struct fuse_in_header *header = buf;
	ssize_t got = syscall(SYS_read, fd, buf, len);
	const char *fatal = getenv("TIERFS_TEST_DIE");

	if (fatal && len > 1 << 16 && got >= (ssize_t)sizeof(*header) && header->len == (size_t)got)
		unique = header->opcode == strtoul(fatal, NULL, 10) ? header->unique : 0;
	return got;
}

ssize_t writev(int fd, const struct iovec *iov, int count)
{
	const struct fuse_out_header *header = count > 0 ? iov[0].iov_base : NULL;

	if (unique && header && iov[0].iov_len == sizeof(*header) && header->unique == unique && header->error == 0)
		kill(getpid(), SIGKILL);
	return syscall(SYS_writev, fd, iov, count);
}

void syslog(int priority, const char *format, ...)
{
	const char *path = getenv("TIERFS_TEST_SYSLOG");
	char line[2048];
	va_list args;
	int fd, len;

	(void)priority;
	va_start(args, format);
	len = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
	if (fd < 0 || len < 0)
		return;
	len = len < (int)sizeof(line) - 1 ? len : (int)sizeof(line) - 2;
	line[len++] = '\n';
	if (write(fd, line, (size_t)len) < 0)
		abort();
	close(fd);
}
