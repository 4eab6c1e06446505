/* client/client_agent.c - see client_agent.h.
 *
 * The threads never touch attached memory: they would wait for themselves.
 *
 * A child of fork() has neither the threads nor the memory. A page that the kernel empties in children tells it so, at
 * its first use of the library: it begins anew. There is nothing to hook into fork() for, and children made by other
 * ways than libc's are found, too.
 *
 * Where a private table cannot be had, because of a filter that was there before the threads, nothing is attached: what
 * the program closes would be lost without a word.
 */
#include "client/client_agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/client_filter.h"
#include "client/client_range.h"
#include "client/client_sys.h"
#include "client/client_zap.h"
#include "wire/wire.h"

#define STACK_BYTES (256 * 1024)
#define PACKETS_A_TURN 16
#define PIDFD_THREAD O_EXCL /* Linux 6.9 */

/* The preload library meets programs with older libcs than the one it was built with: names as these have them. */
#ifdef TIERFS_PRELOAD
#ifdef __x86_64__
#define OLDEST "GLIBC_2.2.5"
#else
#define OLDEST "GLIBC_2.17"
#endif
__asm__(".symver pthread_create,pthread_create@" OLDEST);
__asm__(".symver pthread_detach,pthread_detach@" OLDEST);
__asm__(".symver pthread_join,pthread_join@" OLDEST);
__asm__(".symver pthread_attr_setstacksize,pthread_attr_setstacksize@" OLDEST);
#endif

/* What the hand is asked to do; on the stack of the thread that waits. */
struct errand {
	int (*run)(void *arg);
	void *arg;
	TAILQ_ENTRY(errand) link;
	int err;
	uint32_t done; /* futex */
};

enum life { LIFE_FORKED = 0, LIFE_STARTING_ANEW, LIFE_GOES_ON };

static pthread_mutex_t agent_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER; /* before agent_lock */
static uint32_t *_Atomic life;                                 /* enum life; zero in children */

static struct {
	bool running;                            /* start_lock */
	uint32_t started;                        /* futex: the threads are there, or start_error says why not */
	int start_error;                         /* written before started */
	int wake_fd;                             /* wakes the agent; written before started */
	int program_fd;                          /* the process, of which descriptors are taken */
	uint32_t post;                           /* futex: counts what the post is to look at */
	uint32_t posted;                         /* futex: as far as it has looked; agent_lock */
	uint32_t errand;                         /* futex: counts errands */
	_Atomic bool gives_up;                   /* not all threads could be made: the post ends, too */
	TAILQ_HEAD(errand_list, errand) errands; /* agent_lock */
} agent = { .wake_fd = -1, .program_fd = -1, .errands = TAILQ_HEAD_INITIALIZER(agent.errands) };

/* --- waiting and waking ----------------------------------------------------------------------------------------- */

static void futex_wait(uint32_t *word, uint32_t seen)
{
	client_sys(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL);
}

static void futex_raise(uint32_t *word)
{
	__atomic_add_fetch(word, 1, __ATOMIC_RELEASE);
	client_sys(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

/* All but those that libc uses among its threads, as pthread_sigmask() does. */
static void block_signals(uint64_t *ret_old)
{
	uint64_t libc = ((uint64_t)1 << (SIGRTMIN - 32)) - 1, all = ~(libc << 31);

	client_sys(SYS_rt_sigprocmask, SIG_SETMASK, &all, ret_old, sizeof(all));
}

static void restore_signals(const uint64_t *old)
{
	client_sys(SYS_rt_sigprocmask, SIG_SETMASK, old, NULL, sizeof(*old));
}

/* --- a child of fork() ------------------------------------------------------------------------------------------ */

static void begin_anew(void)
{
	client_filter_inherit();
	client_conn_forget();
	client_range_forget();
	client_zap_forget();
	agent.wake_fd = agent.program_fd = -1;
	agent.running = false;
	agent.started = agent.posted = agent.post = 0;
	TAILQ_INIT(&agent.errands);
	pthread_mutex_init(&agent_lock, NULL);
	pthread_mutex_init(&start_lock, NULL);
}

/* Before any lock is taken: a parent's thread that is not here may hold it. */
static void check_life(void)
{
	uint32_t *word = atomic_load(&life), expected = LIFE_FORKED;

	if (!word || __atomic_load_n(word, __ATOMIC_ACQUIRE) == LIFE_GOES_ON)
		return;
	if (__atomic_compare_exchange_n(word, &expected, LIFE_STARTING_ANEW, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE)) {
		begin_anew();
		__atomic_store_n(word, LIFE_GOES_ON, __ATOMIC_RELEASE);
		client_sys(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX);
		return;
	}
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == LIFE_STARTING_ANEW)
		futex_wait(word, LIFE_STARTING_ANEW);
}

/* Under start_lock. */
static int make_life(void)
{
	long page;
	long err;

	if (atomic_load(&life))
		return 0;
	page = client_sys(SYS_mmap, NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page < 0 && page > -4096)
		return (int)page;
	err = client_sys(SYS_madvise, page, 4096, MADV_WIPEONFORK);
	if (err < 0) {
		client_sys(SYS_munmap, page, 4096);
		return (int)err;
	}
	*(uint32_t *)page = LIFE_GOES_ON;
	atomic_store(&life, (uint32_t *)page);
	return 0;
}

/* --- the lock -------------------------------------------------------------------------------------------------- */

void client_agent_enter(struct client_agent_guard *guard)
{
	check_life();
	block_signals(&guard->signals);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &guard->cancel_state);
	pthread_mutex_lock(&agent_lock);
}

