#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define OOM_SCORE "-900"
#define FILES_MAX 1048576

void process_tune(void)
{
	struct rlimit files = { .rlim_cur = FILES_MAX, .rlim_max = FILES_MAX };
	CLEANUP_CLOSE int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	/* Memory that the daemon needs to free memory may not wait for the daemon. Inherited by threads made later. */
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		log_info("cannot become an I/O flusher (%s); under memory pressure the host may stall",
			 strerror(errno));
	/* If the host runs out of memory, a VM is the better victim than what holds them all. */
	if (fd < 0 || write(fd, OOM_SCORE, strlen(OOM_SCORE)) < 0)
		log_info("cannot set oom_score_adj: %s", strerror(errno));
	if (setrlimit(RLIMIT_NOFILE, &files) < 0 && getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	umask(0);
}

int process_daemonize(int *ret_fd)
{
	int pipe_fd[2];
	pid_t child;
	char byte;

	if (pipe2(pipe_fd, O_CLOEXEC) < 0)
		return -errno;
	fflush(NULL);
	child = fork();
	if (child < 0)
		return -errno;
	if (child > 0) {
		ssize_t got;

		close(pipe_fd[1]);
		do
			got = read(pipe_fd[0], &byte, 1);
		while (got < 0 && errno == EINTR);
		_exit(got == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
	}
	close(pipe_fd[0]);
	setsid();
	*ret_fd = pipe_fd[1];
	return 0;
}

void process_release(int fd)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		close(null);
	}
	log_init(LOG_TARGET_SYSLOG, LOG_LEVEL_INFO);
	if (write(fd, "", 1) < 0)
		log_debug("whoever started the daemon is gone");
	close(fd);
}
