#include "engine/ahead.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/load.h"
#include "engine/mappers.h"
#include "engine/stages.h"

#define QUEUE_MAX 256
#define THREADS_MAX 8
/* With those that are late in a mapper. */
#define THREADS_LATE_MAX 128

struct piece {
	struct ramfile *file;
	struct mapper *mapper;
	uint64_t first, count; /* blocks */
};

struct ahead {
	struct lock lock;
	pthread_cond_t wakeup;
	struct piece queue[QUEUE_MAX]; /* under lock: a ring */
	unsigned int head, waiting;    /* under lock */
	bool stopping;                 /* under lock */
	unsigned int threads, wanted;  /* under lock */
	int late;                      /* under lock; may be below 0 for a moment */
	pthread_t thread[THREADS_LATE_MAX];
};

/* What is cold of the piece; the rest came otherwise meanwhile. */
static void bring_piece(const struct piece *piece)
{
	struct ramfile *file = piece->file;
	uint64_t start_ns = clock_ns(), end = piece->first + piece->count;
	uint64_t loaded;

	for (uint64_t block = piece->first; block < end && flow_may_ahead(file); block += loaded ? loaded : 1) {
		loaded = 0;
		if (load_run(file, piece->mapper, block, end - block, BUDGET_OPTIONAL, STORE_AHEAD, &loaded))
			break;
	}
	stage_end(engine_stages(file->engine), STAGE_AHEAD, file->ino, piece->first, start_ns);
}

static void *bring_pieces(void *arg)
{
	struct ahead *ahead = arg;

	lock_get(&ahead->lock);
	while (!ahead->stopping) {
		struct piece piece;

		if (!ahead->waiting) {
			lock_wait(&ahead->lock, &ahead->wakeup);
			continue;
		}
		piece = ahead->queue[ahead->head];
		ahead->head = (ahead->head + 1) % QUEUE_MAX;
		ahead->waiting--;
		lock_put(&ahead->lock);
		if (piece.file) {
			bring_piece(&piece);
			mappers_drop(piece.file, piece.mapper);
		}
		lock_get(&ahead->lock);
	}
	lock_put(&ahead->lock);
	return NULL;
}

/* Under lock. */
static int start_thread(struct ahead *ahead)
{
	int err = -pthread_create(&ahead->thread[ahead->threads], NULL, bring_pieces, ahead);

	if (!err)
		pthread_setname_np(ahead->thread[ahead->threads++], "tierfs-ahead");
	return err;
}

int ahead_new(struct ahead **ret)
{
	struct ahead *ahead = calloc(1, sizeof(*ahead));
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int err = 0;

	if (!ahead)
		return -ENOMEM;
	lock_init(&ahead->lock, LOCK_RANK_BUDGET);
	lock_cond_init(&ahead->wakeup);
	ahead->wanted = cpus < 1 ? 2 : cpus >= THREADS_MAX ? THREADS_MAX : (unsigned int)cpus + 1;
	lock_get(&ahead->lock);
	while (!err && ahead->threads < ahead->wanted)
		err = start_thread(ahead);
	lock_put(&ahead->lock);
	if (err) {
		ahead_free(ahead);
		return err;
	}
	*ret = ahead;
	return 0;
}

void ahead_late(struct ahead *ahead, bool late)
{
	if (!ahead)
		return;
	LOCK_SCOPE(&ahead->lock);
	ahead->late += late ? 1 : -1;
	if (!ahead->stopping && (int)ahead->threads - ahead->late < (int)ahead->wanted &&
	    ahead->threads < THREADS_LATE_MAX)
		start_thread(ahead); /* without it there is less read-ahead */
}

void ahead_free(struct ahead *ahead)
{
	if (!ahead)
		return;
	lock_get(&ahead->lock);
	ahead->stopping = true;
	pthread_cond_broadcast(&ahead->wakeup);
	lock_put(&ahead->lock);
	while (ahead->threads)
		pthread_join(ahead->thread[--ahead->threads], NULL);
	pthread_cond_destroy(&ahead->wakeup);
	lock_fini(&ahead->lock);
	free(ahead);
}

static bool enqueue(struct ahead *ahead, const struct piece *piece)
{
	LOCK_SCOPE(&ahead->lock);

	if (ahead->waiting == QUEUE_MAX)
		return false;
	ahead->queue[(ahead->head + ahead->waiting++) % QUEUE_MAX] = *piece;
	pthread_cond_signal(&ahead->wakeup);
	return true;
}

void ahead_bring(struct ahead *ahead, struct ramfile *file, struct mapper *mapper, uint64_t first, uint64_t count)
{
	uint64_t most = load_run_blocks(file);

	for (uint64_t done = 0; done < count; done += most) {
		struct piece piece = { file, mapper, first + done, count - done < most ? count - done : most };

		if (!ahead) {
			bring_piece(&piece);
			continue;
		}
		if (!mappers_hold(file, mapper))
			return;
		if (!enqueue(ahead, &piece)) {
			mappers_drop(file, mapper);
			return;
		}
	}
}

void ahead_forget(struct ahead *ahead, struct mapper *mapper)
{
	struct ramfile *file = NULL;
	unsigned int forgotten = 0;

	if (!ahead)
		return;
	lock_get(&ahead->lock);
	for (unsigned int i = 0; i < ahead->waiting; i++) {
		struct piece *piece = &ahead->queue[(ahead->head + i) % QUEUE_MAX];

		if (piece->file && piece->mapper == mapper) {
			file = piece->file;
			piece->file = NULL;
			forgotten++;
		}
	}
	lock_put(&ahead->lock);
	while (forgotten--)
		mappers_drop(file, mapper);
}
