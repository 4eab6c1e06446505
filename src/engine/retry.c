#include "engine/retry.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "base/log.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/parked.h"

struct waiting {
	TAILQ_ENTRY(waiting) link;
	struct ramfile *file;
	struct mapper *mapper;
	uint64_t offset, arrived_ns, due_ns;
	bool heals; /* nobody waits for it */
	struct wait wait;
};

TAILQ_HEAD(waiting_list, waiting);

struct retry {
	struct lock lock;
	pthread_cond_t changed;
	struct waiting_list list; /* under lock */
	unsigned int count;       /* under lock: in the list */
	bool stopping;            /* under lock */
	pthread_t thread;
	bool thread_runs; /* immutable, and so is the next */
	retry_fn *fault;
};

uint64_t retry_pause_ns(uint64_t since_ns)
{
	uint64_t pause = since_ns / 2;

	if (pause < RETRY_FIRST_NS)
		return RETRY_FIRST_NS;
	return pause < RETRY_MOST_NS ? pause : RETRY_MOST_NS;
}

/* Under lock. */
static void take_out(struct retry *retry, struct waiting *waiting)
{
	TAILQ_REMOVE(&retry->list, waiting, link);
	retry->count--;
	if (!waiting->heals)
		waits_end(waiting->file, &waiting->wait);
}

/* Under lock. One that is due, taken off the list; NULL: *ret_next says when one is, 0 never. */
static struct waiting *take_due(struct retry *retry, uint64_t now_ns, uint64_t *ret_next)
{
	struct waiting *waiting;

	*ret_next = 0;
	TAILQ_FOREACH(waiting, &retry->list, link) {
		if (waiting->due_ns <= now_ns) {
			take_out(retry, waiting);
			return waiting;
		}
		if (!*ret_next || waiting->due_ns < *ret_next)
			*ret_next = waiting->due_ns;
	}
	return NULL;
}

uint64_t retry_run(struct retry *retry, uint64_t now_ns)
{
	struct waiting *waiting;
	uint64_t next;

	lock_get(&retry->lock);
	while (!retry->stopping && (waiting = take_due(retry, now_ns, &next))) {
		lock_put(&retry->lock);
		retry->fault(waiting->file, waiting->mapper, waiting->offset, FAULT_MISSING, waiting->arrived_ns);
		mappers_drop(waiting->file, waiting->mapper);
		free(waiting);
		lock_get(&retry->lock);
	}
	take_due(retry, 0, &next);
	lock_put(&retry->lock);
	return next;
}

static void *run(void *arg)
{
	struct retry *retry = arg;

	lock_get(&retry->lock);
	while (!retry->stopping) {
		uint64_t next;

		lock_put(&retry->lock);
		next = retry_run(retry, clock_ns());
		lock_get(&retry->lock);
		if (retry->stopping)
			break;
		/* One that came in between waits a little longer for it. */
		if (next)
			lock_wait_until(&retry->lock, &retry->changed, next);
		else if (TAILQ_EMPTY(&retry->list))
			lock_wait(&retry->lock, &retry->changed);
	}
	lock_put(&retry->lock);
	return NULL;
}

int retry_new(retry_fn *fault, bool thread, struct retry **ret)
{
	struct retry *retry = calloc(1, sizeof(*retry));
	int err = 0;

	if (!retry)
		return -ENOMEM;
	lock_init(&retry->lock, LOCK_RANK_BUDGET);
	lock_cond_init(&retry->changed);
	TAILQ_INIT(&retry->list);
	retry->fault = fault;
	if (thread)
		err = -pthread_create(&retry->thread, NULL, run, retry);
	if (err) {
		retry_free(retry);
		return err;
	}
	retry->thread_runs = thread;
	if (thread)
		pthread_setname_np(retry->thread, "tierfs-retry");
	*ret = retry;
	return 0;
}

