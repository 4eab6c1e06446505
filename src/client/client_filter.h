/* client/client_filter.h - the system-call filters (seccomp) that the program puts on itself.
 *
 * A filter kills a process for a call that is not on its list, so what libtierfs may do is found out before: the
 * preload library brings every filter here as it is installed, and it is tried on the calls that the library's threads
 * make. Those threads are started before the first filter, and a filter is of the thread that installs it: they are
 * free of it, unless it is installed for all threads (SECCOMP_FILTER_FLAG_TSYNC), or they are started anew in a child
 * of fork().
 *
 * No lock needed.
 */
#pragma once

#include <stdbool.h>

struct sock_fprog;

enum client_filter_need {
	CLIENT_FILTER_ATTACH = 1 << 0,  /* ask a file, make a userfaultfd, map */
	CLIENT_FILTER_PRIVATE = 1 << 1, /* a descriptor table of their own */
	CLIENT_FILTER_VECTOR = 1 << 2,  /* madvise of many ranges in one call */
	CLIENT_FILTER_COMPARE = 1 << 3, /* whether two descriptors are of one open file */
	CLIENT_FILTER_PEER = 1 << 4,    /* who is at the other end of a socket */
	CLIENT_FILTER_STAND = 1 << 5,   /* a working directory of their own */
	CLIENT_FILTER_LOCKED = 1 << 6,  /* whether memory is locked */
};

/* A filter is about to be installed, on the calling thread or on all. */
void client_filter_add(const struct sock_fprog *filter, bool all_threads);
/* A filter was seen: the program's own threads keep to what every filter allows. */
bool client_filter_any(void);
/* True if the library's threads may do it. */
bool client_filter_allows(enum client_filter_need need);
/* True if a thread of the program may do it, which may have any of the filters seen. */
bool client_filter_allows_all(enum client_filter_need need);
/* The library's threads are about to be started again, from a thread that may have any of the filters seen. */
void client_filter_inherit(void);
