/* map/attached_impl.h - what attached.c (connections), attached_end.c (the end of mappings) and attached_serve.c
 * (requests) share. For them alone.
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
#include "wire/wire.h"

/* An arena that was handed out and not mapped yet. */
struct grant {
	TAILQ_ENTRY(grant) link;
	uint64_t ino;
	int fd;
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
	int result; /* of the chore */
	unsigned int mapping_count;
	TAILQ_HEAD(, grant) grants;
	struct link_list mappings; /* under the lock; what is in it, only who the connection belongs to takes out */
};

struct attached {
	struct attached_config config;
	struct loop *loop;
	struct loop_watch *watch;
	struct map_table *table;
	struct chores *chores;
	pthread_t thread;
	bool thread_runs;
	int listener, uffd_device;
	char path[108];
	unsigned int connection_count;
	bool hello_timer;    /* it runs */
	uint64_t refused_ns; /* when a refusal was logged last */
	struct chore ending; /* of dead mappings, one after the other */
	bool ends;           /* it is under way. The server thread's, like the chore */

	struct lock lock;
	TAILQ_HEAD(, connection) connections; /* changed by the server thread, under lock */
	uint64_t next_id;                     /* under lock, like all that follows */
	struct link_list orphans;             /* mappings without an agent */
	bool orphan_timer;                    /* it runs */
	struct link_list dead;                /* those to be ended */
};

/* --- attached_end.c --- */
void attached_end_init(struct attached *attached);
/* The mapping is in no list any more. Waits for whoever is at work in its process. */
void attached_end_mapping(struct attached *attached, struct mapping *mapping);

/* Somebody keeps a copy of its userfaultfd, of each part that is mapped now. */
void attached_keep(struct attached *attached, struct mapping *mapping);
/* Its connection is gone, and its process lives. From the server thread, or before it runs. */
void attached_orphan(struct attached *attached, struct link *link);
/* The connection has none any more: they are orphans, or are ended. From the server thread. */
void attached_end_mappings(struct attached *attached, struct connection *connection);
/* All orphans are to be ended. Once the server thread has ended. */
void attached_end_orphans(struct attached *attached);
/* The mapping that the process had at the address before its connection broke, if this daemon knew it. */
void attached_end_predecessor(struct attached *attached, pid_t pid, uint64_t addr);

/* --- attached_left.c --- */
/* Goes on with the mappings that an earlier daemon left. Before the server runs. */
void attached_take_left(struct attached *attached);
/* When a process began, as /proc/PID/stat has it; 0: it is gone. */
uint64_t attached_started(pid_t pid);

/* --- attached_serve.c --- */
/* The request waits for nobody. */
bool attached_is_quick(const struct connection *connection, const struct wire_packet *packet);
/* Does what the packet asks for, and answers. An error ends the connection; -EPROTO: the packet breaks the rules. */
int attached_serve(struct connection *connection, struct wire_packet *packet);
int attached_answer_error(struct connection *connection, uint64_t seq, int err, const char *text);