void retry_free(struct retry *retry)
{
	struct waiting *waiting;

	if (!retry)
		return;
	lock_get(&retry->lock);
	retry->stopping = true;
	pthread_cond_signal(&retry->changed);
	lock_put(&retry->lock);
	if (retry->thread_runs)
		pthread_join(retry->thread, NULL);
	while ((waiting = TAILQ_FIRST(&retry->list))) {
		TAILQ_REMOVE(&retry->list, waiting, link);
		free(waiting);
	}
	pthread_cond_destroy(&retry->changed);
	lock_fini(&retry->lock);
	free(retry);
}

/* Under lock. That of the same block, with which who touches it now waits. */
static struct waiting *find(const struct retry *retry, const struct waiting *fresh)
{
	struct waiting *waiting;

	TAILQ_FOREACH(waiting, &retry->list, link) {
		if (waiting->mapper == fresh->mapper &&
		    waiting->offset / fresh->file->block_bytes == fresh->offset / fresh->file->block_bytes)
			return waiting;
	}
	return NULL;
}

/* False: it does not wait. */
static bool add(struct retry *retry, const struct waiting *fresh)
{
	struct waiting *waiting = malloc(sizeof(*waiting)), *other;
	bool full;

	if (!waiting || !mappers_hold(fresh->file, fresh->mapper)) {
		free(waiting);
		return false;
	}
	*waiting = *fresh;
	lock_get(&retry->lock);
	other = find(retry, fresh);
	full = !other && retry->count == RETRY_MAX;
	if (other && other->due_ns > fresh->due_ns)
		other->due_ns = fresh->due_ns;
	if (!other && !full) {
		TAILQ_INSERT_TAIL(&retry->list, waiting, link);
		retry->count++;
		if (!waiting->heals)
			waits_begin(waiting->file, &waiting->wait, WAIT_STORE, waiting->arrived_ns);
	}
	pthread_cond_signal(&retry->changed);
	lock_put(&retry->lock);
	if (other || full) {
		mappers_drop(fresh->file, fresh->mapper);
		free(waiting);
	} else if (mappers_leaves(fresh->file, fresh->mapper)) {
		/* Who removes it may have looked for faults that wait just before. */
		retry_forget(retry, fresh->mapper);
	}
	return !full;
}

bool retry_later(struct retry *retry, struct ramfile *file, struct mapper *mapper, uint64_t offset, uint64_t arrived_ns)
{
	uint64_t now = clock_ns(), since = now > arrived_ns ? now - arrived_ns : 0;
	bool given_up = since >= RETRY_FAULT_NS;
	struct waiting fresh = {
		.file = file,
		.mapper = mapper,
		.offset = offset,
		.arrived_ns = arrived_ns,
		.heals = given_up,
		.due_ns = now + (given_up ? RETRY_HEAL_NS : retry_pause_ns(since)),
	};

	return retry && add(retry, &fresh) && !given_up;
}

void retry_heal(struct retry *retry, struct ramfile *file, struct mapper *mapper, uint64_t offset, uint64_t pause_ns)
{
	uint64_t now = clock_ns();
	struct waiting fresh = {
		.file = file,
		.mapper = mapper,
		.offset = offset,
		.arrived_ns = now,
		.due_ns = now + pause_ns,
		.heals = true,
	};

	if (retry && !add(retry, &fresh) && !mappers_leaves(file, mapper))
		log_warn("file %llu: too much waits to be read again: who was poisoned at block %llu stays so until "
			 "that is written, or loaded again",
			 (unsigned long long)file->ino, (unsigned long long)(offset / file->block_bytes));
}

void retry_forget(struct retry *retry, struct mapper *mapper)
{
	struct waiting_list gone = TAILQ_HEAD_INITIALIZER(gone);
	struct waiting *waiting, *next;

	if (!retry)
		return;
	lock_get(&retry->lock);
	for (waiting = TAILQ_FIRST(&retry->list); waiting; waiting = next) {
		next = TAILQ_NEXT(waiting, link);
		if (waiting->mapper != mapper)
			continue;
		take_out(retry, waiting);
		TAILQ_INSERT_TAIL(&gone, waiting, link);
	}
	lock_put(&retry->lock);
	while ((waiting = TAILQ_FIRST(&gone))) {
		TAILQ_REMOVE(&gone, waiting, link);
		mappers_drop(waiting->file, mapper);
		free(waiting);
	}
}
