/* cold/stores_queue.c - which file the mover looks at next: a heap by when each is due. Who was looked at goes behind
 * all that are due already, so they come by turns.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "cold/stores_state.h"

#define CAP_FIRST 16U

void queue_init(struct queue *queue)
{
	lock_init(&queue->lock, LOCK_RANK_MOVES);
	lock_cond_init(&queue->work);
}

void queue_fini(struct queue *queue)
{
	pthread_cond_destroy(&queue->work);
	lock_fini(&queue->lock);
	free(queue->heap);
}

/* ---- the heap; under the lock ---- */

static void put_at(struct queue *queue, size_t at, struct home *home)
{
	queue->heap[at] = home;
	home->position = at;
}

static void rise(struct queue *queue, struct home *home)
{
	size_t at = home->position;

	while (at && queue->heap[(at - 1) / 2]->due_ns > home->due_ns) {
		put_at(queue, at, queue->heap[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	put_at(queue, at, home);
}

static void sink(struct queue *queue, struct home *home)
{
	size_t at = home->position, below;

	while ((below = 2 * at + 1) < queue->count) {
		if (below + 1 < queue->count && queue->heap[below + 1]->due_ns < queue->heap[below]->due_ns)
			below++;
		if (queue->heap[below]->due_ns >= home->due_ns)
			break;
		put_at(queue, at, queue->heap[below]);
		at = below;
	}
	put_at(queue, at, home);
}

static void take_out(struct queue *queue, struct home *home)
{
	struct home *last = queue->heap[--queue->count];
	size_t at = home->position;

	home->position = QUEUE_NONE;
	if (last == home)
		return;
	put_at(queue, at, last);
	rise(queue, last);
	sink(queue, last);
}

/* ---- what is in it ---- */

int queue_add_home(struct queue *queue)
{
	LOCK_SCOPE(&queue->lock);
	if (queue->homes == queue->cap) {
		size_t cap = queue->cap ? 2 * queue->cap : CAP_FIRST;
		struct home **heap = reallocarray(queue->heap, cap, sizeof(struct home *));

		if (!heap)
			return -ENOMEM;
		queue->heap = heap;
		queue->cap = cap;
	}
	queue->homes++;
	return 0;
}

void queue_drop_home(struct queue *queue, struct home *home)
{
	LOCK_SCOPE(&queue->lock);
	if (home->position != QUEUE_NONE)
		take_out(queue, home);
	queue->homes--;
}

void queue_push(struct queue *queue, struct home *home, uint64_t due_ns)
{
	LOCK_SCOPE(&queue->lock);
	if (home->position == QUEUE_NONE) {
		home->due_ns = due_ns;
		put_at(queue, queue->count++, home);
	} else if (due_ns < home->due_ns) {
		home->due_ns = due_ns;
	}
	rise(queue, home);
	if (queue->heap[0] == home)
		pthread_cond_signal(&queue->work);
}

struct home *queue_pop(struct queue *queue)
{
	struct home *home;

	LOCK_SCOPE(&queue->lock);
	home = queue->count ? queue->heap[0] : NULL;
	if (!home || home->due_ns > clock_ns())
		return NULL;
	take_out(queue, home);
	return home;
}

bool queue_wait(struct queue *queue)
{
	LOCK_SCOPE(&queue->lock);
	while (!queue->stop) {
		if (!queue->count)
			lock_wait(&queue->lock, &queue->work);
		else if (queue->heap[0]->due_ns <= clock_ns())
			return true;
		else
			lock_wait_until(&queue->lock, &queue->work, queue->heap[0]->due_ns);
	}
	return false;
}

void queue_stop(struct queue *queue, bool stop)
{
	LOCK_SCOPE(&queue->lock);
	queue->stop = stop;
	pthread_cond_signal(&queue->work);
}
