/* base/loop.c - the event loop on io_uring.
 *
 * Watches are one-shot polls that are armed again after each callback, which makes them level-triggered. A watch is in
 * one of these states:
 *
 *   idle       to be armed before the next wait: new, or its callback has just run
 *   armed      one poll is in the kernel: exactly one completion will come
 *   calling    its callback is running
 *   removed    loop_unwatch() came while armed or calling: freed by that completion, or after that callback
 *   broken     the kernel refused the descriptor: idle until loop_unwatch()
 *   paused     idle until its owner says otherwise
 *
 * Requests are only submitted by the thread that runs the loop: the kernel cancels what a thread has submitted when it
 * ends. Timers are timeouts in the kernel. Calls from other threads go through a list and an eventfd.
 */
#include "base/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"

#define RING_ENTRIES 256

enum op_kind { OP_WATCH, OP_TIMER };

/* What a completion's user_data points at; 0 marks the completion of a cancellation. */
struct op {
	enum op_kind kind;
};

struct loop_watch {
	struct op op;
	struct loop *loop;
	LIST_ENTRY(loop_watch) link; /* all watches */
	loop_fd_fn *fn;
	void *arg;
	int fd;
	uint32_t events;
	bool armed, calling, removed, cancelled, broken, paused;
};

struct timer {
	struct op op;
	LIST_ENTRY(timer) link;
	struct __kernel_timespec when; /* CLOCK_MONOTONIC; read by the kernel at submission */
	loop_fn *fn;
	void *arg;
	bool armed;
};

struct call {
	STAILQ_ENTRY(call) link;
	loop_fn *fn;
	void *arg;
};

STAILQ_HEAD(call_list, call);

struct loop {
	struct io_uring ring;
	int wake_fd; /* eventfd, immutable */
	atomic_bool stop;

	/* The rest up to the lock belongs to the loop's thread. */
	LIST_HEAD(, loop_watch) watches;
	LIST_HEAD(, timer) timers;
	bool dirty; /* something is to be armed or cancelled */

	struct lock lock;
	struct call_list calls; /* under lock */
};

static void loop_wake(struct loop *loop)
{
	uint64_t one = 1;

	/* EAGAIN means that the counter is full: the loop is awake then. */
	while (write(loop->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void on_wake(void *arg, int fd, uint32_t events)
{
	struct loop *loop = arg;
	struct call_list calls = STAILQ_HEAD_INITIALIZER(calls);
	uint64_t count;
	struct call *call;

	(void)events;
	while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
	lock_get(&loop->lock);
	STAILQ_CONCAT(&calls, &loop->calls);
	lock_put(&loop->lock);
	while ((call = STAILQ_FIRST(&calls))) {
		STAILQ_REMOVE_HEAD(&calls, link);
		call->fn(call->arg);
		free(call);
	}
}

int loop_new(struct loop **ret)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int err;

	if (!loop)
		return -ENOMEM;
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0) {
		err = -errno;
		free(loop);
		return err;
	}
	err = io_uring_queue_init(RING_ENTRIES, &loop->ring, 0);
	if (err) {
		close(loop->wake_fd);
		free(loop);
		return err;
	}
	LIST_INIT(&loop->watches);
	LIST_INIT(&loop->timers);
	STAILQ_INIT(&loop->calls);
	lock_init(&loop->lock, LOCK_RANK_LOOP);
	err = loop_watch(loop, loop->wake_fd, POLLIN, on_wake, loop, NULL);
	if (err) {
		loop_free(loop);
		return err;
	}
	*ret = loop;
	return 0;
}

void loop_free(struct loop *loop)
{
	struct loop_watch *watch;
	struct timer *timer;
	struct call *call;

	if (!loop)
		return;
	io_uring_queue_exit(&loop->ring);
	while ((watch = LIST_FIRST(&loop->watches))) {
		LIST_REMOVE(watch, link);
		free(watch);
	}
	while ((timer = LIST_FIRST(&loop->timers))) {
		LIST_REMOVE(timer, link);
		free(timer);
	}
	while ((call = STAILQ_FIRST(&loop->calls))) {
		STAILQ_REMOVE_HEAD(&loop->calls, link);
		free(call);
	}
	lock_fini(&loop->lock);
	close(loop->wake_fd);
	free(loop);
}

int loop_watch(struct loop *loop, int fd, uint32_t events, loop_fd_fn *fn, void *arg, struct loop_watch **ret)
{
	struct loop_watch *watch;

	if (fcntl(fd, F_GETFD) < 0)
		return -errno;
	watch = calloc(1, sizeof(*watch));
	if (!watch)
		return -ENOMEM;
	watch->op.kind = OP_WATCH;
	watch->loop = loop;
	watch->fd = fd;
	watch->events = events;
	watch->fn = fn;
	watch->arg = arg;
	LIST_INSERT_HEAD(&loop->watches, watch, link);
	loop->dirty = true;
	if (ret)
		*ret = watch;
	return 0;
}

static void watch_free(struct loop_watch *watch)
{
	LIST_REMOVE(watch, link);
	free(watch);
}

void loop_unwatch(struct loop_watch *watch)
{
	if (!watch)
		return;
	watch->removed = true;
	watch->loop->dirty = true;
	if (!watch->armed && !watch->calling)
		watch_free(watch);
}

void loop_pause(struct loop_watch *watch, bool on)
{
	watch->paused = on;
	watch->loop->dirty = true;
}

int loop_after(struct loop *loop, uint64_t delay_ns, loop_fn *fn, void *arg)
{
	uint64_t now_ns = clock_ns(), when_ns;
	struct timer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		return -ENOMEM;
	when_ns = delay_ns < (uint64_t)INT64_MAX - now_ns ? now_ns + delay_ns : INT64_MAX;
	timer->op.kind = OP_TIMER;
	timer->when.tv_sec = (int64_t)(when_ns / NS_PER_S);
	timer->when.tv_nsec = (long long)(when_ns % NS_PER_S);
	timer->fn = fn;
	timer->arg = arg;
	LIST_INSERT_HEAD(&loop->timers, timer, link);
	loop->dirty = true;
	return 0;
}

int loop_post(struct loop *loop, loop_fn *fn, void *arg)
{
	struct call *call = malloc(sizeof(*call));

	if (!call)
		return -ENOMEM;
	call->fn = fn;
	call->arg = arg;
	lock_get(&loop->lock);
	STAILQ_INSERT_TAIL(&loop->calls, call, link);
	lock_put(&loop->lock);
	loop_wake(loop);
	return 0;
}

void loop_stop(struct loop *loop)
{
	atomic_store(&loop->stop, true);
	loop_wake(loop);
}

/* A free submission entry, or NULL while the kernel takes none: the caller tries again before the next wait. */
static struct io_uring_sqe *get_sqe(struct loop *loop)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);

	if (sqe)
		return sqe;
	io_uring_submit(&loop->ring);
	return io_uring_get_sqe(&loop->ring);
}

