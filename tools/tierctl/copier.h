/* copier.h - copies a range of bytes between two descriptors, many requests of 1 MiB at a time (io_uring).
 *
 * Where the kernel lets nobody use io_uring, it works one request at a time. Holes of the source are skipped, or
 * punched into a destination that had content. Belongs to one thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "move/progress.h"

struct copier {
	int in_fd, out_fd;
	bool in_direct, out_direct; /* the descriptors are O_DIRECT: requests are whole pages */
	bool punch;                 /* the destination may have content where the source has holes */
	unsigned int depth;
	uint64_t size_bytes;       /* of the source */
	struct progress *progress; /* may be NULL */
	/* Results. */
	uint64_t data_bytes; /* read and written */
	uint64_t hole_bytes;
	bool out_failed; /* on an error: it was the destination */
};

/* 0 or -errno. */
int copier_run(struct copier *copier);
