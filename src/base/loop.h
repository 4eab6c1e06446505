/* base/loop.h - the event loop (io_uring): readiness of descriptors, timers, and calls from other threads.
 *
 * One thread runs loop_run(); callbacks run on it and must not block for longer than a few milliseconds.
 * loop_post() and loop_stop() may be called from any thread; everything else only from callbacks, or before
 * loop_run(). Functions return 0 or -errno. The only file that includes <liburing.h> in src/ is loop.c.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_watch;

/* events: POLLIN, POLLOUT, POLLHUP, POLLERR as reported. Level-triggered: called again as long as the condition
 * holds. The callback may call loop_unwatch() on any watch, its own too. A descriptor that was closed while it is
 * watched is reported once, as POLLERR | POLLNVAL. */
typedef void loop_fd_fn(void *arg, int fd, uint32_t events);
typedef void loop_fn(void *arg);

/* Not across fork(): a daemon goes to the background first. -ENOSYS or -EPERM: no io_uring here. */
int loop_new(struct loop **ret);
void loop_free(struct loop *loop); /* takes NULL; drops watches and timers that are left */

/* ret may be NULL. -EBADF: fd is not open. */
int loop_watch(struct loop *loop, int fd, uint32_t events, loop_fd_fn *fn, void *arg, struct loop_watch **ret);
/* After it returns, fn is not called again. Does not close fd. Takes NULL. */
void loop_unwatch(struct loop_watch *watch);
/* fn is not called until it is switched off again. On: from the watch's own fn only. */
void loop_pause(struct loop_watch *watch, bool on);

/* Calls fn once, delay_ns from now. Timers that are left at loop_free() are not called. */
int loop_after(struct loop *loop, uint64_t delay_ns, loop_fn *fn, void *arg);

/* Calls fn on the loop's thread soon, in the order of the posts. What was posted before loop_stop() is called. */
int loop_post(struct loop *loop, loop_fn *fn, void *arg);

int loop_run(struct loop *loop);   /* until loop_stop() */
void loop_stop(struct loop *loop); /* also from a signal handler */