static bool watch_update(struct loop *loop, struct loop_watch *watch)
{
	bool cancel = watch->removed && watch->armed && !watch->cancelled;
	bool arm = !watch->removed && !watch->armed && !watch->broken && !watch->paused;
	struct io_uring_sqe *sqe;

	if (!cancel && !arm)
		return true;
	sqe = get_sqe(loop);
	if (!sqe)
		return false;
	if (cancel) {
		io_uring_prep_poll_remove(sqe, (uint64_t)(uintptr_t)&watch->op);
		io_uring_sqe_set_data64(sqe, 0);
		watch->cancelled = true;
	} else {
		io_uring_prep_poll_add(sqe, watch->fd, watch->events);
		io_uring_sqe_set_data(sqe, &watch->op);
		watch->armed = true;
	}
	return true;
}

static bool timer_update(struct loop *loop, struct timer *timer)
{
	struct io_uring_sqe *sqe;

	if (timer->armed)
		return true;
	sqe = get_sqe(loop);
	if (!sqe)
		return false;
	io_uring_prep_timeout(sqe, &timer->when, 0, IORING_TIMEOUT_ABS);
	io_uring_sqe_set_data(sqe, &timer->op);
	timer->armed = true;
	return true;
}

/* Arms and cancels what the callbacks asked for. A daemon has tens of watches, so walking all is cheap. */
static void loop_update(struct loop *loop)
{
	struct loop_watch *watch;
	struct timer *timer;

	if (!loop->dirty)
		return;
	loop->dirty = false;
	LIST_FOREACH(watch, &loop->watches, link)
		if (!watch_update(loop, watch))
			loop->dirty = true;
	LIST_FOREACH(timer, &loop->timers, link)
		if (!timer_update(loop, timer))
			loop->dirty = true;
}

static void watch_complete(struct loop_watch *watch, int result)
{
	watch->armed = false;
	watch->loop->dirty = true;
	/* Not the watch's own events: out of memory for a moment, or the thread that submitted it has ended. */
	if (!watch->removed && (result == -ECANCELED || result == -ENOMEM || result == -EAGAIN || result == -EINTR))
		return;
	if (!watch->removed) {
		watch->calling = true;
		watch->fn(watch->arg, watch->fd, result >= 0 ? (uint32_t)result : POLLERR | POLLNVAL);
		watch->calling = false;
	}
	if (!watch->removed && result < 0) {
		/* It would fail again at once, for ever. The owner still has to unwatch it. */
		log_error("event loop: descriptor %d cannot be watched any more: %s", watch->fd, strerror(-result));
		watch->broken = true;
	}
	if (watch->removed)
		watch_free(watch);
}

static void timer_complete(struct loop *loop, struct timer *timer, int result)
{
	if (result == -ECANCELED || result == -ENOMEM || result == -EAGAIN) {
		timer->armed = false;
		loop->dirty = true;
		return;
	}
	LIST_REMOVE(timer, link);
	timer->fn(timer->arg);
	free(timer);
}

static void loop_dispatch(struct loop *loop)
{
	struct io_uring_cqe *cqe;

	while (!io_uring_peek_cqe(&loop->ring, &cqe)) {
		struct op *op = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&loop->ring, cqe);
		if (!op)
			continue;
		switch (op->kind) {
		case OP_WATCH:
			watch_complete((struct loop_watch *)op, result);
			break;
		case OP_TIMER:
			timer_complete(loop, (struct timer *)op, result);
			break;
		}
	}
}

int loop_run(struct loop *loop)
{
	while (!atomic_load(&loop->stop)) {
		int submitted;

		loop_update(loop);
		submitted = io_uring_submit_and_wait(&loop->ring, loop->dirty ? 0 : 1);
		if (submitted < 0 && submitted != -EINTR && submitted != -EAGAIN && submitted != -EBUSY)
			return submitted;
		loop_dispatch(loop);
	}
	/* What was posted before the stop is still called. */
	on_wake(loop, loop->wake_fd, 0);
	atomic_store(&loop->stop, false);
	return 0;
}
