/* base/listener.h - a listening Unix socket, which may outlive the process that made it.
 *
 * Somebody beside the process keeps a descriptor of it. Whoever connects while nobody serves waits in its queue, and is
 * served by the next process, which goes on with the same socket. So its file stays the same, too.
 */
#pragma once

/* Called by listener_open(), on its thread. */
struct listener_keeper {
	/* The socket of that name that an earlier process left: the caller's. -1: none. It is not trusted. */
	int (*take)(void *arg, const char *name);
	/* This one listens now. The descriptor stays the caller's. */
	void (*keep)(void *arg, const char *name, int fd);
	void *arg;
};

/* Listens at dir/name (mode 0666), close-on-exec and without waiting: on the socket that was kept, if it is that, or on
 * a new one instead of what lies there. type: SOCK_STREAM or SOCK_SEQPACKET. keeper may be NULL. 0 or -errno. */
int listener_open(const char *dir, const char *name, int type, int backlog, const struct listener_keeper *keeper,
		  int *ret);
