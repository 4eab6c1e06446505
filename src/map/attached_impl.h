/* map/attached_impl.h - what attached.c (connections, the end of mappings) and attached_serve.c (requests) share. For
 * them alone. All of it belongs to the server thread.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "base/loop.h"
#include "base/wire.h"
#include "map/attached.h"
#include "map/table.h"

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

struct connection {
	TAILQ_ENTRY(connection) link;
	struct attached *attached;
	struct loop_watch *watch, *exit_watch;
	int sock, pidfd;
	pid_t pid;
	uid_t uid;
	bool greeted;
	uint64_t opened_ns;
	unsigned int mapping_count;
	TAILQ_HEAD(, grant) grants;
	TAILQ_HEAD(, link) mappings;
};

struct attached {
	struct attached_config config;
	struct loop *loop;
	struct loop_watch *watch;
	struct map_table *table;
	pthread_t thread;
	bool thread_runs;
	int listener, uffd_device;
	char path[108];
	uint64_t next_id;
	unsigned int connection_count;
	bool hello_timer;    /* it runs */
	uint64_t refused_ns; /* when a refusal was logged last */
	TAILQ_HEAD(, connection) connections;
	TAILQ_HEAD(, link) orphans; /* mappings without an agent */
};

/* --- attached.c --- */
/* The mapping is in no list any more. */
void attached_end_mapping(struct attached *attached, struct mapping *mapping);

/* Somebody keeps a copy of its userfaultfd, of each part that is mapped now. */
void attached_keep(struct attached *attached, struct mapping *mapping);
void attached_orphan(struct attached *attached, struct link *link);

/* --- attached_left.c --- */
/* Goes on with the mappings that an earlier daemon left. Before the server runs. */
void attached_take_left(struct attached *attached);
/* When a process began, as /proc/PID/stat has it; 0: it is gone. */
uint64_t attached_started(pid_t pid);

/* --- attached_serve.c --- */
/* Does what the packet asks for, and answers. An error ends the connection; -EPROTO: the packet breaks the rules. */
int attached_serve(struct connection *connection, struct wire_packet *packet);
int attached_answer_error(struct connection *connection, uint64_t seq, int err, const char *text);
