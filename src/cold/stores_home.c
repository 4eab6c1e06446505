/* cold/stores_home.c - where files are, and who is at them: see stores_state.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cold/stores_state.h"

struct shard *home_shard(struct stores *stores, uint64_t ino)
{
	return &stores->shard[ino % SHARDS]; /* numbers are given one after the other */
}

void home_init(struct stores *stores)
{
	for (unsigned int i = 0; i < SHARDS; i++) {
		lock_init(&stores->shard[i].lock, LOCK_RANK_STORE);
		lock_cond_init(&stores->shard[i].changed);
	}
	queue_init(&stores->queue);
}

void home_fini(struct stores *stores)
{
	struct home *home, *next;

	for (unsigned int i = 0; i < SHARDS; i++) {
		struct shard *shard = &stores->shard[i];

		HASH_ITER(hh, shard->homes, home, next) {
			HASH_DEL(shard->homes, home);
			free(home);
		}
		pthread_cond_destroy(&shard->changed);
		lock_fini(&shard->lock);
	}
	queue_fini(&stores->queue);
}

struct home *home_find(struct shard *shard, uint64_t ino)
{
	struct home *home;

	HASH_FIND(hh, shard->homes, &ino, sizeof(ino), home);
	return home;
}

struct home *home_make(struct stores *stores, uint64_t ino)
{
	struct shard *shard = home_shard(stores, ino);
	struct home *home = home_find(shard, ino);

	if (home)
		return home;
	home = calloc(1, sizeof(*home));
	if (!home)
		return NULL;
	home->ino = ino;
	home->layout.up = true;
	home->position = QUEUE_NONE;
	if (queue_add_home(&stores->queue)) {
		free(home);
		return NULL;
	}
	HASH_ADD(hh, shard->homes, ino, sizeof(home->ino), home);
	if (home->hh.tbl)
		return home;
	queue_drop_home(&stores->queue, home);
	free(home);
	return NULL;
}

void home_free(struct stores *stores, struct home *home)
{
	struct shard *shard = home_shard(stores, home->ino);

	HASH_DEL(shard->homes, home);
	queue_drop_home(&stores->queue, home);
	free(home);
}

/* ---- calls ---- */

static struct calls *calls_of(struct shard *shard, struct home *home)
{
	return home ? &home->calls : &shard->calls;
}

static unsigned int begin(struct users *users)
{
	users->count[users->now]++;
	return users->now;
}

static void end(struct shard *shard, struct users *users, unsigned int parity)
{
	if (--users->count[parity] == 0)
		pthread_cond_broadcast(&shard->changed);
}

static void enter(struct shard *shard, struct home *home, bool write, struct visit *ret)
{
	struct calls *calls = calls_of(shard, home);

	*ret = (struct visit){ .home = home, .write = write };
	ret->parity = begin(write ? &calls->writers : &calls->readers);
	if (home)
		ret->layout = home->layout;
}

void home_read(struct stores *stores, uint64_t ino, struct visit *ret)
{
	struct shard *shard = home_shard(stores, ino);

	if (stores->count == 1) {
		*ret = (struct visit){ .single = true };
		return;
	}
	LOCK_SCOPE(&shard->lock);
	enter(shard, home_find(shard, ino), false, ret);
}

static bool claims_range(const struct home *home, uint64_t first, uint64_t last)
{
	return home->claimed && !home->asked && first <= home->claim_last && last >= home->claim_first;
}

static bool claims_any(const struct home *home, const struct store_item *items, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (claims_range(home, items[i].key.block, items[i].key.block))
			return true;
	return false;
}

int home_write(struct stores *stores, uint64_t ino, uint64_t first, uint64_t last, struct visit *ret)
{
	struct shard *shard = home_shard(stores, ino);
	struct home *home;

	if (stores->count == 1) {
		*ret = (struct visit){ .single = true };
		return 0;
	}
	LOCK_SCOPE(&shard->lock);
	while ((home = home_find(shard, ino)) && claims_range(home, first, last)) {
		if (home->doubt)
			return -EIO;
		lock_wait(&shard->lock, &shard->changed);
	}
	enter(shard, home, true, ret);
	return 0;
}

int home_write_items(struct stores *stores, const struct store_item *items, size_t count, struct visit *ret)
{
	uint64_t ino = items[0].key.ino;
	struct shard *shard = home_shard(stores, ino);
	struct home *home;

	if (stores->count == 1) {
		*ret = (struct visit){ .single = true };
		return 0;
	}
	LOCK_SCOPE(&shard->lock);
	while ((home = home_find(shard, ino)) && claims_any(home, items, count)) {
		if (home->doubt)
			return -EIO;
		lock_wait(&shard->lock, &shard->changed);
	}
	enter(shard, home, true, ret);
	return 0;
}

void home_leave(struct stores *stores, uint64_t ino, const struct visit *visit)
{
	struct shard *shard = home_shard(stores, ino);
	struct calls *calls;

	if (visit->single)
		return;
	LOCK_SCOPE(&shard->lock);
	calls = calls_of(shard, visit->home);
	end(shard, visit->write ? &calls->writers : &calls->readers, visit->parity);
}

void home_hold(struct stores *stores, uint64_t ino, struct store_hold *ret)
{
	struct shard *shard = home_shard(stores, ino);
	struct calls *calls;
	struct home *home;

	if (stores->count == 1)
		return;
	LOCK_SCOPE(&shard->lock);
	home = home_find(shard, ino);
	if (home && home->claimed) {
		ret->busy_first = home->claim_first;
		ret->busy_last = home->claim_last;
	}
	calls = calls_of(shard, home);
	ret->at = calls;
	ret->parity = begin(&calls->holders);
}

void home_let_go(struct stores *stores, const struct store_hold *hold)
{
	struct shard *shard = home_shard(stores, hold->ino);
	struct calls *calls = hold->at;

	if (!calls)
		return;
	LOCK_SCOPE(&shard->lock);
	end(shard, &calls->holders, hold->parity);
}

bool home_drain(struct shard *shard, struct users *users, uint64_t until_ns)
{
	/* Those that a drain before this one did not wait for to the end. */
	while (users->count[!users->now])
		if (lock_wait_until(&shard->lock, &shard->changed, until_ns))
			return false;
	users->now = !users->now;
	while (users->count[!users->now])
		if (lock_wait_until(&shard->lock, &shard->changed, until_ns))
			return false;
	return true;
}

/* ---- layouts ---- */

size_t layout_parts(const struct layout *layout, uint64_t first, uint64_t last, struct part part[static 2])
{
	size_t count = 0;

	if (layout->low == layout->high) {
		part[0] = (struct part){ layout->low, first, stores_span(first, last) };
		return 1;
	}
	if (first < layout->mark)
		part[count++] = (struct part){ layout->low, first,
					       stores_span(first, last < layout->mark ? last : layout->mark - 1) };
	if (last >= layout->mark)
		part[count++] = (struct part){ layout->high, first > layout->mark ? first : layout->mark,
					       stores_span(first > layout->mark ? first : layout->mark, last) };
	return count;
}

bool layout_same(const struct layout *a, const struct layout *b)
{
	return a->low == b->low && a->high == b->high && (a->low == a->high || a->mark == b->mark);
}

struct store *device_here(struct stores *stores, unsigned int index)
{
	struct device *device = &stores->device[index];

	if (!device->store && !atomic_exchange(&device->told, true))
		log_warn("store %s is not here, and files need it: what they have there gives EIO until the pool is "
			 "mounted with store.%s=DIR",
			 device->name, device->name);
	return device->store;
}
