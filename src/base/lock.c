/* base/lock.c - ranked mutexes.
 *
 * In debug builds every thread keeps a stack of the locks that it holds, in the order of taking. Ranks grow along it,
 * so the check of a new lock looks at the top alone. Locks may be released in any order. A wait on a condition takes
 * its lock off the stack, since waking up is taking it again.
 */
#include "base/lock.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

#define PASS_NS 20000

#ifdef TIERFS_DEBUG

#define HELD_MAX 16

static _Thread_local struct lock *held[HELD_MAX];
static _Thread_local unsigned int held_count;

static _Noreturn void lock_bug(const char *what, const struct lock *lock)
{
	fprintf(stderr, "tierfs: lock of rank %d %s (held:", (int)lock->rank, what);
	for (unsigned int i = 0; i < held_count; i++)
		fprintf(stderr, " %d", (int)held[i]->rank);
	fprintf(stderr, ")\n");
	abort();
}

static void held_check(const struct lock *lock)
{
	if (held_count == HELD_MAX)
		lock_bug("taken with too many locks held", lock);
	if (held_count && held[held_count - 1]->rank >= lock->rank)
		lock_bug("taken out of order", lock);
}

static void held_push(struct lock *lock)
{
	held[held_count++] = lock;
}

static void held_pop(const struct lock *lock)
{
	unsigned int i = held_count;

	while (i && held[i - 1] != lock)
		i--;
	if (!i)
		lock_bug("released but not held", lock);
	for (; i < held_count; i++)
		held[i - 1] = held[i];
	held_count--;
}

/* The lock must be on top: one that was taken after it would be held across the wait. */
static void held_check_wait(const struct lock *lock)
{
	if (!held_count || held[held_count - 1] != lock)
		lock_bug("waited for without being the last one taken", lock);
}

#else

static inline void held_check(const struct lock *lock)
{
	(void)lock;
}

static inline void held_push(struct lock *lock)
{
	(void)lock;
}

static inline void held_pop(const struct lock *lock)
{
	(void)lock;
}

static inline void held_check_wait(const struct lock *lock)
{
	(void)lock;
}

#endif

/* These calls fail only when memory was overwritten or a lock is used wrongly; going on would lose data. */
static void must(int error, const char *what)
{
	if (!error)
		return;
	fprintf(stderr, "tierfs: %s failed with error %d\n", what, error);
	abort();
}

void lock_init(struct lock *lock, enum lock_rank rank)
{
	must(pthread_mutex_init(&lock->mutex, NULL), "pthread_mutex_init");
	atomic_init(&lock->waiters, 0);
	lock->rank = rank;
}

void lock_fini(struct lock *lock)
{
	must(pthread_mutex_destroy(&lock->mutex), "pthread_mutex_destroy");
}

void lock_get(struct lock *lock)
{
	int err;

	held_check(lock);
	err = pthread_mutex_trylock(&lock->mutex);
	if (err == EBUSY) {
		atomic_fetch_add(&lock->waiters, 1);
		err = pthread_mutex_lock(&lock->mutex);
		atomic_fetch_sub(&lock->waiters, 1);
	}
	must(err, "pthread_mutex_lock");
	held_push(lock);
}

void lock_put(struct lock *lock)
{
	held_pop(lock);
	must(pthread_mutex_unlock(&lock->mutex), "pthread_mutex_unlock");
}

void lock_pass(struct lock *lock)
{
	if (!atomic_load(&lock->waiters))
		return;
	lock_put(lock);
	clock_sleep(PASS_NS);
	lock_get(lock);
}

void lock_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	must(pthread_condattr_init(&attr), "pthread_condattr_init");
	must(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC), "pthread_condattr_setclock");
	must(pthread_cond_init(cond, &attr), "pthread_cond_init");
	must(pthread_condattr_destroy(&attr), "pthread_condattr_destroy");
}

void lock_wait(struct lock *lock, pthread_cond_t *cond)
{
	held_check_wait(lock);
	held_pop(lock);
	must(pthread_cond_wait(cond, &lock->mutex), "pthread_cond_wait");
	held_push(lock);
}

int lock_wait_until(struct lock *lock, pthread_cond_t *cond, uint64_t deadline_ns)
{
	struct timespec deadline = {
		.tv_sec = (time_t)(deadline_ns / NS_PER_S),
		.tv_nsec = (long)(deadline_ns % NS_PER_S),
	};
	int error;

	held_check_wait(lock);
	held_pop(lock);
	error = pthread_cond_timedwait(cond, &lock->mutex, &deadline);
	held_push(lock);
	if (error == ETIMEDOUT)
		return -ETIMEDOUT;
	must(error, "pthread_cond_timedwait");
	return 0;
}
