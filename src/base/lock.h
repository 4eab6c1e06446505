/* base/lock.h - mutexes with a rank. The enum below is the lock order of the whole daemon.
 *
 * A thread may take a lock only if its rank is greater than that of every lock it holds; debug builds assert it (a
 * small per-thread stack). No lock is held across I/O, a reply to the kernel or a message to a mapper.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

enum lock_rank {
	LOCK_RANK_NAMESPACE = 1, /* names/names: inodes and directories */
	LOCK_RANK_CONTROL,       /* front/control: connections and jobs */
	LOCK_RANK_ATTACH,        /* map/attached: connections and mappings */
	LOCK_RANK_RECLAIM,       /* policy/reclaim: what is demoted next */
	LOCK_RANK_ENGINE,        /* engine/engine: list of RAM files */
	LOCK_RANK_FILE,          /* engine/file: block table of one file; two are never held together */
	LOCK_RANK_MAPPERS,       /* engine/file: the mappers of one file */
	LOCK_RANK_MAPPING,       /* map/mapping: addresses and zaps of one mapping */
	LOCK_RANK_PEERS,         /* map/peers: processes, and who is in them */
	LOCK_RANK_DUES,          /* engine/due: when which file is scanned */
	LOCK_RANK_BUDGET,        /* mem/budget, and the waiters for room */
	LOCK_RANK_TENANTS,       /* engine/tenant: who is charged for what */
	LOCK_RANK_STORE,         /* cold: segments, buffers, warm */
	LOCK_RANK_MOVES,         /* cold/stores: which file moves next */
	LOCK_RANK_LOOP,          /* base/loop */
	LOCK_RANK_TOKEN,         /* pool/token */
	LOCK_RANK_WORK,          /* engine/work */
	LOCK_RANK_STATS,
};

struct lock {
	pthread_mutex_t mutex;
	_Atomic unsigned int waiters; /* threads that found it taken */
	enum lock_rank rank;
};

void lock_init(struct lock *lock, enum lock_rank rank);
void lock_fini(struct lock *lock);
void lock_get(struct lock *lock);
void lock_put(struct lock *lock);

/* If somebody waits for it lets him have it, and takes it again: for who needs it for long, in pieces. Who just put a
 * mutex is faster than those it wakes, so there is a pause then. */
void lock_pass(struct lock *lock);

/* Condition variables on CLOCK_MONOTONIC. lock_wait_until() returns 0 or -ETIMEDOUT; deadline_ns as of clock_ns(). */
void lock_cond_init(pthread_cond_t *cond);
void lock_wait(struct lock *lock, pthread_cond_t *cond);
int lock_wait_until(struct lock *lock, pthread_cond_t *cond, uint64_t deadline_ns);

static inline void lock_putp(struct lock **lock)
{
	if (*lock)
		lock_put(*lock);
}

/* Holds the lock until the end of the scope. */
#define LOCK_SCOPE_NAME_(line) lock_scope_##line
#define LOCK_SCOPE_NAME(line) LOCK_SCOPE_NAME_(line)
#define LOCK_SCOPE(l) \
	__attribute__((cleanup(lock_putp), unused)) struct lock *LOCK_SCOPE_NAME(__LINE__) = (lock_get(l), (l))
