/* map/peers.c - see peers.h.
 *
 * The watch looks at the threads that entered while there are any, and sleeps else; who enters wakes it. What a thread
 * leaves for the watch is one number: when it entered, with a bit that the watch sets when it is late. Threads of every
 * kind are added when some are late and never ended: those that come back are the reserve for the next time.
 */
#include "map/peers.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <unistd.h>
#include <uthash.h>

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/thread.h"

#define TICK_NS (PEERS_LATE_NS / 2)
#define LATE_BIT UINT64_C(1)
#define ARMS_MAX 256U
/* Who needs more than this for a call is slow. */
#define SLOW_NS (20 * NS_PER_MS)
/* Slow calls of a process are refused when they have cost this much, which is forgiven at this rate. */
#define DEBT_MAX_NS (100 * NS_PER_MS)
#define DEBT_DIVISOR 20

struct peer {
	struct peers *peers;
	pid_t pid;
	_Atomic int pidfd;           /* -1: none */
	unsigned int refs;           /* under lock */
	_Atomic unsigned int stalls; /* late calls; changed under lock */
	uint64_t debt_ns, judged_ns; /* under lock */
	UT_hash_handle hh;
};

/* A thread that may enter a process. */
struct entrant {
	struct peers *peers;
	pthread_t thread;
	struct peer *peer;      /* written by the thread while it is outside */
	_Atomic uint64_t since; /* 0: outside */
	peers_replace_fn *replace;
	void *arg;
	SLIST_ENTRY(entrant) link;
};

struct job {
	TAILQ_ENTRY(job) link;
	struct peer *peer;
	struct peer_errand *errand;
	bool done, late;
	int err;
	uint64_t took_ns;
	pthread_cond_t finished;
	unsigned int refs; /* the caller's and the arm's */
};

struct peers {
	peers_recovered_fn *recovered;
	void *arg;
	struct lock lock;
	struct peer *peer;           /* under lock: uthash, by pid */
	SLIST_HEAD(, entrant) first; /* under lock */
	TAILQ_HEAD(, job) jobs;      /* under lock */
	pthread_cond_t work;         /* a job came */
	unsigned int arms, idle;     /* under lock */
	pthread_t arm[ARMS_MAX];     /* under lock */
	pthread_cond_t entered;
	_Atomic bool asleep; /* the watch */
	bool stopping;       /* under lock */
	bool watch_runs;
	pthread_t watch;
};

static _Thread_local struct entrant *entrant;

/* --- peers -------------------------------------------------------------------------------------------------- */

/* Under lock. Of a process that has ended, whose number is another's by now, the descriptor becomes the other's: by the
 * same number, as it may be in use. */
