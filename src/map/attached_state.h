/* map/attached_state.h - connections of agents, and the mappings that came by them. The files attached*.c share it,
 * and nobody else.
 *
 * A connection belongs to the server thread, or to the chore that serves a request of it meanwhile. Lists of mappings
 * are under the lock, as is what belongs to all.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "base/lock.h"
#include "base/loop.h"
#include "map/attached.h"
#include "map/chores.h"
#include "map/table.h"
#include "map/users.h"
#include "wire/wire.h"

/* An arena that was handed out and not mapped yet. */
struct grant {
	TAILQ_ENTRY(grant) link;
	uint64_t ino;
	int fd;          /* an open file description of the arena that nobody else has, or the process */
	uint64_t holder; /* its number, for a process that does not have it; 0: that of the mapping */
};

struct link {
	TAILQ_ENTRY(link) link;
	struct mapping *mapping;
};

TAILQ_HEAD(link_list, link);

struct connection {
	TAILQ_ENTRY(connection) link;
	struct attached *attached;
	struct loop_watch *watch, *exit_watch;
	int sock, pidfd;
	pid_t pid;
	uid_t uid;
	bool greeted;
	bool busy; /* a chore serves the packet */
	bool gone; /* its process ended meanwhile */
	uint64_t opened_ns;
	struct chore chore;
	struct wire_packet packet;
	int err; /* of the chore */
	unsigned int mapping_count, grant_count;
	TAILQ_HEAD(, grant) grants;
	struct link_list mappings; /* under the lock; what is in it, only who the connection belongs to takes out */
};

struct attached {
	struct attached_config config;
	struct loop *loop;
	struct loop_watch *watch;
	struct map_table *table;
	struct users *users;
	struct chores *chores;
	pthread_t thread;
	bool thread_runs;
	int listener, uffd_device;
	char path[108];
	unsigned int connection_count;
	bool hello_timer;                /* it runs */
	bool wait_timer;                 /* it runs */
	uint64_t refused_ns;             /* when a refusal was logged last */
	_Atomic unsigned int left_count; /* mappings of an earlier daemon that are on their way */
	struct chore ending;             /* of dead mappings, one after the other */
	bool ends;                       /* it is under way. The server thread's, like the chore */

	struct chore watching;  /* under way, or a timer runs for it */
	uint64_t watch_took_ns; /* the last time, as the next */
	bool watch_caught;      /* somebody */

	struct lock lock;
	TAILQ_HEAD(, connection) connections; /* changed by the server thread, under lock */
	uint64_t next_id;                     /* under lock, like all that follows */
	struct link_list orphans;             /* mappings without an agent */
	bool orphan_timer;                    /* it runs */
	struct link_list dead;                /* those to be ended */
};
