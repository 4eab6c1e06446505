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
	/* Both are the mover's. */
	int move_error;    /* the log knows that files cannot be moved there */
	uint64_t retry_ns; /* it has no room, none is moved there before */
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

/* Calls of the files of a shard, or of one of them. */
struct calls {
	struct users readers, writers;
	struct users holders; /* store.h, hold */
};

#define QUEUE_NONE SIZE_MAX

/* A file that is not simply on device 0. Under the lock of its shard, but for what is said. */
struct home {
	uint64_t ino;
	struct layout layout; /* changed by the mover, or for a file that it holds */
	uint8_t want;
	bool recorded; /* there is a record */
	bool kept;     /* store.h, keep */
	bool gone;     /* its file is */
	bool busy;     /* a step is going on */
	bool doubt;    /* nobody knows what its record says, so what is claimed stays so */
	bool claimed;
	bool asked; /* the claim waits for holders, and holds up nobody yet */
	uint64_t claim_first, claim_last;
	unsigned int holds; /* clones of it, or into it */
	int error;
	struct calls calls;
	/* The mover's own: readers of an older layout may be under way; what the owner's limits have granted, and was
	 * not used. */
	bool lingers;
	uint64_t paid_values, paid_bytes;
	/* Under the queue's lock. */
	size_t position; /* QUEUE_NONE: it does not stand there */
	uint64_t due_ns;
	UT_hash_handle hh;
};

/* Files by their number, so that those at one seldom meet those at another. */
#define SHARDS 64U

struct shard {
	struct lock lock;
	pthread_cond_t changed; /* a claim or a call ended */
	struct home *homes;     /* never freed while somebody may use them: by the mover, when gone */
	struct calls calls;     /* of files without a home */
};

/* Files that may have something to do, a heap by when. Its lock is taken under that of a shard. */
struct queue {
	struct lock lock;
	pthread_cond_t work; /* for the mover */
	struct home **heap;
	size_t count, cap;
	size_t homes; /* there is room for all of them */
	bool stop;
};

struct stores {
	struct store base;
	struct device device[STORES_MAX];
	unsigned int count; /* does not change once the router is used by more than one thread */
	struct shard shard[SHARDS];
	struct queue queue;
	stores_pace_fn *pace;
	void *pace_arg;
	pthread_t mover;
	bool mover_runs;
	_Atomic bool forgetful; /* somebody was kept, and nobody knows who */
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

struct shard *home_shard(struct stores *stores, uint64_t ino);
void home_init(struct stores *stores);
void home_fini(struct stores *stores);
void home_read(struct stores *stores, uint64_t ino, struct visit *ret);
/* Waits for a claim of that range. -EIO: the claim is in doubt. */
int home_write(struct stores *stores, uint64_t ino, uint64_t first, uint64_t last, struct visit *ret);
/* Items of one file: waits for a claim of a block among them, not for one that lies between two of them. */
int home_write_items(struct stores *stores, const struct store_item *items, size_t count, struct visit *ret);
void home_leave(struct stores *stores, uint64_t ino, const struct visit *visit);
void home_hold(struct stores *stores, uint64_t ino, struct store_hold *ret);
void home_let_go(struct stores *stores, const struct store_hold *hold);
/* Under the shard's lock. */
struct home *home_find(struct shard *shard, uint64_t ino);
struct home *home_make(struct stores *stores, uint64_t ino); /* found or made. NULL: no memory */
/* By the mover; nobody uses it. */
void home_free(struct stores *stores, struct home *home);
/* Waits for the calls that are under way. False: not in time. */
bool home_drain(struct shard *shard, struct users *users, uint64_t until_ns);

/* cold/stores_queue.c. Thread-safety: all of them. */
void queue_init(struct queue *queue);
void queue_fini(struct queue *queue);
/* Room for a home more. -ENOMEM. */
int queue_add_home(struct queue *queue);
void queue_drop_home(struct queue *queue, struct home *home);
/* It is looked at then, or earlier if that was said before. */
void queue_push(struct queue *queue, struct home *home, uint64_t due_ns);
/* The one that is due for the longest time, which leaves the queue; NULL: none is. */
struct home *queue_pop(struct queue *queue);
/* Until one is due. False: it shall end. */
bool queue_wait(struct queue *queue);
void queue_stop(struct queue *queue, bool stop);

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
