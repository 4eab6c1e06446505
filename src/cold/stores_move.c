/* cold/stores_move.c - files move from one device to another: the steps of stores.h, and the thread that makes them.
 *
 * One thread for all files, one window of each by turns. A step that fails leaves the file where it was, and is tried
 * again later; a window takes so little that who writes to it waits for a few milliseconds and one sync.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "cold/stores_copy.h"
#include "cold/stores_state.h"

#define DRAIN_NS NS_PER_S
#define RETRY_NS (2 * NS_PER_S)
/* What the owner's limits grant meanwhile is not lost (engine/rate.h), so they are not asked for each value alone. */
#define PACE_NS (20 * NS_PER_MS)
#define NICE 10

/* Where a file is going. Under lock. */
static unsigned int goal(const struct home *home)
{
	const struct layout *layout = &home->layout;

	if (layout->low == layout->high || home->want == layout->low || home->want == layout->high)
		return home->want;
	return layout->up ? layout->low : layout->high;
}

/* Under lock, by the mover: how a step of the file ended. The log is told of each device once, however many files want
 * to go. */
static void set_error(struct stores *stores, struct home *home, int err)
{
	struct device *device = &stores->device[goal(home)];

	home->error = err;
	if (!err)
		return;
	if (err == -ENOSPC)
		device->retry_ns = clock_ns() + RETRY_NS;
	if (err != device->move_error && err != -ENODEV) /* that one is not here was said */
		log_warn("store %s: files cannot be moved there now (file %llu: %s); it is tried again", device->name,
			 (unsigned long long)home->ino, strerror(-err));
	device->move_error = err;
}

/* ---- the steps ---- */

/* The file may still be moved that way. Under lock. */
static bool still_wanted(const struct window *window)
{
	const struct home *home = window->home;
	uint8_t other = window->up ? home->layout.high : home->layout.low;

	return !home->holds && !home->gone && home->want != other;
}

/* Who holds the file is waited for before anybody else has to wait. Under lock. */
static bool drain_claimed(struct shard *shard, struct home *home)
{
	uint64_t until_ns = clock_ns() + DRAIN_NS;
	bool alone;

	home->asked = true;
	alone = home_drain(shard, &home->calls.holders, until_ns);
	home->asked = false;
	return alone && home_drain(shard, &home->calls.writers, until_ns);
}

/* Up to here nothing has changed. -EAGAIN: somebody does not end. -ECANCELED: it is wanted elsewhere now. */
static int claim(const struct window *window)
{
	struct home *home = window->home;
	struct shard *shard = home_shard(window->stores, home->ino);

	LOCK_SCOPE(&shard->lock);
	/* Who reads by an older layout may be reading what is about to be cleared. */
	if (home->lingers && !home_drain(shard, &home->calls.readers, clock_ns() + DRAIN_NS))
		return -EAGAIN;
	home->lingers = false;
	if (!still_wanted(window))
		return -ECANCELED;
	home->claimed = true;
	home->claim_first = window->first;
	home->claim_last = window->last;
	if (drain_claimed(shard, home))
		return 0;
	home->claimed = false;
	pthread_cond_broadcast(&shard->changed);
	return -EAGAIN;
}

static void release(struct shard *shard, struct home *home)
{
	home->claimed = home->doubt = false;
	pthread_cond_broadcast(&shard->changed);
}

/* A record could not be written, and may be there or not: the one before it, until that one is there for certain. */
static int settle_record(struct stores *stores, struct home *home)
{
	int err = stores_record_put(stores, home->ino, &home->layout, true);
	struct shard *shard = home_shard(stores, home->ino);

	LOCK_SCOPE(&shard->lock);
	home->doubt = err < 0;
	if (!err)
		release(shard, home);
	pthread_cond_broadcast(&shard->changed);
	return err;
}

