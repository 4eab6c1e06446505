#include "engine/crew.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <unistd.h>

#include "base/lock.h"

#define THREADS_MAX 8

/* On the stack of its caller, who stays until all pieces are done. */
struct job {
	TAILQ_ENTRY(job) link; /* while there are pieces that nobody has taken */
	crew_fn *fn;
	void *arg;
	unsigned int pieces, next, done;
	pthread_cond_t finished;
};

struct crew {
	struct lock lock;
	pthread_cond_t wakeup;
	TAILQ_HEAD(, job) jobs; /* under lock, and so are the next three */
	unsigned int callers;   /* in crew_run() */
	unsigned int idle;      /* helpers that wait */
	bool stopping;
	unsigned int cpus;    /* immutable */
	unsigned int threads; /* by who makes and frees it */
	pthread_t thread[THREADS_MAX];
};

/* Under lock, which is dropped meanwhile: the next piece of a job that has one. */
static void do_piece(struct crew *crew, struct job *job)
{
	unsigned int piece = job->next++;

	if (job->next == job->pieces)
		TAILQ_REMOVE(&crew->jobs, job, link);
	lock_put(&crew->lock);
	job->fn(job->arg, piece);
	lock_get(&crew->lock);
	if (++job->done == job->pieces)
		pthread_cond_signal(&job->finished);
}

static void *help(void *arg)
{
	struct crew *crew = arg;

	lock_get(&crew->lock);
	while (!crew->stopping) {
		struct job *job = TAILQ_FIRST(&crew->jobs);

		if (job) {
			do_piece(crew, job);
			continue;
		}
		crew->idle++;
		lock_wait(&crew->lock, &crew->wakeup);
		crew->idle--;
	}
	lock_put(&crew->lock);
	return NULL;
}

int crew_new(struct crew **ret)
{
	struct crew *crew = calloc(1, sizeof(*crew));
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int err = 0;

	if (!crew)
		return -ENOMEM;
	crew->cpus = cpus < 1 ? 1 : cpus > THREADS_MAX ? THREADS_MAX : (unsigned int)cpus;
	lock_init(&crew->lock, LOCK_RANK_WORK);
	lock_cond_init(&crew->wakeup);
	TAILQ_INIT(&crew->jobs);
	while (!err && crew->threads < crew->cpus) {
		err = -pthread_create(&crew->thread[crew->threads], NULL, help, crew);
		if (!err)
			pthread_setname_np(crew->thread[crew->threads++], "tierfs-crew");
	}
	if (err) {
		crew_free(crew);
		return err;
	}
	*ret = crew;
	return 0;
}

void crew_free(struct crew *crew)
{
	if (!crew)
		return;
	lock_get(&crew->lock);
	crew->stopping = true;
	pthread_cond_broadcast(&crew->wakeup);
	lock_put(&crew->lock);
	while (crew->threads)
		pthread_join(crew->thread[--crew->threads], NULL);
	pthread_cond_destroy(&crew->wakeup);
	lock_fini(&crew->lock);
	free(crew);
}

bool crew_spare(struct crew *crew)
{
	if (!crew)
		return false;
	LOCK_SCOPE(&crew->lock);
	return crew->callers + 1 < crew->cpus;
}

void crew_run(struct crew *crew, unsigned int pieces, crew_fn *fn, void *arg)
{
	struct job job = { .fn = fn, .arg = arg, .pieces = pieces };

	if (!crew || pieces < 2) {
		for (unsigned int i = 0; i < pieces; i++)
			fn(arg, i);
		return;
	}
	lock_cond_init(&job.finished);
	lock_get(&crew->lock);
	crew->callers++;
	TAILQ_INSERT_TAIL(&crew->jobs, &job, link);
	for (unsigned int i = 0; i + 1 < pieces && i < crew->idle; i++)
		pthread_cond_signal(&crew->wakeup);
	while (job.next < job.pieces)
		do_piece(crew, &job);
	while (job.done < job.pieces)
		lock_wait(&crew->lock, &job.finished);
	crew->callers--;
	lock_put(&crew->lock);
	pthread_cond_destroy(&job.finished);
}
