/* cold/headroom.c - the watermarks.
 *
 * What the database may write without being asked to: its logs (two families, each up to its memtables), the tables
 * that the memtables become, one compaction of everything, and its small files. New values need a segment more than
 * that, and as much again for the collector, which has to copy before it can remove. That is the collector's alone:
 * new values do not go to a segment that it made with less than they want (store_write.c).
 */
#include "cold/headroom.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/statvfs.h>

#define SMALL_FILES_BYTES (UINT64_C(1) << 20)
#define BUFFER_MIN (UINT64_C(256) << 10)
#define BUFFER_MAX (UINT64_C(16) << 20)
#define SEGMENT_MIN (UINT32_C(1) << 20)
#define SEGMENT_MAX (UINT32_C(64) << 20)

int headroom_scale(const char *dir, struct headroom_scale *ret)
{
	struct headroom_scale scale = { .buffer_bytes = BUFFER_MAX, .segment_bytes = SEGMENT_MAX };
	struct statvfs fs;
	uint64_t total;

	if (statvfs(dir, &fs) < 0)
		return -errno;
	total = (uint64_t)fs.f_blocks * fs.f_frsize;
	while (scale.buffer_bytes > BUFFER_MIN && scale.buffer_bytes > total / 256)
		scale.buffer_bytes /= 2;
	while (scale.segment_bytes > SEGMENT_MIN && scale.segment_bytes > total / 128)
		scale.segment_bytes /= 2;
	*ret = scale;
	return 0;
}

static uint64_t wanted(struct headroom *headroom, enum headroom_use use)
{
	uint64_t records = 4 * headroom->buffer_bytes + 2 * atomic_load(&headroom->index_bytes) + SMALL_FILES_BYTES;

	switch (use) {
	case HEADROOM_RECORDS:
		return records;
	case HEADROOM_MOVES:
		return records + headroom->segment_bytes;
	case HEADROOM_VALUES:
		return 2 * records + 2 * (uint64_t)headroom->segment_bytes;
	}
	return records;
}

static bool has(struct headroom *headroom, uint64_t bytes)
{
	struct statvfs fs;

	/* A filesystem that does not answer is no reason to stop: the write itself will tell. */
	return fstatvfs(headroom->dir_fd, &fs) < 0 || (uint64_t)fs.f_bavail * fs.f_frsize >= bytes;
}

int headroom_check(struct headroom *headroom, enum headroom_use use)
{
	return has(headroom, wanted(headroom, use)) ? 0 : -ENOSPC;
}

bool headroom_tight(struct headroom *headroom)
{
	return !has(headroom, 2 * wanted(headroom, HEADROOM_VALUES));
}