static int take_pidfd(struct peer *peer, int pidfd)
{
	struct pollfd ended = { .fd = peer->pidfd, .events = POLLIN };
	int fd;

	if (pidfd < 0 || (peer->pidfd >= 0 && poll(&ended, 1, 0) == 0))
		return 0;
	fd = peer->pidfd < 0 ? fcntl(pidfd, F_DUPFD_CLOEXEC, 0) : dup3(pidfd, peer->pidfd, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	peer->pidfd = fd;
	return 0;
}

int peers_get(struct peers *peers, pid_t pid, int pidfd, struct peer **ret)
{
	struct peer *peer;
	int err;

	LOCK_SCOPE(&peers->lock);
	HASH_FIND(hh, peers->peer, &pid, sizeof(pid), peer);
	if (!peer) {
		peer = calloc(1, sizeof(*peer));
		if (!peer)
			return -ENOMEM;
		peer->peers = peers;
		peer->pid = pid;
		peer->pidfd = -1;
		HASH_ADD(hh, peers->peer, pid, sizeof(pid), peer);
		if (!peer->hh.tbl) {
			free(peer);
			return -ENOMEM;
		}
	}
	err = take_pidfd(peer, pidfd);
	if (err) {
		if (!peer->refs) {
			HASH_DEL(peers->peer, peer);
			free(peer);
		}
		return err;
	}
	peer->refs++;
	*ret = peer;
	return 0;
}

int peer_pidfd(const struct peer *peer)
{
	return atomic_load(&peer->pidfd);
}

void peers_put(struct peer *peer)
{
	struct peers *peers = peer ? peer->peers : NULL;

	if (!peer)
		return;
	LOCK_SCOPE(&peers->lock);
	if (--peer->refs)
		return;
	HASH_DEL(peers->peer, peer);
	if (peer->pidfd >= 0)
		close(peer->pidfd);
	free(peer);
}

bool peer_stalled(const struct peer *peer)
{
	return atomic_load(&peer->stalls) > 0;
}

/* Under lock. */
static void stall(struct peer *peer)
{
	if (atomic_fetch_add(&peer->stalls, 1) == 0)
		log_warn("process %d keeps its address space locked: its memory stays resident until it lets go",
			 (int)peer->pid);
}

static void unstall(struct peer *peer)
{
	struct peers *peers = peer->peers;

	if (atomic_fetch_sub(&peer->stalls, 1) == 1)
		peers->recovered(peers->arg, peer);
}

/* --- who enters --------------------------------------------------------------------------------------------- */

int peers_enlist(struct peers *peers, peers_replace_fn *replace, void *arg)
{
	struct entrant *fresh;
	sigset_t kick;

	if (peers_enlisted(peers))
		return 0;
	fresh = calloc(1, sizeof(*fresh));
	if (!fresh)
		return -ENOMEM;
	*fresh = (struct entrant){ .peers = peers, .thread = pthread_self(), .replace = replace, .arg = arg };
	sigemptyset(&kick);
	sigaddset(&kick, SIGURG);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	lock_get(&peers->lock);
	SLIST_INSERT_HEAD(&peers->first, fresh, link);
	lock_put(&peers->lock);
	entrant = fresh;
	return 0;
}

bool peers_enlisted(const struct peers *peers)
{
	return entrant && entrant->peers == peers;
}

static void wake_watch(struct peers *peers)
{
	LOCK_SCOPE(&peers->lock);

	atomic_store(&peers->asleep, false);
	pthread_cond_signal(&peers->entered);
}

bool peer_enter(struct peer *peer)
{
	if (peer_stalled(peer))
		return false;
	entrant->peer = peer;
	atomic_store(&entrant->since, clock_ns() & ~LATE_BIT);
	if (atomic_load(&peer->peers->asleep))
		wake_watch(peer->peers);
	return true;
}

void peer_leave(struct peer *peer)
{
	if (!(atomic_exchange(&entrant->since, 0) & LATE_BIT))
		return;
	if (entrant->replace)
		entrant->replace(entrant->arg, false);
	/* The watch counts under the lock what it marked. */
	lock_get(&peer->peers->lock);
	lock_put(&peer->peers->lock);
	unstall(peer);
}

/* --- the watch ---------------------------------------------------------------------------------------------- */

/* What it needs of an entrant once the lock is dropped. */
struct replacement {
	peers_replace_fn *replace;
	void *arg;
};

#define REPLACED_MAX 64

/* Under lock: marks who is late. Returns false if nobody is inside. */
static bool look(struct peers *peers, struct replacement *replacement, unsigned int *ret_count)
{
	uint64_t now_ns = clock_ns();
	struct entrant *each;
	bool busy = false;

	SLIST_FOREACH(each, &peers->first, link) {
		uint64_t since = atomic_load(&each->since);

		if (!since)
			continue;
		busy = true;
		/* Only a read of events sleeps so that a signal ends it (map/uffd.h). */
		if (since & LATE_BIT)
			pthread_kill(each->thread, SIGURG);
		else if (now_ns > since + PEERS_LATE_NS && *ret_count < REPLACED_MAX &&
			 atomic_compare_exchange_strong(&each->since, &since, since | LATE_BIT)) {
			stall(each->peer);
			replacement[(*ret_count)++] = (struct replacement){ each->replace, each->arg };
		}
	}
	return busy;
}

static void *watch_main(void *arg)
{
	struct peers *peers = arg;
	struct replacement replacement[REPLACED_MAX];

	lock_get(&peers->lock);
	while (!peers->stopping) {
		unsigned int count = 0;

		if (look(peers, replacement, &count)) {
			lock_put(&peers->lock);
			for (unsigned int i = 0; i < count; i++)
				if (replacement[i].replace)
					replacement[i].replace(replacement[i].arg, true);
			lock_get(&peers->lock);
			if (!peers->stopping)
				lock_wait_until(&peers->lock, &peers->entered, clock_ns() + TICK_NS);
			continue;
		}
		/* Who enters after the second look sees that it sleeps. */
		if (!atomic_exchange(&peers->asleep, true))
			continue;
		while (atomic_load(&peers->asleep) && !peers->stopping)
			lock_wait(&peers->lock, &peers->entered);
	}
	lock_put(&peers->lock);
	return NULL;
}

/* --- arms --------------------------------------------------------------------------------------------------- */

/* Under lock. */
static void job_unref(struct job *job)
{
	if (--job->refs)
		return;
	pthread_cond_destroy(&job->finished);
	free(job);
}

static void *arm_main(void *arg)
{
	struct peers *peers = arg;

	/* A process would be blamed for what an arm waits for a processor. Its slice would be that of whoever raised
	 * it, and the demoter's is as long as PEERS_LATE_NS. */
	thread_set_urgent();
	lock_get(&peers->lock);
	while (!peers->stopping) {
		struct job *job = TAILQ_FIRST(&peers->jobs);
		uint64_t began_ns;
		int err;

		if (!job) {
			peers->idle++;
			lock_wait(&peers->lock, &peers->work);
			peers->idle--;
			continue;
		}
		TAILQ_REMOVE(&peers->jobs, job, link);
		lock_put(&peers->lock);
		began_ns = clock_ns();
		err = job->errand->go(job->errand);
		lock_get(&peers->lock);
		job->took_ns = clock_ns() - began_ns;
		job->err = err;
		job->done = true;
		if (job->late) {
			lock_put(&peers->lock);
			job->errand->late(job->errand);
			unstall(job->peer);
			peers_put(job->peer);
			lock_get(&peers->lock);
		}
		pthread_cond_signal(&job->finished);
		job_unref(job);
	}
	lock_put(&peers->lock);
	return NULL;
}

/* Under lock: there is an arm for the job. */
static int raise_arm(struct peers *peers)
{
	unsigned int waiting = 0;
	struct job *job;
	int err;

	TAILQ_FOREACH(job, &peers->jobs, link)
		waiting++;
	if (peers->idle > waiting || peers->arms == ARMS_MAX)
		return peers->idle > waiting ? 0 : -EAGAIN;
	err = -pthread_create(&peers->arm[peers->arms], NULL, arm_main, peers);
	if (!err)
		pthread_setname_np(peers->arm[peers->arms++], "tierfs-arm");
	return err;
}

/* Under lock: whether the process may have another call. */
static bool may_call(struct peer *peer)
{
	uint64_t now_ns = clock_ns(), forgiven_ns = (now_ns - peer->judged_ns) / DEBT_DIVISOR;

	peer->judged_ns = now_ns;
	peer->debt_ns -= forgiven_ns < peer->debt_ns ? forgiven_ns : peer->debt_ns;
	return !peer_stalled(peer) && peer->debt_ns < DEBT_MAX_NS;
}

/* Under lock, which is dropped meanwhile. */
static int wait_for(struct peers *peers, struct job *job)
{
	uint64_t deadline_ns = clock_ns() + PEERS_LATE_NS;

	while (!job->done)
		if (lock_wait_until(&peers->lock, &job->finished, deadline_ns) && !job->done) {
			job->late = true;
			job->peer->debt_ns += PEERS_LATE_NS;
			job->peer->refs++;
			stall(job->peer);
			return -ETIMEDOUT;
		}
	if (job->took_ns > SLOW_NS)
		job->peer->debt_ns += job->took_ns;
	return job->err;
}

int peer_call(struct peer *peer, struct peer_errand *errand)
{
	struct peers *peers = peer->peers;
	struct job *job;
	int err;

	if (peer_stalled(peer))
		return -EBUSY;
	job = calloc(1, sizeof(*job));
	if (!job)
		return -EBUSY;
	*job = (struct job){ .peer = peer, .errand = errand, .refs = 2 };
	lock_cond_init(&job->finished);
	lock_get(&peers->lock);
	if (!may_call(peer) || raise_arm(peers)) {
		job->refs = 1;
		err = -EBUSY;
	} else {
		TAILQ_INSERT_TAIL(&peers->jobs, job, link);
		pthread_cond_signal(&peers->work);
		err = wait_for(peers, job);
	}
	job_unref(job);
	lock_put(&peers->lock);
	return err;
}

/* --- life --------------------------------------------------------------------------------------------------- */

static void on_kick(int signal)
{
	(void)signal;
}

int peers_new(peers_recovered_fn *recovered, void *arg, struct peers **ret)
{
	struct peers *peers = calloc(1, sizeof(*peers));
	struct sigaction kick = { .sa_handler = on_kick };
	int err;

	if (!peers)
		return -ENOMEM;
	peers->recovered = recovered;
	peers->arg = arg;
	lock_init(&peers->lock, LOCK_RANK_PEERS);
	lock_cond_init(&peers->work);
	lock_cond_init(&peers->entered);
	SLIST_INIT(&peers->first);
	TAILQ_INIT(&peers->jobs);
	err = sigaction(SIGURG, &kick, NULL) < 0 ? -errno : 0;
	if (!err)
		err = -pthread_create(&peers->watch, NULL, watch_main, peers);
	if (err) {
		peers_free(peers);
		return err;
	}
	peers->watch_runs = true;
	pthread_setname_np(peers->watch, "tierfs-watch");
	*ret = peers;
	return 0;
}

void peers_free(struct peers *peers)
{
	struct entrant *each;

	if (!peers)
		return;
	lock_get(&peers->lock);
	peers->stopping = true;
	pthread_cond_broadcast(&peers->work);
	pthread_cond_broadcast(&peers->entered);
	lock_put(&peers->lock);
	if (peers->watch_runs)
		pthread_join(peers->watch, NULL);
	for (unsigned int i = 0; i < peers->arms; i++)
		pthread_join(peers->arm[i], NULL);
	while ((each = SLIST_FIRST(&peers->first))) {
		SLIST_REMOVE_HEAD(&peers->first, link);
		free(each);
	}
	pthread_cond_destroy(&peers->work);
	pthread_cond_destroy(&peers->entered);
	lock_fini(&peers->lock);
	free(peers);
}