void client_agent_leave(struct client_agent_guard *guard)
{
	pthread_mutex_unlock(&agent_lock);
	restore_signals(&guard->signals);
	pthread_setcancelstate(guard->cancel_state, NULL);
}

/* Sleeps without the lock, with the caller's own signal mask, until *word is not seen any more. */
static void sleep_on(struct client_agent_guard *guard, uint32_t *word, uint32_t seen)
{
	pthread_mutex_unlock(&agent_lock);
	restore_signals(&guard->signals);
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == seen)
		futex_wait(word, seen);
	block_signals(&guard->signals);
	pthread_mutex_lock(&agent_lock);
}

void client_agent_wait(struct client_agent_guard *guard, struct client_conn *conn)
{
	sleep_on(guard, &conn->generation, conn->generation);
}

int client_agent_call(struct client_agent_guard *guard, struct client_conn *conn, struct client_call *call)
{
	if (client_conn_start_call(conn, call)) {
		futex_raise(&agent.post);
		sleep_on(guard, &call->done, 0);
	}
	return call->err;
}

void client_agent_reap(struct client_agent_guard *guard)
{
	uint32_t wanted;

	if (!client_range_has_dropped())
		return;
	futex_raise(&agent.post);
	wanted = __atomic_load_n(&agent.post, __ATOMIC_ACQUIRE);
	while ((int32_t)(agent.posted - wanted) < 0)
		sleep_on(guard, &agent.posted, agent.posted);
}

/* --- the agent -------------------------------------------------------------------------------------------------- */

/* Reads what is there, a few packets at most so that others have their turn. */
static void read_packets(struct client_conn *conn)
{
	static struct wire_packet packet; /* the thread's own: it has a small stack */
	int fd = conn->fd;

	for (int i = 0; i < PACKETS_A_TURN && conn->fd == fd && fd >= 0; i++) {
		int err = wire_recv(fd, &packet);

		if (err == -EAGAIN)
			return;
		for (int j = 0; j < packet.fd_count; j++)
			packet.fds[j] = wire_raise_fd(packet.fds[j]);
		pthread_mutex_lock(&agent_lock);
		if (err)
			client_conn_fail(conn, err == -EPROTO ? -EBADMSG : -ENOTCONN);
		else
			client_conn_on_packet(conn, &packet);
		pthread_mutex_unlock(&agent_lock);
		wire_close_fds(&packet);
	}
}

/* What time brings; fills in what to wait for, and returns for how long in ms (-1: for ever). */
static int step(struct pollfd polls[CLIENT_CONN_MAX])
{
	uint64_t now_ns = clock_ns(), next_ns = UINT64_MAX;

	pthread_mutex_lock(&agent_lock);
	for (int i = 0; i < CLIENT_CONN_MAX; i++) {
		struct client_conn *conn = &client_conns[i];

		client_conn_step(conn, now_ns);
		if (conn->state != CLIENT_CONN_FREE && conn->when_ns && conn->when_ns < next_ns)
			next_ns = conn->when_ns;
		polls[i].fd = conn->state == CLIENT_CONN_FREE ? -1 : conn->fd;
		polls[i].events = (short)(POLLIN | (conn->want_out ? POLLOUT : 0));
	}
	pthread_mutex_unlock(&agent_lock);
	if (next_ns == UINT64_MAX)
		return -1;
	return next_ns > now_ns ? (int)((next_ns - now_ns) / NS_PER_MS) + 1 : 0;
}

