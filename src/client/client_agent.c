/* client/client_agent.c - see client_agent.h.
 *
 * The thread never touches attached memory: it would wait for itself.
 */
#include "client/client_agent.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/wire.h"
#include "client/client_range.h"
#include "client/client_zap.h"

#define AGENT_STACK_BYTES (256 * 1024)
#define PACKETS_A_TURN 16

static pthread_mutex_t agent_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER; /* before agent_lock */
static int wake_fd = -1;
static bool running;
static bool fork_hooks_set;

/* --- the lock -------------------------------------------------------------------------------------------------- */

void client_agent_enter(struct client_agent_guard *guard)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &guard->signals);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &guard->cancel_state);
	pthread_mutex_lock(&agent_lock);
}

void client_agent_leave(struct client_agent_guard *guard)
{
	pthread_mutex_unlock(&agent_lock);
	pthread_sigmask(SIG_SETMASK, &guard->signals, NULL);
	pthread_setcancelstate(guard->cancel_state, NULL);
}

/* Sleeps without the lock, with the caller's own signal mask, until *word is not seen any more. */
static void sleep_on(struct client_agent_guard *guard, uint32_t *word, uint32_t seen)
{
	sigset_t all;

	pthread_mutex_unlock(&agent_lock);
	pthread_sigmask(SIG_SETMASK, &guard->signals, NULL);
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == seen)
		syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	pthread_mutex_lock(&agent_lock);
}

void client_agent_wait(struct client_agent_guard *guard, struct client_conn *conn)
{
	sleep_on(guard, &conn->generation, conn->generation);
}

static void poke(void)
{
	uint64_t one = 1;

	if (write(wake_fd, &one, sizeof(one)) < 0)
		return; /* it is full: the thread is about to wake anyway */
}

int client_agent_call(struct client_agent_guard *guard, struct client_conn *conn, struct client_call *call)
{
	if (client_conn_start_call(conn, call)) {
		poke(); /* the thread polls for room if there was none */
		sleep_on(guard, &call->done, 0);
	}
	return call->result;
}

/* --- the thread ------------------------------------------------------------------------------------------------- */

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

static void *agent_main(void *arg)
{
	struct pollfd polls[CLIENT_CONN_MAX + 1];

	prctl(PR_SET_NAME, "tierfs-agent");
	for (;;) {
		uint64_t now_ns = clock_ns(), next_ns = UINT64_MAX, events;
		int timeout_ms = -1;

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
		polls[CLIENT_CONN_MAX] = (struct pollfd){ .fd = wake_fd, .events = POLLIN };
		if (next_ns != UINT64_MAX)
			timeout_ms = next_ns > now_ns ? (int)((next_ns - now_ns) / NS_PER_MS) + 1 : 0;
		if (poll(polls, CLIENT_CONN_MAX + 1, timeout_ms) <= 0)
			continue;
		if (polls[CLIENT_CONN_MAX].revents && read(wake_fd, &events, sizeof(events)) < 0)
			continue;
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
	return arg;
}

static void before_fork(void)
{
	pthread_mutex_lock(&start_lock);
	pthread_mutex_lock(&agent_lock);
}

static void after_fork_parent(void)
{
	pthread_mutex_unlock(&agent_lock);
	pthread_mutex_unlock(&start_lock);
}

/* The child has neither the thread nor the memory: it begins anew, and must not keep the parent's descriptors alive. */
static void after_fork_child(void)
{
	client_conn_forget();
	client_range_forget();
	client_zap_forget();
	if (wake_fd >= 0)
		close(wake_fd);
	wake_fd = -1;
	running = false;
	pthread_mutex_init(&agent_lock, NULL);
	pthread_mutex_init(&start_lock, NULL);
}

static int create_thread(void)
{
	pthread_attr_t attr;
	pthread_t thread;
	int err;

	wake_fd = wire_raise_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (wake_fd < 0)
		return -errno;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, AGENT_STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&thread, &attr, agent_main, NULL);
	pthread_attr_destroy(&attr);
	if (err) {
		close(wake_fd);
		wake_fd = -1;
	}
	return -err;
}

int client_agent_start(void)
{
	sigset_t all, old;
	int err = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* the thread inherits this */
	pthread_mutex_lock(&start_lock);
	if (!fork_hooks_set) {
		err = -pthread_atfork(before_fork, after_fork_parent, after_fork_child);
		fork_hooks_set = err == 0;
	}
	if (!err && !running) {
		err = create_thread();
		running = err == 0;
	}
	pthread_mutex_unlock(&start_lock);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

int client_agent_get(struct client_agent_guard *guard, const char *run_dir, struct client_conn **ret)
{
	struct client_conn *conn;
	uint64_t failures;

	while ((conn = client_conn_find(run_dir)) && conn->attaching)
		client_agent_wait(guard, conn);
	if (!conn)
		return -EMFILE;
	conn->attaching = true;
	failures = conn->failures;
	if (conn->state == CLIENT_CONN_DOWN)
		conn->when_ns = 1; /* now */
	poke();
	while (conn->state != CLIENT_CONN_UP && conn->failures == failures)
		client_agent_wait(guard, conn);
	if (conn->state != CLIENT_CONN_UP) {
		client_agent_put(conn);
		return conn->error == -EPROTO ? -EPROTO : -ENOTCONN;
	}
	*ret = conn;
	return 0;
}

void client_agent_put(struct client_conn *conn)
{
	conn->attaching = false;
	client_conn_changed(conn);
}
