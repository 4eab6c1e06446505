/* cold/collect.c - the collector: gives the space of replaced and removed values back.
 *
 * A segment in which nothing is live is dead, without the collector. It is needed where live and dead values lie
 * together: it copies what is live to the end of the current segment, as a put would, and then the old segment is dead.
 *
 * Which and when: the sealed segment with the least that is live, once the garbage of all is more than half of what is
 * live (then a block costs about half a copy more over its life), or as soon as the disk gets tight. A segment that is
 * nearly all live is not worth it.
 *
 * Dead segments go with the next sync, whoever asks for it. The collector does when they have waited for DEAD_NS, when
 * they are many, or when the disk is tight: so their space comes back, and no put or removal waits for the disk.
 *
 * One thread, woken by changes under the segments' lock, stopped by collect_stop(). It may block on I/O and on the
 * commit mutex.
 */
#include "cold/collect.h"

#include <errno.h>

#include "base/clock.h"
#include "base/thread.h"
#include "cold/empty.h"
#include "cold/garbage.h"
#include "cold/records.h"
#include "cold/store_sync.h"

/* Dead segments wait so long for somebody else's sync. */
#define DEAD_NS (5 * NS_PER_S)
/* After a failure. */
#define RETRY_NS NS_PER_S

/* --- syncing --- */

/* Changes go on meanwhile; what was stored before the call is what counts. */
int collect_sync(struct store_rocks *store)
{
	bool failed_before;
	int err = empty_suspects(store);

	pthread_mutex_lock(&store->commit);
	pthread_mutex_lock(&store->sync);
	failed_before = store->log_failed;
	pthread_mutex_unlock(&store->sync);
	if (failed_before && !store->doubtful)
		records_doubt(store, -EIO);
	if (!err)
		err = records_make_sure(store);
	pthread_mutex_unlock(&store->commit);
	return err < 0 ? err : store_sync_all(store);
}

/* --- when --- */

struct work {
	bool sync, collect, hurry;
};

/* (lock) */
static bool look_for_work(struct store_rocks *store, uint64_t now, struct work *ret)
{
	const struct segments *segments = &store->segments;
	bool waited = segments->dead_since_ns && now >= segments->dead_since_ns + DEAD_NS;

	*ret = (struct work){
		.sync = segments->dead && (waited || garbage_many_dead(store) || store->hurry),
		.collect = store->hurry || garbage_enough(store),
		.hurry = store->hurry,
	};
	if (!ret->sync && !ret->collect)
		return false;
	store->hurry = false;
	return true;
}

/* Waits for work; if the last one failed, or there was none to do, at least RETRY_NS. False: stop. */
static bool wait_for_work(struct store_rocks *store, bool rest, struct work *ret)
{
	LOCK_SCOPE(&store->segments.lock);
	struct lock *lock = &store->segments.lock;
	uint64_t now = clock_ns(), rest_until = rest ? now + RETRY_NS : 0;

	while (!store->stop && (now < rest_until || !look_for_work(store, now, ret))) {
		uint64_t dead_ns = store->segments.dead_since_ns, until = dead_ns ? dead_ns + DEAD_NS : 0;

		store->minds_dead = true;
		if (now < rest_until)
			until = rest_until;
		else
			store->minds_dead = until;
		if (until)
			lock_wait_until(lock, &store->work, until);
		else
			lock_wait(lock, &store->work);
		now = clock_ns();
	}
	store->minds_dead = true; /* it looks again before it waits */
	return !store->stop;
}

/* False: it failed, or there was nothing that it could do. */
static bool do_work(struct store_rocks *store, const struct work *work)
{
	bool tight = work->hurry || headroom_tight(&store->headroom);
	int err = work->sync ? collect_sync(store) : 0;

	if (!err && work->collect)
		err = empty_best(store, tight);
	if (!err && work->collect && tight)
		err = collect_sync(store);
	/* One segment may not have been enough for the put that was refused. */
	if (!err && work->hurry && headroom_check(&store->headroom, HEADROOM_VALUES) < 0) {
		lock_get(&store->segments.lock);
		store->hurry = true;
		lock_put(&store->segments.lock);
	}
	return !err;
}

static void *run(void *arg)
{
	struct store_rocks *store = arg;
	struct work work = { false };
	bool rest = false;

	pthread_setname_np(pthread_self(), "tierfs-collect");
	thread_set_slice(THREAD_SLICE_LONG_NS);
	while (wait_for_work(store, rest, &work))
		rest = !do_work(store, &work);
	return NULL;
}

int collect_start(struct store_rocks *store)
{
	int err;

	store->stop = false;
	err = pthread_create(&store->collector, NULL, run, store);
	store->collector_runs = !err;
	return -err;
}

void collect_stop(struct store_rocks *store)
{
	if (!store->collector_runs)
		return;
	lock_get(&store->segments.lock);
	store->stop = true;
	pthread_cond_signal(&store->work);
	lock_put(&store->segments.lock);
	pthread_join(store->collector, NULL);
	store->collector_runs = false;
}
