/* cold/buffers.h - aligned buffers of one size for direct I/O, a few of them kept for the next user.
 *
 * Thread-safety: all functions. Nobody waits: beyond the kept ones, buffers are allocated and freed.
 */
#pragma once

#include <stddef.h>

#include "base/lock.h"

#define BUFFERS_KEPT_MAX 8U

struct buffers {
	struct lock lock;
	size_t size_bytes; /* immutable, and so is the next */
	unsigned int keep;
	void *kept[BUFFERS_KEPT_MAX]; /* under the lock, and so is the next */
	unsigned int count;
};

void buffers_init(struct buffers *buffers, size_t size_bytes, unsigned int keep);
void buffers_fini(struct buffers *buffers);
void *buffers_get(struct buffers *buffers); /* NULL: no memory */
void buffers_put(struct buffers *buffers, void *buffer);
