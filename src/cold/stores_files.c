/* cold/stores_files.c - what others say of files: where they are to be, that they begin, are cloned, and are gone. */
#include <errno.h>

#include "base/clock.h"
#include "cold/stores_state.h"

/* Under lock: there may be something to do that the mover has not seen. */
static void call_mover(struct stores *stores, struct home *home)
{
	queue_push(&stores->queue, home, clock_ns());
}

int stores_want(struct store *store, uint64_t ino, unsigned int index)
{
	struct stores *stores = stores_of(store);
	struct shard *shard = stores ? home_shard(stores, ino) : NULL;
	struct home *home;

	if (!stores)
		return 0;
	LOCK_SCOPE(&shard->lock);
	home = index ? home_make(stores, ino) : home_find(shard, ino);
	if (!home)
		return index ? -ENOMEM : 0;
	if (home->want == index)
		return 0;
	home->want = (uint8_t)index;
	call_mover(stores, home);
	return 0;
}

int stores_begun(struct store *store, uint64_t ino, unsigned int index)
{
	struct stores *stores = stores_of(store);
	struct shard *shard = home_shard(stores, ino);
	struct home *home;

	LOCK_SCOPE(&shard->lock);
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
	struct shard *shard = stores ? home_shard(stores, ino) : NULL;
	struct home *home;

	if (!stores)
		return;
	LOCK_SCOPE(&shard->lock);
	home = home_find(shard, ino);
	if (!home)
		return;
	home->gone = true;
	call_mover(stores, home);
}

/* ---- clones ---- */

/* It does not move before unhold(). Waits for the step that is going on. ret: where it is. -EIO: nobody knows, for as
 * long as its record cannot be written; it is held all the same. -ENOMEM: it is not. */
static int hold(struct stores *stores, uint64_t ino, struct home **ret, struct layout *ret_layout)
{
	struct shard *shard = home_shard(stores, ino);
	struct home *home;

	LOCK_SCOPE(&shard->lock);
	home = home_make(stores, ino);
	if (!home)
		return -ENOMEM;
	home->holds++;
	while (!home->doubt && (home->busy || home->claimed))
		lock_wait(&shard->lock, &shard->changed);
	*ret = home;
	*ret_layout = home->layout;
	return home->doubt ? -EIO : 0;
}

static void unhold(struct stores *stores, uint64_t ino)
{
	struct shard *shard = home_shard(stores, ino);
	struct home *home;

	LOCK_SCOPE(&shard->lock);
	home = home_find(shard, ino);
	if (!home)
		return;
	home->holds--;
	call_mover(stores, home);
}

void stores_clone_end(struct store *store, uint64_t from, uint64_t to)
{
	struct stores *stores = stores_of(store);

	if (!stores || stores->count == 1)
		return;
	unhold(stores, from);
	unhold(stores, to);
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
static int adopt(struct stores *stores, struct home *home, const struct layout *old, const struct layout *layout)
{
	struct shard *shard = home_shard(stores, home->ino);
	int err = clear_all(stores, home->ino, old, layout);

	if (err)
		return err;
	err = stores_record_put(stores, home->ino, layout, true);
	LOCK_SCOPE(&shard->lock);
	if (!err) {
		home->layout = *layout;
		home->recorded = layout->low || layout->high;
		return 0;
	}
	/* The old record shall be there again, before anything is stored. */
	home->claimed = home->doubt = true;
	home->claim_first = 0;
	home->claim_last = UINT64_MAX;
	return err;
}

int stores_clone_begin(struct store *store, uint64_t from, uint64_t to)
{
	struct stores *stores = stores_of(store);
	struct layout layout = { 0 }, old = { 0 };
	struct home *source, *target;
	int err;

	if (!stores || stores->count == 1)
		return 0;
	err = hold(stores, from, &source, &layout);
	if (err) {
		if (err == -EIO)
			unhold(stores, from);
		return err;
	}
	err = hold(stores, to, &target, &old);
	if (err == -ENOMEM) {
		unhold(stores, from);
		return err;
	}
	if (!err && !layout_same(&layout, &old))
		err = adopt(stores, target, &old, &layout);
	if (err)
		stores_clone_end(store, from, to);
	return err;
}