/* Everything of the window is durable at its new place. */
static int pass(const struct window *window)
{
	struct stores *stores = window->stores;
	struct home *home = window->home;
	struct shard *shard = home_shard(stores, home->ino);
	struct layout layout = home->layout;
	uint64_t count = stores_span(window->first, window->last);
	bool alone;
	int err;

	layout.mark = window->mark;
	layout.up = window->up;
	err = stores_record_put(stores, home->ino, &layout, true);
	if (err) {
		settle_record(stores, home);
		return err;
	}
	if (window->values)
		stores->device[window->up ? layout.low : layout.high].move_error = 0;
	lock_get(&shard->lock);
	home->layout = layout;
	release(shard, home);
	alone = home_drain(shard, &home->calls.readers, clock_ns() + DRAIN_NS);
	home->lingers |= !alone;
	lock_put(&shard->lock);
	/* What stays is garbage, which the last step removes. */
	if (alone)
		window->from->ops->remove(window->from, home->ino, window->first, count);
	return 0;
}

static uint64_t without(uint64_t amount, uint64_t gone)
{
	return amount > gone ? amount - gone : 0;
}

/* The owner's limits grant it value by value, so that nothing else of the owner has to wait for a whole window. 0: all
 * of it is granted; else how long to wait, in ns. */
static uint64_t pay(const struct stores *stores, struct home *home, const struct window *window)
{
	while (stores->pace && (home->paid_values < window->values || home->paid_bytes < window->bytes)) {
		uint64_t values = home->paid_values < window->values ? 1 : 0;
		uint64_t left = without(window->bytes, home->paid_bytes);
		uint64_t bytes = (window->bytes + window->values - 1) / window->values, wait_ns;

		bytes = bytes < left ? bytes : left;
		wait_ns = stores->pace(stores->pace_arg, home->ino, values, bytes);
		if (wait_ns)
			return wait_ns > PACE_NS ? wait_ns : PACE_NS;
		home->paid_values += values;
		home->paid_bytes += bytes;
	}
	return 0;
}

/* What is at its new place, or could not be put there, was read and written. */
static void spend(struct home *home, const struct window *window)
{
	home->paid_values = without(home->paid_values, window->values);
	home->paid_bytes = without(home->paid_bytes, window->bytes);
}

static int move_claimed(const struct window *window)
{
	struct stores *stores = window->stores;
	struct home *home = window->home;
	struct shard *shard = home_shard(stores, home->ino);
	int err = copy_window(window);

	spend(home, window);
	if (!err)
		return pass(window);
	window->to->ops->remove(window->to, home->ino, window->first, stores_span(window->first, window->last));
	lock_get(&shard->lock);
	release(shard, home);
	lock_put(&shard->lock);
	return err;
}

static int move_window(struct stores *stores, struct home *home, uint64_t *ret_wait_ns)
{
	struct shard *shard = home_shard(stores, home->ino);
	struct layout layout = home->layout; /* the mover's own */
	struct window window = { .stores = stores, .home = home };
	int err;

	lock_get(&shard->lock);
	window.up = home->want == layout.low ? true : home->want == layout.high ? false : layout.up;
	lock_put(&shard->lock);
	window.from = device_here(stores, window.up ? layout.high : layout.low);
	window.to = device_here(stores, window.up ? layout.low : layout.high);
	window.below = stores->device[window.up ? layout.low : layout.high].below;
	if (!window.from || !window.to)
		return -ENODEV;
	err = copy_choose(&window, &layout);
	if (err)
		return err;
	*ret_wait_ns = pay(stores, home, &window);
	if (*ret_wait_ns)
		return 0;
	err = claim(&window);
	if (err)
		return err == -ECANCELED ? 0 : err;
	return move_claimed(&window);
}

