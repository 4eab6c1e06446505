/* front/opener.c - see opener.h.
 *
 * Reading /proc/TID/maps may wait for the process's memory map to be let go, and whoever holds it may be waiting for a
 * write back that another thread of the door answers. So a few threads at most look at a time, the others wait a while
 * and give up, and there are always some left to answer. A process may also hold its own memory map for as long as it
 * likes, so who looks may never come back: one user has a few places only, and some are kept for root.
 */
#include "front/opener.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"

#define LIBRARY "libtierfs"
#define LOOKS_MAX 16
#define LOOKS_OF_USERS 12 /* of all but root */
#define LOOKS_OF_UID 4
#define LOOK_WAIT_NS (2 * NS_PER_S)
#define TOLD_MAX 64
#define LINES_MAX 10 /* in a period */
#define PERIOD_NS (10 * NS_PER_S)

struct told {
	pid_t pid;
	uint64_t ino;
};

struct opener {
	char proc[PATH_MAX];    /* immutable */
	pthread_cond_t looked;  /* somebody came back */
	struct lock lock;       /* guards what follows */
	uid_t looks[LOOKS_MAX]; /* for whom; the first count of them */
	unsigned int count;
	struct told told[TOLD_MAX];
	unsigned int next;
	unsigned int lines; /* since period_ns */
	uint64_t period_ns;
};

int opener_new(const char *proc, struct opener **ret)
{
	struct opener *opener = calloc(1, sizeof(*opener));

	if (!opener)
		return -ENOMEM;
	snprintf(opener->proc, sizeof(opener->proc), "%s", proc);
	lock_cond_init(&opener->looked);
	lock_init(&opener->lock, LOCK_RANK_CONTROL);
	*ret = opener;
	return 0;
}

void opener_free(struct opener *opener)
{
	if (!opener)
		return;
	pthread_cond_destroy(&opener->looked);
	lock_fini(&opener->lock);
	free(opener);
}

/* Whether the line of a memory map is of the library: "ADDRESSES RIGHTS OFFSET DEVICE INODE PATH". */
static bool is_library(const char *line)
{
	const char *slash = strrchr(line, '/');

	return slash && strncmp(slash + 1, LIBRARY, strlen(LIBRARY)) == 0;
}

static int look(const struct opener *opener, pid_t tid, bool *ret)
{
	CLEANUP_FREE char *line = NULL;
	char path[PATH_MAX + 64];
	size_t cap = 0;
	bool found = false;
	FILE *maps;

	snprintf(path, sizeof(path), "%s/%d/maps", opener->proc, (int)tid);
	maps = fopen(path, "re");
	if (!maps)
		return -errno;
	while (!found && getline(&line, &cap, maps) > 0)
		found = is_library(line);
	fclose(maps);
	*ret = found;
	return 0;
}

/* Under lock. */
static bool has_place(const struct opener *opener, uid_t uid)
{
	unsigned int users = 0, same = 0;

	if (opener->count == LOOKS_MAX)
		return false;
	for (unsigned int i = 0; i < opener->count; i++) {
		users += opener->looks[i] != 0;
		same += opener->looks[i] == uid;
	}
	return uid == 0 || (users < LOOKS_OF_USERS && same < LOOKS_OF_UID);
}

static int take_place(struct opener *opener, uid_t uid)
{
	uint64_t deadline_ns = clock_ns() + LOOK_WAIT_NS;

	LOCK_SCOPE(&opener->lock);
	while (!has_place(opener, uid))
		if (lock_wait_until(&opener->lock, &opener->looked, deadline_ns))
			return -EBUSY;
	opener->looks[opener->count++] = uid;
	return 0;
}

static void leave_place(struct opener *opener, uid_t uid)
{
	unsigned int i = 0;

	LOCK_SCOPE(&opener->lock);
	while (opener->looks[i] != uid)
		i++;
	opener->looks[i] = opener->looks[--opener->count];
	pthread_cond_broadcast(&opener->looked);
}

int opener_announced(struct opener *opener, pid_t tid, uid_t uid, bool *ret)
{
	int err;

	*ret = false;
	if (tid <= 0)
		return 0;
	err = take_place(opener, uid);
	if (err)
		return err;
	err = look(opener, tid, ret);
	leave_place(opener, uid);
	return err == -ENOENT || err == -ESRCH ? 0 : err;
}

/* ---- refusals ---- */

static pid_t process_of(pid_t tid, char *name, size_t cap)
{
	CLEANUP_FREE char *line = NULL;
	size_t line_cap = 0;
	char path[64];
	int pid = tid;
	FILE *status;

	snprintf(name, cap, "?");
	snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	status = fopen(path, "re");
	while (status && getline(&line, &line_cap, status) > 0) {
		if (strncmp(line, "Name:\t", 6) == 0)
			snprintf(name, cap, "%.*s", (int)strcspn(line + 6, "\n"), line + 6);
		if (sscanf(line, "Tgid: %d", &pid) == 1)
			break;
	}
	if (status)
		fclose(status);
	return pid;
}

static bool is_new(struct opener *opener, pid_t pid, uint64_t ino)
{
	uint64_t now_ns = clock_ns();

	LOCK_SCOPE(&opener->lock);
	for (unsigned int i = 0; i < TOLD_MAX; i++)
		if (opener->told[i].pid == pid && opener->told[i].ino == ino)
			return false;
	if (now_ns - opener->period_ns > PERIOD_NS) {
		opener->period_ns = now_ns;
		opener->lines = 0;
	}
	if (opener->lines++ >= LINES_MAX)
		return false;
	opener->told[opener->next++ % TOLD_MAX] = (struct told){ pid, ino };
	return true;
}

void opener_refused(struct opener *opener, pid_t tid, uint64_t ino, const char *path, const char *why)
{
	char name[64];
	pid_t pid = process_of(tid, name, sizeof(name));

	if (is_new(opener, pid, ino))
		log_info("%s: process %d (%s) can read and write it, but not map it (ENODEV), because %s", path,
			 (int)pid, name, why);
}

bool opener_is_killed(pid_t tid)
{
	char path[64], line[256];
	bool killed = false;
	FILE *status;

	if (tid <= 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	status = fopen(path, "re");
	if (!status)
		return errno == ENOENT || errno == ESRCH;
	while (!killed && fgets(line, sizeof(line), status)) {
		unsigned long long pending;

		if (sscanf(line, "SigPnd: %llx", &pending) == 1 || sscanf(line, "ShdPnd: %llx", &pending) == 1)
			killed = pending & (1ULL << (SIGKILL - 1));
	}
	fclose(status);
	return killed;
}
