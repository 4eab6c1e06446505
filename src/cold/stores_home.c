/* cold/stores_home.c - where files are, and who is at them: see stores_state.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cold/stores_state.h"

struct home *home_find(const struct stores *stores, uint64_t ino)
{
	struct home *home;

	HASH_FIND(hh, stores->homes, &ino, sizeof(ino), home);
	return home;
}

struct home *home_make(struct stores *stores, uint64_t ino)
{
	struct home *home = home_find(stores, ino);

	if (home)
		return home;
	home = calloc(1, sizeof(*home));
	if (!home)
		return NULL;
	home->ino = ino;
	home->layout.up = true;
	HASH_ADD(hh, stores->homes, ino, sizeof(home->ino), home);
	if (home->hh.tbl)
		return home;
	free(home);
	return NULL;
}

/* ---- calls ---- */

static struct users *users_of(struct stores *stores, struct home *home, bool write)
{
	if (home)
		return write ? &home->writers : &home->readers;
	return write ? &stores->writers : &stores->readers;
}

static void enter(struct stores *stores, struct home *home, bool write, struct visit *ret)
{
	struct users *users = users_of(stores, home, write);

	*ret = (struct visit){ .home = home, .write = write, .parity = users->now };
	if (home)
		ret->layout = home->layout;
	users->count[users->now]++;
}

void home_read(struct stores *stores, uint64_t ino, struct visit *ret)
{
	if (stores->count == 1) {
		*ret = (struct visit){ .single = true };
		return;
	}
	LOCK_SCOPE(&stores->lock);

	enter(stores, home_find(stores, ino), false, ret);
}

int home_write(struct stores *stores, uint64_t ino, uint64_t first, uint64_t last, struct visit *ret)
{
	struct home *home;

	if (stores->count == 1) {
		*ret = (struct visit){ .single = true };
		return 0;
	}
	LOCK_SCOPE(&stores->lock);
	while ((home = home_find(stores, ino)) && home->claimed && first <= home->claim_last &&
	       last >= home->claim_first) {
		if (home->doubt)
			return -EIO;
		lock_wait(&stores->lock, &stores->changed);
	}
	enter(stores, home, true, ret);
	return 0;
}

void home_leave(struct stores *stores, const struct visit *visit)
{
	struct users *users;

	if (visit->single)
		return;
	LOCK_SCOPE(&stores->lock);
	users = users_of(stores, visit->home, visit->write);
	if (--users->count[visit->parity] == 0)
		pthread_cond_broadcast(&stores->changed);
}

bool home_drain(struct stores *stores, struct users *users, uint64_t until_ns)
{
	/* Those that a drain before this one did not wait for to the end. */
	while (users->count[!users->now])
		if (lock_wait_until(&stores->lock, &stores->changed, until_ns))
			return false;
	users->now = !users->now;
	while (users->count[!users->now])
		if (lock_wait_until(&stores->lock, &stores->changed, until_ns))
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
