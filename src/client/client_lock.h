/* client/client_lock.h - how much of attached memory the program may lock (mlock(2)) or have brought at once.
 *
 * What is locked cannot be demoted. Beyond its part of the mount's budget a call that locks would wait in the kernel
 * for room that nobody can make, so it is refused before, as by a memory cgroup that is full. The budget is what the
 * file's daemon says at that moment, if it can be asked; a daemon that does not say it sets no limit here.
 *
 * Thread-safe; called without the agent's lock.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/client_conn.h"

#define CLIENT_LOCK_NAME_LEN 512

/* What a call that is under way was given, by connection. */
struct client_claim {
	bool any;
	size_t bytes[CLIENT_CONN_MAX];
};

/* Why not. */
struct client_refusal {
	char file[CLIENT_LOCK_NAME_LEN]; /* empty: not known */
	bool no_room;                    /* for one more piece (client_spans.h), whatever its length */
	uint64_t wanted_bytes;           /* with what is locked already */
	uint64_t limit_bytes;
};

/* All of [addr, addr + length) that is attached is about to be locked: 0, and client_lock_end() must follow; or
 * -ENOMEM. */
int client_lock_begin(const void *addr, size_t length, struct client_claim *ret, struct client_refusal *why);
/* done: it is locked now; else the call failed, and may have locked a part. */
void client_lock_end(const void *addr, size_t length, const struct client_claim *claim, bool done);
/* done: none of it is locked now; else the call failed, and may have unlocked a part. */
void client_lock_drop(const void *addr, size_t length, bool done);

/* What mlockall(2) said of later mappings: MCL_FUTURE, MCL_ONFAULT; 0: nothing. */
void client_lock_set_future(int flags);

/* So much from addr on can be brought into DRAM at once. client_populate_end() must follow. */
size_t client_populate_begin(const void *addr, size_t length, struct client_claim *ret);
void client_populate_end(const struct client_claim *claim);
