/* base/cleanup.h - scope-bound release of memory and file descriptors. */
#pragma once

#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_freep(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_closep(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define CLEANUP_FREE __attribute__((cleanup(cleanup_freep)))
#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_closep)))

/* Takes the value out of a CLEANUP_* variable, so that it outlives the scope. */
#define STEAL_PTR(p) \
	({ \
		__typeof__(p) stolen_ = (p); \
		(p) = NULL; \
		stolen_; \
	})
#define STEAL_FD(fd) \
	({ \
		int stolen_ = (fd); \
		(fd) = -1; \
		stolen_; \
	})
