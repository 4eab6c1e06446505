/* cold/stores_state.h - the router from inside, for cold/stores*.c alone. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

/* Without memory for its buckets uthash would end the process; here it is an error. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "base/lock.h"
#include "cold/meta.h"
#include "cold/stores.h"

#define STORES_END UINT64_MAX /* a mark behind every block */

struct device {
	char name[STORES_NAME_MAX + 1];
	uint8_t token[STORES_TOKEN_BYTES];
	struct store *store; /* NULL: not here. Immutable once the mover runs */
	struct store *below; /* of it, where what is put is durable by a sync; the same without a warm store */
	_Atomic bool told;   /* the log knows that somebody needs it */
	int move_error;      /* under lock: the log knows that files cannot be moved there */
	uint64_t retry_ns;   /* under lock: it has no room, none is moved there before */
};

struct layout {
	uint8_t low, high;
	bool up; /* where the mark goes, as far as nobody wants anything else */
	uint64_t mark;
};

/* Calls that are under way. Who wants those to end that began before turns them over and waits for the older ones. */
struct users {
	unsigned int count[2];
	unsigned int now; /* of the two, which counts those who begin */
};

/* A file that is not simply on device 0. */
struct home {
	uint64_t ino;
	struct layout layout;
	uint8_t want;
	bool recorded; /* there is a record */
	bool kept;     /* store.h, keep */
	bool gone;     /* its file is */
	bool busy;     /* a step is going on */
	bool doubt;    /* nobody knows what its record says, so what is claimed stays so */
	bool claimed;
	uint64_t claim_first, claim_last;
	unsigned int holds; /* clones of it, or into it */
	int error;
	uint64_t retry_ns, turn;
	struct users readers, writers;
	UT_hash_handle hh;
};

struct stores {
	struct store base;
	struct lock lock;
	pthread_cond_t changed; /* a claim or a call ended */
	pthread_cond_t work;    /* for the mover */
	struct device device[STORES_MAX];
	unsigned int count;            /* under lock, as all below */
	struct home *homes;            /* never freed while somebody may use them: by the mover, when gone */
	struct users readers, writers; /* of files without a home */
	uint64_t turn;
	stores_pace_fn *pace;
	void *pace_arg;
	pthread_t mover;
	bool mover_runs, stop;
	bool news;      /* the mover has something to do that it may not have seen */
	bool forgetful; /* somebody was kept, and nobody knows who */
};

/* NULL: the store is no router; no other store has devices. */
static inline struct stores *stores_of(struct store *store)
{
	return store->ops->devices ? (struct stores *)store : NULL;
}

/* A call on a file: the layout stays as good as it was until the end of the call. */
struct visit {
	bool single;       /* there is one device, so nothing is noted */
	struct home *home; /* NULL: it had none */
	bool write;
	unsigned int parity;
	struct layout layout;
};

/* A range on one device. */
struct part {
	unsigned int device;
	uint64_t first, count;
};

void home_read(struct stores *stores, uint64_t ino, struct visit *ret);
/* Waits for a claim of that range. -EIO: the claim is in doubt. */
int home_write(struct stores *stores, uint64_t ino, uint64_t first, uint64_t last, struct visit *ret);
void home_leave(struct stores *stores, const struct visit *visit);
/* Under lock. */
struct home *home_find(const struct stores *stores, uint64_t ino);
struct home *home_make(struct stores *stores, uint64_t ino);                    /* found or made. NULL: no memory */
bool home_drain(struct stores *stores, struct users *users, uint64_t until_ns); /* waits. False: not in time */

static inline unsigned int layout_device(const struct layout *layout, uint64_t block)
{
	return block < layout->mark ? layout->low : layout->high;
}

size_t layout_parts(const struct layout *layout, uint64_t first, uint64_t last, struct part part[static 2]);
bool layout_same(const struct layout *a, const struct layout *b);
static inline uint64_t stores_last(uint64_t first, uint64_t count)
{
	return count - 1 > UINT64_MAX - first ? UINT64_MAX : first + (count - 1);
}

static inline uint64_t stores_span(uint64_t first, uint64_t last)
{
	return last - first == UINT64_MAX ? UINT64_MAX : last - first + 1;
}

/* The device, or NULL, and the log was told once. */
struct store *device_here(struct stores *stores, unsigned int index);

/* Records. load: all of them, when nobody uses the router. */
int stores_record_load(struct stores *stores);
int stores_record_name(struct stores *stores, unsigned int index);
/* Without lock. A layout that is at rest on device 0 has none. */
int stores_record_put(struct stores *stores, uint64_t ino, const struct layout *layout, bool durable);
