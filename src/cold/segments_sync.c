/* cold/segments_sync.c - segments become durable, and those of which a sync failed are set apart. See segments.h. */
#include <errno.h>
#include <unistd.h>

#include "cold/segments.h"

/* (lock) One segment that has something to sync, referenced. */
static struct segment *take_dirty(struct segments *segments)
{
	LOCK_SCOPE(&segments->lock);

	for (struct segment *segment = segments->table; segment; segment = segment->hh.next) {
		if (!segment->dirty || segment->suspect || segment->life != SEGMENT_LIVE)
			continue;
		segment->dirty = false;
		segments_ref(segments, segment);
		return segment;
	}
	return NULL;
}

/* (lock) True: its end is to be cut off. */
static bool suspect(struct segments *segments, struct segment *segment)
{
	bool was_current = segments_seal(segments, segment);

	segment->suspect = true;
	segments_check_dead(segments, segment);
	return was_current;
}

static int sync_one(struct segments *segments, struct segment *segment)
{
	int fd = segments_descriptor(segments, segment);
	bool cut = false;
	int err = fd < 0 ? fd : 0;

	if (!err && fdatasync(fd) < 0)
		err = -errno;
	lock_get(&segments->lock);
	if (err < 0 && fd >= 0)
		cut = suspect(segments, segment);
	else if (err < 0)
		segment->dirty = true; /* the kernel was not asked, so it told nothing */
	lock_put(&segments->lock);
	if (cut)
		segments_trim(segments, segment);
	segments_unref(segments, segment);
	return err;
}

/* Those that were made since the names were last synced. */
static bool begin_names(struct segments *segments)
{
	LOCK_SCOPE(&segments->lock);
	bool dirty = segments->dir_dirty;

	segments->dir_dirty = false;
	for (struct segment *segment = segments->table; dirty && segment; segment = segment->hh.next)
		segment->naming = segment->fresh;
	return dirty;
}

static void end_names(struct segments *segments, bool synced)
{
	LOCK_SCOPE(&segments->lock);

	for (struct segment *segment = segments->table; segment; segment = segment->hh.next) {
		if (!segment->naming)
			continue;
		segment->naming = false;
		segment->fresh = false;
		/* The current one may keep its unused end: the collector empties it soon. */
		if (!synced && segment->life == SEGMENT_LIVE)
			suspect(segments, segment);
	}
	segments->dir_dirty |= !synced;
}

static int sync_dir(struct segments *segments)
{
	int err;

	if (!begin_names(segments))
		return 0;
	err = fsync(segments->dir_fd) < 0 ? -errno : 0;
	end_names(segments, !err);
	return err;
}

int segments_sync(struct segments *segments)
{
	struct segment *segment;
	int err = 0;

	while (!err && (segment = take_dirty(segments)))
		err = sync_one(segments, segment);
	return err < 0 ? err : sync_dir(segments);
}

struct segment *segments_suspect(struct segments *segments)
{
	for (struct segment *segment = segments->table; segment; segment = segment->hh.next) {
		if (segment->suspect && segment->life == SEGMENT_LIVE && segment->live_count)
			return segment;
	}
	return NULL;
}
