/* cold/store_sync.c - what is stored becomes durable: values first, then the log of the records that name them.
 *
 * A sync that failed is not made good by the next one. A segment of which one failed is emptied before a sync succeeds
 * again (segments.h); after a failed sync of the log the database is reopened, which writes what the log says to new
 * files. Both are done by collect_sync(), before it comes here.
 */
#include "cold/store_sync.h"

#include <errno.h>

int store_sync_values(struct store_rocks *store)
{
	int err;

	pthread_mutex_lock(&store->sync);
	err = segments_sync(&store->segments);
	pthread_mutex_unlock(&store->sync);
	return err;
}

/* Values first: what a durable record names is durable. Then the log; what died before it was synced may go. */
int store_sync_all(struct store_rocks *store)
{
	struct segments *segments = &store->segments;
	int err;

	pthread_mutex_lock(&store->sync);
	err = store->log_failed ? -EIO : segments_sync(segments);
	lock_get(&segments->lock);
	if (!err && segments_suspect(segments))
		err = -EIO;
	if (!err)
		segments_cover(segments);
	lock_put(&segments->lock);
	if (!err) {
		err = rocks_sync(store->rocks);
		store->log_failed = err < 0;
	}
	lock_get(&segments->lock);
	segments_covered(segments, !err);
	lock_put(&segments->lock);
	pthread_mutex_unlock(&store->sync);
	segments_reap(segments);
	return err;
}

int store_sync_room(struct store_rocks *store, enum headroom_use use)
{
	int err = headroom_check(&store->headroom, use);
	bool dead;

	if (err != -ENOSPC)
		return err;
	lock_get(&store->segments.lock);
	dead = store->segments.dead;
	lock_put(&store->segments.lock);
	return dead && store_sync_all(store) == 0 ? headroom_check(&store->headroom, use) : err;
}