/* The file leaves a device where it was at rest. Calls that saw it without a home end first. */
static int begin(struct stores *stores, struct home *home)
{
	struct shard *shard = home_shard(stores, home->ino);
	uint64_t until_ns = clock_ns() + DRAIN_NS;
	struct layout layout = { .high = home->layout.low, .up = true };
	struct store *to;
	bool ended, kept;
	int err;

	lock_get(&shard->lock);
	layout.low = home->want;
	kept = home->kept || stores->forgetful;
	lock_put(&shard->lock);
	if (layout.low == layout.high) /* it has changed its mind */
		return 0;
	to = device_here(stores, layout.low);
	if (!to || !device_here(stores, layout.high))
		return -ENODEV;
	lock_get(&shard->lock);
	ended = home_drain(shard, &shard->calls.holders, until_ns) &&
		home_drain(shard, &shard->calls.writers, until_ns) &&
		home_drain(shard, &shard->calls.readers, until_ns);
	lock_put(&shard->lock);
	if (!ended)
		return -EAGAIN;
	if (to->ops->keep && kept)
		to->ops->keep(to, home->ino, true);
	err = stores_record_put(stores, home->ino, &layout, true);
	if (err)
		return err;
	lock_get(&shard->lock);
	home->layout = layout;
	home->recorded = true;
	lock_put(&shard->lock);
	return 0;
}

/* All of it is on one device. */
static int finish(struct stores *stores, struct home *home)
{
	struct shard *shard = home_shard(stores, home->ino);
	uint64_t until_ns = clock_ns() + DRAIN_NS;
	bool up = home->layout.mark == STORES_END;
	struct layout layout = { .up = true };
	struct store *from = device_here(stores, up ? home->layout.high : home->layout.low);
	bool alone;
	int err;

	layout.low = layout.high = up ? home->layout.low : home->layout.high;
	lock_get(&shard->lock);
	alone = home_drain(shard, &home->calls.readers, until_ns) && home_drain(shard, &home->calls.writers, until_ns);
	lock_put(&shard->lock);
	if (!alone)
		return -EAGAIN;
	err = from ? from->ops->remove(from, home->ino, 0, UINT64_MAX) : -ENODEV;
	if (!err)
		err = from->ops->sync(from);
	if (!err)
		err = stores_record_put(stores, home->ino, &layout, true);
	if (err)
		return err;
	lock_get(&shard->lock);
	home->layout = layout;
	home->recorded = layout.low != 0;
	home->error = 0;
	lock_put(&shard->lock);
	return 0;
}

/* One device of a file that is gone. Once more: garbage of a move lies where it does not count. */
static int forget_there(struct stores *stores, uint64_t ino, unsigned int index)
{
	struct store *store = device_here(stores, index);
	int err = store ? store->ops->remove(store, ino, 0, UINT64_MAX) : -ENODEV;

	return err || !index ? err : store->ops->sync(store);
}

/* Its values have been removed by whoever removed the file; the record goes when that is durable. */
static int forget(struct stores *stores, struct home *home)
{
	static const struct layout nowhere = { .low = 0 };
	int err;

	if (!home->recorded)
		return 0;
	err = forget_there(stores, home->ino, home->layout.low);
	if (!err && home->layout.high != home->layout.low)
		err = forget_there(stores, home->ino, home->layout.high);
	return err ? err : stores_record_put(stores, home->ino, &nowhere, false);
}

/* ---- by turns ---- */

static bool no_users(const struct users *users)
{
	return !users->count[0] && !users->count[1];
}

static bool unused(const struct home *home)
{
	return !home->holds && no_users(&home->calls.readers) && no_users(&home->calls.writers) &&
	       no_users(&home->calls.holders);
}

static bool at_rest(const struct home *home)
{
	return home->layout.low == home->layout.high;
}

/* Under lock. Who changes what this says pushes the file into the queue. */
static bool has_work(const struct home *home)
{
	return home->gone || home->doubt || (!home->holds && (!at_rest(home) || home->want != home->layout.low));
}

