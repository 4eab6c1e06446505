/* base/process.h - the process of a daemon: what the kernel shall know of it, and how it leaves its caller.
 *
 * Call with one thread. 0 or -errno.
 */
#pragma once

/* Limits, the OOM killer, memory reclaim, umask. What is refused is logged, and does without. */
void process_tune(void);

/* Forks. Only the child returns, with a pipe: the caller of the program goes on when process_release() is called, and
 * if the child ends before, with a failure. */
int process_daemonize(int *ret_fd);
/* Lets go of the caller's terminal and output; the log goes to syslog. Closes fd. From any thread. */
void process_release(int fd);