static void serve(void)
{
	struct pollfd polls[CLIENT_CONN_MAX + 1];
	uint64_t events;
	int timeout_ms = step(polls);

	polls[CLIENT_CONN_MAX] = (struct pollfd){ .fd = agent.wake_fd, .events = POLLIN };
	if (poll(polls, CLIENT_CONN_MAX + 1, timeout_ms) <= 0)
		return;
	if (polls[CLIENT_CONN_MAX].revents && read(agent.wake_fd, &events, sizeof(events)) < 0)
		return;
	for (int i = 0; i < CLIENT_CONN_MAX; i++) {
		if (polls[i].fd < 0 || !polls[i].revents)
			continue;
		if (polls[i].revents & POLLOUT) {
			pthread_mutex_lock(&agent_lock);
			client_conn_flush(&client_conns[i]);
			pthread_mutex_unlock(&agent_lock);
		}
		read_packets(&client_conns[i]);
	}
}

/* --- the post --------------------------------------------------------------------------------------------------- */

static void wake_agent(void)
{
	uint64_t one = 1;

	while (write(agent.wake_fd, &one, sizeof(one)) < 0)
		if (errno == EAGAIN)
			return; /* it is full: the thread is about to wake anyway */
}

static void close_dropped(void)
{
	int fds[CLIENT_RANGE_FDS];
	bool more;

	do {
		pthread_mutex_lock(&agent_lock);
		more = client_range_take_dropped(fds);
		pthread_mutex_unlock(&agent_lock);
		for (int i = 0; more && i < CLIENT_RANGE_FDS; i++)
			if (fds[i] >= 0)
				close(fds[i]);
	} while (more);
}

static void *post_main(void *arg)
{
	client_sys(SYS_prctl, PR_SET_NAME, "tierfs-post");
	while (!atomic_load(&agent.gives_up)) {
		uint32_t seen = __atomic_load_n(&agent.post, __ATOMIC_ACQUIRE);
		bool wake = false;

		close_dropped();
		pthread_mutex_lock(&agent_lock);
		for (int i = 0; i < CLIENT_CONN_MAX; i++) {
			client_conn_flush(&client_conns[i]);
			wake = wake || client_conns[i].want_out || client_conns[i].state == CLIENT_CONN_DOWN;
		}
		__atomic_store_n(&agent.posted, seen, __ATOMIC_RELEASE);
		pthread_mutex_unlock(&agent_lock);
		client_sys(SYS_futex, &agent.posted, FUTEX_WAKE_PRIVATE, INT32_MAX);
		if (wake)
			wake_agent();
		if (__atomic_load_n(&agent.post, __ATOMIC_ACQUIRE) == seen)
			futex_wait(&agent.post, seen);
	}
	return arg;
}

/* --- the hand --------------------------------------------------------------------------------------------------- */

static void *hand_main(void *arg)
{
	client_sys(SYS_prctl, PR_SET_NAME, "tierfs-hand");
	for (;;) {
		uint32_t seen = __atomic_load_n(&agent.errand, __ATOMIC_ACQUIRE);
		struct errand *errand;

		pthread_mutex_lock(&agent_lock);
		errand = TAILQ_FIRST(&agent.errands);
		if (errand)
			TAILQ_REMOVE(&agent.errands, errand, link);
		pthread_mutex_unlock(&agent_lock);
		if (errand) {
			errand->err = errand->run(errand->arg);
			futex_raise(&errand->done); /* it is not ours any more */
		} else {
			futex_wait(&agent.errand, seen);
		}
	}
	return arg;
}

int client_agent_do(int (*run)(void *arg), void *arg)
{
	struct errand errand = { .run = run, .arg = arg };
	struct client_agent_guard guard;
	int err = client_agent_start();

	if (err)
		return err;
	client_agent_enter(&guard);
	TAILQ_INSERT_TAIL(&agent.errands, &errand, link);
	futex_raise(&agent.errand);
	sleep_on(&guard, &errand.done, 0);
	client_agent_leave(&guard);
	return errand.err;
}

int client_agent_do_for(int (*run)(void *arg), void *arg, int *tid)
{
	int err = client_agent_do(run, arg);

	if (err == -EBADF && !*tid) {
		*tid = (int)client_sys(SYS_gettid);
		err = client_agent_do(run, arg);
	}
	return err;
}

int client_agent_take_fd(int fd, int tid, int *ret)
{
	long taken, thread_fd;

	if (!tid) {
		taken = client_sys(SYS_pidfd_getfd, agent.program_fd, fd, 0);
	} else {
		thread_fd = client_sys(SYS_pidfd_open, tid, PIDFD_THREAD);
		if (thread_fd < 0)
			return (int)thread_fd;
		taken = client_sys(SYS_pidfd_getfd, thread_fd, fd, 0);
		close((int)thread_fd);
	}
	if (taken < 0)
		return (int)taken;
	*ret = (int)taken;
	return 0;
}

