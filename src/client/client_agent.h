/* client/client_agent.h - the agent thread, the lock around everything it shares with the program's threads, and
 * waiting.
 *
 * One connection for each daemon (runtime directory), one thread for all. The thread reads every packet: it zaps what a
 * daemon asks for, hands answers to the threads that wait for them, and when a daemon dies it comes back to its
 * successor with every range (RESUME). It never gives a range up: memory whose daemon is gone waits for the next one.
 *
 * The lock taken by client_agent_enter() guards all of this and client_range. Signals are blocked and cancellation is
 * off while it is held; nothing is allocated, and no other lock is taken, so that a wrapper of munmap may be called
 * from anywhere.
 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/client_conn.h"

struct client_agent_guard {
	sigset_t signals;
	int cancel_state;
};

/* Starts the thread if it does not run. Call without the lock. 0 or -errno. */
int client_agent_start(void);

void client_agent_enter(struct client_agent_guard *guard);
void client_agent_leave(struct client_agent_guard *guard);

/* The functions below need the lock and give it up while they wait. */

/* The connection to the daemon of run_dir, made if there is none, for one attach: the daemon keeps one arena for each
 * file between OPEN and MAP, so other threads that attach wait for client_agent_put(). -ENOTCONN: nobody answers there;
 * -EPROTO: it speaks another version; -EMFILE: too many daemons. */
int client_agent_get(struct client_agent_guard *guard, const char *run_dir, struct client_conn **ret);
void client_agent_put(struct client_conn *conn);

/* Sends and waits for the answer: 0 or -errno. If the daemon dies meanwhile, OPEN and MAP fail with -ENOTCONN, UNMAP is
 * done (nobody is left who knows the range), DISCARD waits for the next daemon. */
int client_agent_call(struct client_agent_guard *guard, struct client_conn *conn, struct client_call *call);

/* Waits until something about the connection changed. */
void client_agent_wait(struct client_agent_guard *guard, struct client_conn *conn);