/* Under lock: when it can be moved at all. */
static uint64_t due_of(const struct stores *stores, const struct home *home)
{
	if (home->gone) /* who still uses it does not tell when that ends */
		return unused(home) ? 0 : clock_ns() + RETRY_NS;
	return home->doubt ? 0 : stores->device[goal(home)].retry_ns;
}

static struct home *pick(struct stores *stores)
{
	struct home *home;

	while ((home = queue_pop(&stores->queue))) {
		struct shard *shard = home_shard(stores, home->ino);
		uint64_t due_ns;

		LOCK_SCOPE(&shard->lock);
		if (!has_work(home))
			continue;
		due_ns = due_of(stores, home);
		if (due_ns > clock_ns()) {
			queue_push(&stores->queue, home, due_ns);
			continue;
		}
		home->busy = true;
		return home;
	}
	return NULL;
}

/* All of it is where it is to be, but for garbage. */
static bool is_through(const struct home *home)
{
	if (home->want == home->layout.low || (home->want != home->layout.high && home->layout.up))
		return home->layout.mark == STORES_END;
	return home->layout.mark == 0;
}

static int step(struct stores *stores, struct home *home, uint64_t *ret_wait_ns)
{
	struct shard *shard = home_shard(stores, home->ino);
	bool through, rest, doubt;

	lock_get(&shard->lock);
	through = is_through(home);
	rest = at_rest(home);
	doubt = home->doubt;
	lock_put(&shard->lock);
	if (doubt)
		return settle_record(stores, home);
	if (rest)
		return begin(stores, home);
	return through ? finish(stores, home) : move_window(stores, home, ret_wait_ns);
}

/* Under lock. was_gone: the step was about that. */
static void after_step(struct stores *stores, struct home *home, bool was_gone, int err, uint64_t wait_ns)
{
	home->busy = false;
	if (was_gone && !err && unused(home)) {
		home_free(stores, home);
		return;
	}
	if (!wait_ns && !was_gone)
		set_error(stores, home, err == -EAGAIN ? home->error : err);
	queue_push(&stores->queue, home, clock_ns() + (err ? RETRY_NS : wait_ns));
}

static bool one_step(struct stores *stores)
{
	struct home *home = pick(stores);
	struct shard *shard;
	uint64_t wait_ns = 0;
	bool gone;
	int err;

	if (!home)
		return false;
	shard = home_shard(stores, home->ino);
	lock_get(&shard->lock);
	gone = home->gone;
	lock_put(&shard->lock);
	err = gone ? forget(stores, home) : step(stores, home, &wait_ns);
	LOCK_SCOPE(&shard->lock);
	after_step(stores, home, gone, err, wait_ns);
	pthread_cond_broadcast(&shard->changed);
	return true;
}

static void *run(void *arg)
{
	struct stores *stores = arg;

	pthread_setname_np(pthread_self(), "tierfs-stores");
	thread_set_slice(THREAD_SLICE_LONG_NS);
	if (setpriority(PRIO_PROCESS, (id_t)gettid(), NICE) < 0)
		log_debug("the thread that moves files has no priority of its own");
	while (queue_wait(&stores->queue))
		one_step(stores);
	return NULL;
}

int stores_start(struct store *store, stores_pace_fn *pace, void *arg)
{
	struct stores *stores = stores_of(store);
	int err;

	if (!stores)
		return 0;
	queue_stop(&stores->queue, false);
	stores->pace = pace;
	stores->pace_arg = arg;
	err = -pthread_create(&stores->mover, NULL, run, stores);
	stores->mover_runs = !err;
	return err;
}

void stores_stop(struct store *store)
{
	struct stores *stores = store ? stores_of(store) : NULL;

	if (!stores || !stores->mover_runs)
		return;
	queue_stop(&stores->queue, true);
	pthread_join(stores->mover, NULL);
	stores->mover_runs = false;
}

bool stores_step(struct store *store)
{
	return one_step(stores_of(store));
}
