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
#define NICE 10

/* Where a file is going. Under lock. */
static unsigned int goal(const struct home *home)
{
	const struct layout *layout = &home->layout;

	if (layout->low == layout->high || home->want == layout->low || home->want == layout->high)
		return home->want;
	return layout->up ? layout->low : layout->high;
}

/* Under lock: how a step of the file ended. The log is told of each device once, however many files want to go. */
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

/* Up to here nothing has changed. -EAGAIN: a writer does not end. -ECANCELED: it is wanted elsewhere now. */
static int claim(const struct window *window)
{
	struct stores *stores = window->stores;
	struct home *home = window->home;
	bool claimed;

	LOCK_SCOPE(&stores->lock);
	if (!still_wanted(window))
		return -ECANCELED;
	home->claimed = true;
	home->claim_first = window->first;
	home->claim_last = window->last;
	claimed = home_drain(stores, &home->writers, clock_ns() + DRAIN_NS);
	if (!claimed)
		home->claimed = false;
	pthread_cond_broadcast(&stores->changed);
	return claimed ? 0 : -EAGAIN;
}

static void release(struct stores *stores, struct home *home)
{
	home->claimed = home->doubt = false;
	pthread_cond_broadcast(&stores->changed);
}

/* A record could not be written, and may be there or not: the one before it, until that one is there for certain. */
static int settle_record(struct stores *stores, struct home *home)
{
	int err = stores_record_put(stores, home->ino, &home->layout, true);

	LOCK_SCOPE(&stores->lock);
	home->doubt = err < 0;
	if (!err)
		release(stores, home);
	pthread_cond_broadcast(&stores->changed);
	return err;
}

/* Everything of the window is durable at its new place. */
static int pass(const struct window *window)
{
	struct stores *stores = window->stores;
	struct home *home = window->home;
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
	lock_get(&stores->lock);
	home->layout = layout;
	if (window->values)
		stores->device[window->up ? layout.low : layout.high].move_error = 0;
	release(stores, home);
	alone = home_drain(stores, &home->readers, clock_ns() + DRAIN_NS);
	lock_put(&stores->lock);
	/* What stays is garbage, which the last step removes. */
	if (alone)
		window->from->ops->remove(window->from, home->ino, window->first, count);
	return 0;
}

static int move_window(struct stores *stores, struct home *home, uint64_t *ret_wait_ns)
{
	struct layout layout = home->layout; /* the mover's own */
	struct window window = { .stores = stores, .home = home };
	int err;

	lock_get(&stores->lock);
	window.up = home->want == layout.low ? true : home->want == layout.high ? false : layout.up;
	lock_put(&stores->lock);
	window.from = device_here(stores, window.up ? layout.high : layout.low);
	window.to = device_here(stores, window.up ? layout.low : layout.high);
	window.below = stores->device[window.up ? layout.low : layout.high].below;
	if (!window.from || !window.to)
		return -ENODEV;
	err = copy_choose(&window, &layout);
	if (err)
		return err;
	*ret_wait_ns = window.values && stores->pace
			       ? stores->pace(stores->pace_arg, home->ino, window.values, window.bytes)
			       : 0;
	if (*ret_wait_ns)
		return 0;
	err = claim(&window);
	if (err)
		return err == -ECANCELED ? 0 : err;
	err = copy_window(&window);
	if (!err)
		return pass(&window);
	window.to->ops->remove(window.to, home->ino, window.first, stores_span(window.first, window.last));
	lock_get(&stores->lock);
	release(stores, home);
	lock_put(&stores->lock);
	return err;
}

/* The file leaves a device where it was at rest. Calls that saw it without a home end first. */
static int begin(struct stores *stores, struct home *home)
{
	struct layout layout = { .high = home->layout.low, .up = true };
	struct store *to;
	bool ended, kept;
	int err;

	lock_get(&stores->lock);
	layout.low = home->want;
	kept = home->kept || stores->forgetful;
	lock_put(&stores->lock);
	to = device_here(stores, layout.low);
	if (!to || !device_here(stores, layout.high))
		return -ENODEV;
	lock_get(&stores->lock);
	ended = home_drain(stores, &stores->writers, clock_ns() + DRAIN_NS) &&
		home_drain(stores, &stores->readers, clock_ns() + DRAIN_NS);
	lock_put(&stores->lock);
	if (!ended)
		return -EAGAIN;
	if (to->ops->keep && kept)
		to->ops->keep(to, home->ino, true);
	err = stores_record_put(stores, home->ino, &layout, true);
	if (err)
		return err;
	lock_get(&stores->lock);
	home->layout = layout;
	home->recorded = true;
	lock_put(&stores->lock);
	return 0;
}