/* --- starting --------------------------------------------------------------------------------------------------- */

/* A root directory that a chroot() of the program leaves alone. pivot_root(2) changes that of every thread which has
 * the old one, but not where they stand: so the threads stand where the daemons' sockets are. Without it those are not
 * found afterwards: no more than that. */
static void stand_in_run_root(void)
{
	bool alone = client_sys(SYS_unshare, CLONE_FS) == 0;

	client_conn_stand(alone && client_filter_allows(CLIENT_FILTER_STAND) &&
			  client_sys(SYS_chdir, TIERFS_RUN_ROOT) == 0);
}

/* In the agent: a descriptor table and a root directory that are not the program's. -EPERM: not allowed, by a filter;
 * nothing has changed then. */
static int leave_program(void)
{
	unsigned int first = 0;
	long fd, copy;

	if (!client_filter_allows(CLIENT_FILTER_PRIVATE))
		return -EPERM;
	/* Whether it works at all: filters that were there before the library are not known. */
	fd = client_sys(SYS_pidfd_open, getpid(), 0);
	if (fd < 0)
		return (int)fd;
	copy = client_sys(SYS_pidfd_getfd, fd, fd, 0);
	client_sys(SYS_close, fd);
	if (copy < 0)
		return (int)copy;
	client_sys(SYS_close, copy);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	first = STDERR_FILENO + 1; /* for reports */
#endif
	fd = client_sys(SYS_close_range, first, ~0U, CLOSE_RANGE_UNSHARE);
	if (fd < 0)
		return (int)fd;
	stand_in_run_root();
	fd = client_sys(SYS_pidfd_open, getpid(), 0);
	if (fd < 0)
		return (int)fd;
	agent.program_fd = (int)fd;
	return 0;
}

static int create_thread(void *(*main)(void *), pthread_t *ret)
{
	pthread_attr_t attr;
	int err;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	err = pthread_create(ret, &attr, main, NULL);
	pthread_attr_destroy(&attr);
	return -err;
}

/* The others are made by the agent, so that they have its table. */
static int start_others(void)
{
	pthread_t post, hand;
	int err = leave_program();

	if (err)
		return err;
	agent.wake_fd = wire_raise_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (agent.wake_fd < 0)
		return -errno;
	atomic_store(&agent.gives_up, false);
	err = create_thread(post_main, &post);
	if (err)
		goto err_fd;
	err = create_thread(hand_main, &hand);
	if (err)
		goto err_post;
	pthread_detach(post);
	pthread_detach(hand);
	return 0;
err_post:
	atomic_store(&agent.gives_up, true);
	futex_raise(&agent.post);
	pthread_join(post, NULL);
err_fd:
	close(agent.wake_fd);
	agent.wake_fd = -1;
	return err;
}

static void *agent_main(void *arg)
{
	int err;

	client_sys(SYS_prctl, PR_SET_NAME, "tierfs-agent");
	err = agent.start_error = start_others();
	futex_raise(
		&agent.started); /* from here on start_error may be that of a later start, which has another thread */
	while (!err)
		serve();
	return arg;
}

int client_agent_start(void)
{
	pthread_t thread;
	uint64_t old;
	int err = 0;

	check_life();
	block_signals(&old); /* the threads inherit this */
	pthread_mutex_lock(&start_lock);
	if (!agent.running) {
		agent.started = 0;
		err = make_life();
		if (!err)
			err = create_thread(agent_main, &thread);
		if (!err)
			pthread_detach(thread);
		while (!err && !__atomic_load_n(&agent.started, __ATOMIC_ACQUIRE))
			futex_wait(&agent.started, 0);
		if (!err)
			err = agent.start_error;
		agent.running = err == 0;
	}
	pthread_mutex_unlock(&start_lock);
	restore_signals(&old);
	return err;
}

int client_agent_get(struct client_agent_guard *guard, const char *run_dir, struct client_conn **ret)
{
	struct client_conn *conn = client_conn_find(run_dir);
	uint64_t failures;

	if (!conn)
		return -EMFILE;
	conn->attaching = true;
	failures = conn->failures;
	if (conn->state == CLIENT_CONN_DOWN)
		conn->when_ns = 1; /* now */
	futex_raise(&agent.post);
	while (conn->state != CLIENT_CONN_UP && conn->failures == failures)
		client_agent_wait(guard, conn);
	if (conn->state != CLIENT_CONN_UP) {
		client_agent_put(conn);
		return conn->err == -EPROTO || conn->err == -EPERM ? conn->err : -ENOTCONN;
	}
	*ret = conn;
	return 0;
}

void client_agent_put(struct client_conn *conn)
{
	conn->attaching = false;
	client_conn_changed(conn);
}
