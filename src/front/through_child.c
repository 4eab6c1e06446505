/* front/through_child.c - see through_child.h. One process opens, and another one begins it anew if it is killed. Both
 * end with the connection: an open that waits for a daemon which is gone ends when the next one answers it. */
#include "front/through_child.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "wire/wire.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define PAUSE_US 100000 /* between one that was killed and the next */

static void answer(int to, const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
	int err = fd < 0 ? -errno : 0;

	wire_send_bytes(to, &err, sizeof(err), &fd, fd >= 0, MSG_DONTWAIT);
	if (fd >= 0)
		close(fd);
}

/* Returns when the other end was closed. */
static void serve(int fd)
{
	static char path[THROUGH_PATH_MAX];
	int fds[WIRE_FDS_MAX], fd_count = 0, err;
	size_t length = 0;

	for (;;) {
		err = wire_recv_bytes(fd, path, sizeof(path), fds, &fd_count, 0, &length);
		if (err == -EINTR)
			continue;
		if (err)
			return;
		if (length && !path[length - 1] && fd_count == 1)
			answer(fds[0], path);
		for (int i = 0; i < fd_count; i++)
			close(fds[i]);
	}
}

/* A process of its own: no descriptor but this one, of which the new number is returned. The daemon's signals stay
 * blocked. */
static int become(int keep_fd)
{
	int fd = fcntl(keep_fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	prctl(PR_SET_NAME, "tierfs-door");
	prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0); /* that is the daemon's */
	setsid();
	if (fd < 0 || null < 0 || chdir("/") < 0)
		_exit(EXIT_FAILURE);
	for (int std = 0; std <= STDERR_FILENO; std++)
		dup2(null, std);
	if (fd > STDERR_FILENO + 1)
		close_range(STDERR_FILENO + 1, (unsigned int)fd - 1, 0);
	close_range((unsigned int)fd + 1, ~0U, 0);
	return fd;
}

_Noreturn void through_child(int fd)
{
	int status = 0;
	pid_t pid;

	fd = become(fd);
	for (;;) {
		pid = fork();
		if (pid == 0) {
			serve(fd);
			_exit(EXIT_SUCCESS);
		}
		while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		if (pid > 0 && WIFEXITED(status))
			_exit(EXIT_SUCCESS);
		usleep(PAUSE_US);
	}
}