/* All of it is on one device. */
static int finish(struct stores *stores, struct home *home)
{
	bool up = home->layout.mark == STORES_END;
	struct layout layout = { .up = true };
	struct store *from = device_here(stores, up ? home->layout.high : home->layout.low);
	bool alone;
	int err;

	layout.low = layout.high = up ? home->layout.low : home->layout.high;
	lock_get(&stores->lock);
	alone = home_drain(stores, &home->readers, clock_ns() + DRAIN_NS) &&
		home_drain(stores, &home->writers, clock_ns() + DRAIN_NS);
	lock_put(&stores->lock);
	if (!alone)
		return -EAGAIN;
	err = from ? from->ops->remove(from, home->ino, 0, UINT64_MAX) : -ENODEV;
	if (!err)
		err = from->ops->sync(from);
	if (!err)
		err = stores_record_put(stores, home->ino, &layout, true);
	if (err)
		return err;
	lock_get(&stores->lock);
	home->layout = layout;
	home->recorded = layout.low != 0;
	home->error = 0;
	lock_put(&stores->lock);
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

static bool unused(const struct home *home)
{
	return !home->readers.count[0] && !home->readers.count[1] && !home->writers.count[0] && !home->writers.count[1];
}

static bool at_rest(const struct home *home)
{
	return home->layout.low == home->layout.high;
}

static bool has_work(const struct home *home)
{
	if (home->gone)
		return unused(home);
	return home->doubt || (!home->holds && (!at_rest(home) || home->want != home->layout.low));
}

/* Under lock. */
static uint64_t due_of(const struct stores *stores, const struct home *home)
{
	uint64_t device_ns = home->gone || home->doubt ? 0 : stores->device[goal(home)].retry_ns;

	return device_ns > home->retry_ns ? device_ns : home->retry_ns;
}

/* Under lock: whose turn is the longest ago. due_ns: when one is due that is not now. */
static struct home *pick(struct stores *stores, uint64_t *due_ns)
{
	uint64_t now_ns = clock_ns();
	struct home *home, *next, *best = NULL;

	*due_ns = UINT64_MAX;
	HASH_ITER(hh, stores->homes, home, next) {
		if (home->busy || !has_work(home))
			continue;
		if (due_of(stores, home) > now_ns) {
			*due_ns = due_of(stores, home) < *due_ns ? due_of(stores, home) : *due_ns;
			continue;
		}
		if (!best || home->turn < best->turn)
			best = home;
	}
	if (best) {
		best->busy = true;
		best->turn = ++stores->turn;
	}
	return best;
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
	bool through, rest, doubt;

	lock_get(&stores->lock);
	through = is_through(home);
	rest = at_rest(home);
	doubt = home->doubt;
	lock_put(&stores->lock);
	if (doubt)
		return settle_record(stores, home);
	if (rest)
		return begin(stores, home);
	return through ? finish(stores, home) : move_window(stores, home, ret_wait_ns);
}

static bool one_step(struct stores *stores, uint64_t *due_ns)
{
	struct home *home;
	uint64_t wait_ns = 0;
	bool gone;
	int err;

	lock_get(&stores->lock);
	home = pick(stores, due_ns);
	gone = home && home->gone;
	lock_put(&stores->lock);
	if (!home)
		return false;
	err = gone ? forget(stores, home) : step(stores, home, &wait_ns);
	LOCK_SCOPE(&stores->lock);
	home->busy = false;
	if (gone && !err && unused(home)) {
		HASH_DEL(stores->homes, home);
		free(home);
	} else {
		home->retry_ns = err ? clock_ns() + RETRY_NS : wait_ns ? clock_ns() + wait_ns : 0;
		if (!wait_ns && !gone)
			set_error(stores, home, err == -EAGAIN ? home->error : err);
	}
	pthread_cond_broadcast(&stores->changed);
	return true;
}

static void *run(void *arg)
{
	struct stores *stores = arg;
	uint64_t due_ns;

	pthread_setname_np(pthread_self(), "tierfs-stores");
	thread_set_slice(THREAD_SLICE_LONG_NS);
	if (setpriority(PRIO_PROCESS, (id_t)gettid(), NICE) < 0)
		log_debug("the thread that moves files has no priority of its own");
	lock_get(&stores->lock);
	while (!stores->stop) {
		bool did;

		lock_put(&stores->lock);
		did = one_step(stores, &due_ns);
		lock_get(&stores->lock);
		if (did || stores->stop)
			continue;
		/* Who gives it something to do has the lock, so nothing is missed: it is looked at once more. */
		if (stores->news) {
			stores->news = false;
			continue;
		}
		if (due_ns == UINT64_MAX)
			lock_wait(&stores->lock, &stores->work);
		else
			lock_wait_until(&stores->lock, &stores->work, due_ns);
		stores->news = false;
	}
	lock_put(&stores->lock);
	return NULL;
}

int stores_start(struct store *store, stores_pace_fn *pace, void *arg)
{
	struct stores *stores = stores_of(store);
	int err;

	if (!stores)
		return 0;
	stores->stop = false;
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
	lock_get(&stores->lock);
	stores->stop = true;
	pthread_cond_signal(&stores->work);
	lock_put(&stores->lock);
	pthread_join(stores->mover, NULL);
	stores->mover_runs = false;
}

bool stores_step(struct store *store)
{
	uint64_t due_ns;

	return one_step(stores_of(store), &due_ns);
}

/* ---- what others say ---- */

/* Under lock. */
static void call_mover(struct stores *stores)
{
	stores->news = true;
	pthread_cond_signal(&stores->work);
}

int stores_want(struct store *store, uint64_t ino, unsigned int index)
{
	struct stores *stores = stores_of(store);
	struct home *home;

	if (!stores)
		return 0;
	LOCK_SCOPE(&stores->lock);
	home = index ? home_make(stores, ino) : home_find(stores, ino);
	if (!home)
		return index ? -ENOMEM : 0;
	if (home->want == index)
		return 0;
	home->want = (uint8_t)index;
	home->retry_ns = 0;
	call_mover(stores);
	return 0;
}

int stores_begun(struct store *store, uint64_t ino, unsigned int index)
{
	struct stores *stores = stores_of(store);
	struct home *home;

	LOCK_SCOPE(&stores->lock);
	home = home_make(stores, ino);
	if (!home)
		return -ENOMEM;
	home->layout.low = home->layout.high = home->want = (uint8_t)index;
	home->recorded = index != 0;
	return 0;
}

void stores_forget(struct store *store, uint64_t ino)
{
	struct stores *stores = stores_of(store);
	struct home *home;

	if (!stores)
		return;
	LOCK_SCOPE(&stores->lock);
	home = home_find(stores, ino);
	if (!home)
		return;
	home->gone = true;
	home->retry_ns = 0;
	call_mover(stores);
}

/* Under lock. -EIO: nobody knows where one of them is, for as long as its record cannot be written. */
static int hold(struct stores *stores, struct home *from, struct home *to)
{
	from->holds++;
	to->holds++;
	while (!from->doubt && !to->doubt && (from->busy || to->busy || from->claimed || to->claimed))
		lock_wait(&stores->lock, &stores->changed);
	return from->doubt || to->doubt ? -EIO : 0;
}

static void unhold(struct stores *stores, uint64_t ino)
{
	struct home *home = home_find(stores, ino);

	if (home)
		home->holds--;
}

void stores_clone_end(struct store *store, uint64_t from, uint64_t to)
{
	struct stores *stores = stores_of(store);

	if (!stores || stores->count == 1)
		return;
	LOCK_SCOPE(&stores->lock);
	unhold(stores, from);
	unhold(stores, to);
	call_mover(stores);
}

/* Nothing counts of it, and garbage of its moves, which did not, would where it goes. Where it leaves nobody will look
 * for it again, so there it is gone for good. */
static int clear_all(struct stores *stores, uint64_t ino, const struct layout *old, const struct layout *new)
{
	const unsigned int device[] = { new->low, new->high, old->low, old->high };
	int err = 0;

	for (size_t i = 0; i < 4 && !err; i++) {
		struct store *store = device_here(stores, device[i]);

		err = store ? store->ops->remove(store, ino, 0, UINT64_MAX) : -EIO;
		if (!err && device[i] != new->low &&device[i] != new->high)
			err = store->ops->sync(store);
	}
	return err;
}

/* The file, of which nothing is stored and which does not move, gets that layout. */
static int adopt(struct stores *stores, struct home *home, const struct layout *layout)
{
	int err = clear_all(stores, home->ino, &home->layout, layout);

	if (err)
		return err;
	err = stores_record_put(stores, home->ino, layout, true);
	LOCK_SCOPE(&stores->lock);
	if (!err) {
		home->layout = *layout;
		home->recorded = layout->low || layout->high;
		return 0;
	}
	/* The old record shall be there again, before anything is stored. */
	home->claimed = home->doubt = true;
	home->claim_first = 0;
	home->claim_last = UINT64_MAX;
	home->retry_ns = 0;
	return err;
}

int stores_clone_begin(struct store *store, uint64_t from, uint64_t to)
{
	struct stores *stores = stores_of(store);
	struct home *source, *target;
	struct layout layout;
	int err = 0;

	if (!stores || stores->count == 1)
		return 0;
	lock_get(&stores->lock);
	source = home_make(stores, from);
	target = source ? home_make(stores, to) : NULL;
	if (target) {
		err = hold(stores, source, target);
		layout = source->layout;
	}
	lock_put(&stores->lock);
	if (!target)
		return -ENOMEM;
	if (!err && !layout_same(&layout, &target->layout))
		err = adopt(stores, target, &layout);
	if (err)
		stores_clone_end(store, from, to);
	return err;
}
