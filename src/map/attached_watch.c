/* map/attached_watch.c - see attached_watch.h.
 *
 * Who was found to make memory where it may not, in a file, is named in the log with all who map the file: pages do not
 * say who made them. Who does not stop is killed. There is no milder way to take memory from a process that maps it,
 * and no other one that a process cannot undo: it has the userfaultfd of its own, and what it maps it fills again as
 * fast as it is punched. Processes of root are named and not killed: one that maps the file of somebody else would die
 * for what that one does, and who is root has other ways to take memory.
 *
 * A look at many files takes its time, so the time between looks is a multiple of that, unless something was found.
 */
#include "map/attached_watch.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"

#define WATCH_NS (NS_PER_S / 2)
#define WATCH_PART 200 /* of the time, at most one part in so many */
/* Found so often within a minute: it is no accident. */
#define CAUGHT_MAX 3U
#define CULPRITS_MAX 16U

struct culprit {
	pid_t pid;
	int pidfd;
};

/* Those that map the file, each once. */
static unsigned int add_culprit(struct culprit *culprits, unsigned int count, const struct mapping *mapping)
{
	for (unsigned int i = 0; i < count; i++)
		if (culprits[i].pid == mapping->pid)
			return count;
	if (count == CULPRITS_MAX)
		return count;
	culprits[count].pid = mapping->pid;
	culprits[count].pidfd = fcntl(peer_pidfd(mapping->peer), F_DUPFD_CLOEXEC, 0);
	return culprits[count].pidfd < 0 ? count : count + 1;
}

static unsigned int find_culprits(struct attached *attached, uint64_t ino, struct culprit culprits[CULPRITS_MAX])
{
	struct connection *connection;
	unsigned int count = 0;
	struct link *link;

	LOCK_SCOPE(&attached->lock);
	TAILQ_FOREACH(connection, &attached->connections, link)
		TAILQ_FOREACH(link, &connection->mappings, link)
			if (link->mapping->ino == ino)
				count = add_culprit(culprits, count, link->mapping);
	TAILQ_FOREACH(link, &attached->orphans, link)
		if (link->mapping->ino == ino)
			count = add_culprit(culprits, count, link->mapping);
	return count;
}

/* Of whom its directory in /proc is, the process chooses. */
static unsigned int user_of(pid_t pid)
{
	char path[32], line[128];
	unsigned int uid = 0;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	status = fopen(path, "re");
	while (status && fgets(line, sizeof(line), status) && sscanf(line, "Uid: %*u %u", &uid) != 1)
		;
	if (status)
		fclose(status);
	return uid;
}

static void tell(const struct ramfile *file, const struct watch_seen *seen, const char *who)
{
	log_warn("file %llu: %s%llu KiB of memory were made behind the daemon's back and are taken away; %s",
		 (unsigned long long)file->ino, seen->resized ? "its arena was given another length, " : "",
		 (unsigned long long)(seen->taken_bytes >> 10), who);
}

static void deal_with(const struct ramfile *file, const struct watch_seen *seen, const struct culprit *culprit)
{
	unsigned int user = user_of(culprit->pid);
	bool ends = seen->caught >= CAUGHT_MAX && user;
	char who[96];

	if (ends)
		syscall(SYS_pidfd_send_signal, culprit->pidfd, SIGKILL, NULL, 0);
	snprintf(who, sizeof(who), "process %d of user %u maps it%s", (int)culprit->pid, user,
		 ends ? ", and is killed because this goes on" : "");
	if (ends || seen->caught == 1)
		tell(file, seen, who);
}

static void look(void *arg, struct ramfile *file)
{
	struct attached *attached = arg;
	struct culprit culprits[CULPRITS_MAX];
	struct watch_seen seen;
	unsigned int count;

	watch_look(file, clock_ns(), &seen);
	if (!seen.caught)
		return;
	attached->watch_caught = true;
	count = find_culprits(attached, file->ino, culprits);
	for (unsigned int i = 0; i < count; i++) {
		deal_with(file, &seen, &culprits[i]);
		close(culprits[i].pidfd);
	}
	if (!count && !(seen.caught & (seen.caught - 1)))
		tell(file, &seen, "nobody has attached it now");
}

/* On a chore's thread. */
static void go(void *arg)
{
	struct attached *attached = arg;
	uint64_t began_ns = clock_ns();

	attached->watch_caught = false;
	engine_each_watched(attached->config.engine, look, attached);
	attached->watch_took_ns = clock_ns() - began_ns;
}

static void on_time(void *arg)
{
	struct attached *attached = arg;

	chores_send(attached->chores, &attached->watching);
}

static void done(void *arg)
{
	struct attached *attached = arg;
	uint64_t pause_ns = attached->watch_took_ns * (attached->watch_caught ? 1 : WATCH_PART);

	if (loop_after(attached->loop, pause_ns > WATCH_NS ? pause_ns : WATCH_NS, on_time, attached))
		log_warn("no memory: arenas are not watched any more");
}

void attached_watch_start(struct attached *attached)
{
	attached->watching = (struct chore){ .go = go, .done = done, .arg = attached };
	done(attached);
}
