/* cold/buffers.c - a stack of buffers: the one used last is the one whose memory is warm. */
#include "cold/buffers.h"

#include <stdlib.h>

#include "cold/segments.h"

void buffers_init(struct buffers *buffers, size_t size_bytes, unsigned int keep)
{
	lock_init(&buffers->lock, LOCK_RANK_STORE);
	buffers->size_bytes = size_bytes;
	buffers->keep = keep < BUFFERS_KEPT_MAX ? keep : BUFFERS_KEPT_MAX;
	buffers->count = 0;
}

void buffers_fini(struct buffers *buffers)
{
	for (unsigned int i = 0; i < buffers->count; i++)
		free(buffers->kept[i]);
	lock_fini(&buffers->lock);
}

void *buffers_get(struct buffers *buffers)
{
	void *buffer = NULL;

	lock_get(&buffers->lock);
	if (buffers->count)
		buffer = buffers->kept[--buffers->count];
	lock_put(&buffers->lock);
	if (!buffer && posix_memalign(&buffer, SEGMENT_ALIGN, buffers->size_bytes) != 0)
		return NULL;
	return buffer;
}

void buffers_put(struct buffers *buffers, void *buffer)
{
	if (!buffer)
		return;
	lock_get(&buffers->lock);
	if (buffers->count < buffers->keep) {
		buffers->kept[buffers->count++] = buffer;
		buffer = NULL;
	}
	lock_put(&buffers->lock);
	free(buffer);
}
