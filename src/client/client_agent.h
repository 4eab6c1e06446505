/* client/client_agent.h - the threads of libtierfs, their descriptors, the lock around everything they share with the
 * program's threads, and waiting.
 *
 * Three threads for all daemons. The agent reads every packet: it zaps what a daemon asks for, hands answers to the
 * threads that wait for them, and when a daemon dies it comes back to its successor with every range (RESUME). It never
 * gives a range up: memory whose daemon is gone waits for the next one. The post sends what the program's threads ask
 * for. The hand does what may wait for a daemon or takes unusual system calls: an attach, from its first question to
 * the last protection.
 *
 * These threads have a descriptor table of their own, and a root directory of their own. Nothing that the program
 * closes, replaces or counts is one of theirs, by whatever system call; chroot(2) and pivot_root(2) do not take the
 * sockets from them.
 * In return no thread of the program has a descriptor of the library: they queue, and wake by futex, which is a call
 * that every system-call filter allows.
 *
 * The lock taken by client_agent_enter() guards all of this and client_range. Signals are blocked and cancellation is
 * off while it is held; nothing is allocated, and no other lock is taken, so that a wrapper of munmap may be called
 * from anywhere.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/client_conn.h"

struct client_agent_guard {
	uint64_t signals;
	int cancel_state;
};

/* Starts the threads if they do not run. Call without the lock. 0 or -errno. */
int client_agent_start(void);

void client_agent_enter(struct client_agent_guard *guard);
void client_agent_leave(struct client_agent_guard *guard);

/* Has the hand run something, starting the threads if need be, and waits for what it returns. One at a time. */
int client_agent_do(int (*run)(void *arg), void *arg);

/* The same for something that takes a descriptor of the program with client_agent_take_fd(*tid): the main thread may
 * have ended, or have another table than the caller, whose *tid becomes then. */
int client_agent_do_for(int (*run)(void *arg), void *arg, int *tid);

/* In the hand: a duplicate of the program's descriptor; tid is a thread that has it (0: any), if the program's threads
 * have different tables. -EBADF: there is no such descriptor. */
int client_agent_take_fd(int fd, int tid, int *ret);

/* The functions below need the lock and give it up while they wait. */

/* In the hand: the connection to the daemon of run_dir, made if there is none, for one attach. -ENOTCONN: nobody
 * answers there; -EPROTO: it speaks another version; -EPERM: whoever answers is not a daemon to be trusted; -EMFILE:
 * too many daemons. */
int client_agent_get(struct client_agent_guard *guard, const char *run_dir, struct client_conn **ret);
void client_agent_put(struct client_conn *conn);

/* Sends and waits for the answer: 0 or -errno. If the daemon dies meanwhile, OPEN and MAP fail with -ENOTCONN, UNMAP is
 * done (nobody is left who knows the range), DISCARD waits for the next daemon. */
int client_agent_call(struct client_agent_guard *guard, struct client_conn *conn, struct client_call *call);

/* Waits until something about the connection changed. */
void client_agent_wait(struct client_agent_guard *guard, struct client_conn *conn);

/* Waits until the descriptors of mappings that have gone are closed. */
void client_agent_reap(struct client_agent_guard *guard);
