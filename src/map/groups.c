/* A turn looks at every process that maps something: its groups, from its own up to the root, and what it locks. What a
 * group holds besides our files is its usage without page cache, and shared memory that is not ours. Page cache can be
 * reclaimed by the kernel; what is ours is resident in the engine, and counts as if all of it was charged here, which
 * is the most that it can be.
 *
 * The files of a group share what is left of it evenly, beyond what each has. A group that has too little left gets it
 * back in parts of what each has. The engine does not let a file beyond its limit, so between two turns all of them
 * together stay within it.
 */
#include "map/groups.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/room.h"
#include "policy/scan.h"

#define TURN_NS (250 * NS_PER_MS)
#define MIB (UINT64_C(1) << 20)
/* Of a group's limit: pages that are charged ahead by processors, page tables, what grows between two turns. */
#define MARGIN_DIVISOR 8
#define MARGIN_MIN (4 * MIB)
#define MARGIN_MAX (256 * MIB)
/* Less than this would not let a process go on at all. */
#define LIMIT_MIN (2 * MIB)
/* Limits of groups that are as good as none. */
#define NO_LIMIT (UINT64_MAX >> 2)
/* Programs lock a little for their own purposes. */
#define LOCKED_MIN MIB
#define STUCK_NS (5 * NS_PER_S)
/* So much of the budget a file may come to use until its mappers are looked at again; locking is fast. */
#define GROWTH_FIRST_DIVISOR 4
#define GROWTH_DIVISOR 8
/* And this much in any case, so that a newcomer comes to be asked. */
#define GROWTH_MIN (2 * MIB)
/* Who owes the answer to a zap for so long may never give it. */
#define ANSWER_NS NS_PER_S

/* A process and a file that it maps, however often. */
struct entry {
	TAILQ_ENTRY(entry) link;
	pid_t pid;
	struct ramfile *file;
	unsigned int mappings;  /* under lock */
	bool used;              /* under lock: the turn works with it */
	uint64_t granted_bytes; /* the turn's: so much of what the process locks has its place in the budget */
};

TAILQ_HEAD(entry_list, entry);

struct groups {
	struct engine *engine;
	char root[2][PATH_MAX];  /* of version 1 (memory), and 2; empty: not mounted. Immutable */
	char below[2][PATH_MAX]; /* what part of the hierarchy is mounted there */
	struct lock lock;
	struct entry_list entries; /* under lock */
	bool turning;              /* under lock: a turn is at work */
	pthread_cond_t changed;    /* an entry's users fell, a turn ended */
	_Atomic bool stopping;
	int wanted; /* eventfd: a fault waits for a limit, or stopping */
	pthread_t thread;
	bool thread_runs;
};

/* --- reading what the kernel says ----------------------------------------------------------------------------- */

static bool read_text(const char *path, char *buf, size_t cap)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t got;

	if (fd < 0)
		return false;
	while (len + 1 < cap && (got = read(fd, buf + len, cap - 1 - len)) > 0)
		len += (size_t)got;
	buf[len] = '\0';
	return len > 0;
}

static bool read_number(const char *dir, const char *name, uint64_t *ret)
{
	char path[PATH_MAX + 64], text[64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return read_text(path, text, sizeof(text)) && sscanf(text, "%" SCNu64, ret) == 1;
}

/* The value of a line "key number" or "key: number". */
static uint64_t value_of(const char *text, const char *key)
{
	size_t length = strlen(key);
	uint64_t value = 0;

	for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL)
		if (strncmp(line, key, length) == 0 && strchr(" \t:", line[length])) {
			sscanf(line + length + strspn(line + length, " \t:"), "%" SCNu64, &value);
			break;
		}
	return value;
}

/* Where the hierarchies are mounted. */
static void find_roots(struct groups *groups)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char line[2 * PATH_MAX], below[PATH_MAX], root[PATH_MAX], type[64], options[512];

	while (file && fgets(line, sizeof(line), file)) {
		const char *rest = strstr(line, " - ");
		int version;

		if (!rest || sscanf(line, "%*s %*s %*s %4095s %4095s", below, root) != 2 ||
		    sscanf(rest, " - %63s %*s %511s", type, options) != 2)
			continue;
		version = strcmp(type, "cgroup2") == 0 ? 1 : 0;
		if (!version && (strcmp(type, "cgroup") != 0 || !strstr(options, "memory")))
			continue;
		if (groups->root[version][0])
			continue;
		snprintf(groups->root[version], PATH_MAX, "%s", root);
		snprintf(groups->below[version], PATH_MAX, "%s", below);
	}
	if (file)
		fclose(file);
}

/* The directory of the process's group, without a slash at the end. False: it has none that limits memory. */
static bool find_group(const struct groups *groups, pid_t pid, int version, char *ret)
{
	char path[64], text[8192], *group = NULL, *save = NULL;
	size_t below = strcmp(groups->below[version], "/") == 0 ? 0 : strlen(groups->below[version]);

	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	if (!groups->root[version][0] || !read_text(path, text, sizeof(text)))
		return false;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *controllers = strchr(line, ':'), *name = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!name)
			continue;
		*name++ = '\0';
		controllers++;
		if (version ? !*controllers : strstr(controllers, "memory") != NULL)
			group = name;
	}
	if (!group || strstr(group, "/.."))
		return false;
	if (below && strncmp(group, groups->below[version], below) == 0)
		group += below;
	if (snprintf(ret, PATH_MAX, "%s%s", groups->root[version], strcmp(group, "/") == 0 ? "" : group) >= PATH_MAX)
		return false;
	return true;
}

/* --- one turn -------------------------------------------------------------------------------------------------- */

struct subject {
	struct entry *entry;
	char group[2][PATH_MAX]; /* by version; empty: none */
	uint64_t locked_bytes;
	uint64_t limit_bytes;
};

struct turn {
	struct groups *groups;
	size_t count;
	struct subject *subject;
};

/* The group at dir, or one above it, is the subject's. */
static bool is_in(const struct subject *subject, int version, const char *dir)
{
	size_t length = strlen(dir);

	return subject->group[version][0] && strncmp(subject->group[version], dir, length) == 0 &&
	       (subject->group[version][length] == '/' || !subject->group[version][length]);
}

/* What the group may have, and what it has besides the files of its processes; shared memory is counted as theirs. */
static bool read_level(const char *dir, int version, uint64_t *ret_limit, uint64_t *ret_other, uint64_t *ret_shmem)
{
	static const char *const keys[2][2] = { { "total_cache", "total_shmem" }, { "file", "shmem" } };
	uint64_t limit = UINT64_MAX, high = UINT64_MAX, usage, cache;
	char path[PATH_MAX + 64], text[8192];

	read_number(dir, version ? "memory.max" : "memory.limit_in_bytes", &limit);
	if (version)
		read_number(dir, "memory.high", &high);
	limit = high < limit ? high : limit;
	if (limit >= NO_LIMIT || !read_number(dir, version ? "memory.current" : "memory.usage_in_bytes", &usage))
		return false;
	snprintf(path, sizeof(path), "%s/memory.stat", dir);
	if (!read_text(path, text, sizeof(text)))
		return false;
	cache = value_of(text, keys[version][0]);
	*ret_limit = limit;
	*ret_other = usage > cache ? usage - cache : 0;
	*ret_shmem = value_of(text, keys[version][1]);
	return true;
}

/* The same file may have several mappers. */
static bool is_first(const struct turn *turn, size_t i, int version, const char *dir)
{
	for (size_t k = 0; k < i; k++)
		if (turn->subject[k].entry->file == turn->subject[i].entry->file &&
		    is_in(&turn->subject[k], version, dir))
			return false;
	return true;
}

static bool is_first_of(const struct turn *turn, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (turn->subject[k].entry->file == turn->subject[i].entry->file)
			return false;
	return true;
}

static void lower(struct subject *subject, uint64_t limit)
{
	if (limit < subject->limit_bytes)
		subject->limit_bytes = limit;
}

static void look_at_level(struct turn *turn, int version, const char *dir)
{
	uint64_t limit, other, shmem, margin, room, resident = 0, files = 0;

	if (!read_level(dir, version, &limit, &other, &shmem))
		return;
	for (size_t i = 0; i < turn->count; i++) {
		if (!is_in(&turn->subject[i], version, dir) || !is_first(turn, i, version, dir))
			continue;
		resident += room_taken_by(turn->subject[i].entry->file);
		files++;
	}
	margin = limit / MARGIN_DIVISOR;
	margin = margin < MARGIN_MIN ? MARGIN_MIN : margin > MARGIN_MAX ? MARGIN_MAX : margin;
	other += margin + (shmem > resident ? shmem - resident : 0);
	room = limit > other ? limit - other : 0;
	for (size_t i = 0; i < turn->count; i++) {
		uint64_t has = room_taken_by(turn->subject[i].entry->file);

		if (!is_in(&turn->subject[i], version, dir))
			continue;
		if (room >= resident)
			lower(&turn->subject[i], has + (room - resident) / files);
		else
			lower(&turn->subject[i], (uint64_t)((double)has * (double)room / (double)resident));
	}
}

/* Each group once: that of the first subject that is in it. */
static void look_at_groups(struct turn *turn, int version)
{
	size_t root = strlen(turn->groups->root[version]);
	char dir[PATH_MAX];

	for (size_t i = 0; i < turn->count; i++) {
		if (!turn->subject[i].group[version][0])
			continue;
		snprintf(dir, sizeof(dir), "%s", turn->subject[i].group[version]);
		for (;;) {
			char *slash = strrchr(dir, '/');
			bool seen = false;

			for (size_t k = 0; k < i && !seen; k++)
				seen = is_in(&turn->subject[k], version, dir);
			if (seen)
				break;
			look_at_level(turn, version, dir);
			if (!slash || (size_t)(slash - dir) < root || strlen(dir) <= root)
				break;
			*slash = '\0';
		}
	}
}

static bool is_unmovable(const struct subject *subject)
{
	return subject->locked_bytes >= LOCKED_MIN;
}

static bool is_first_of_process(const struct turn *turn, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (turn->subject[k].entry->pid == turn->subject[i].entry->pid)
			return false;
	return true;
}

/* A process has its grant with each file that it maps. */
static void grant(const struct turn *turn, pid_t pid, uint64_t bytes)
{
	for (size_t i = 0; i < turn->count; i++)
		if (turn->subject[i].entry->pid == pid)
			turn->subject[i].entry->granted_bytes = bytes;
}

/* What a process locks beyond what it maps is not ours. */
static void leave_to_others(const struct turn *turn, struct subject *subject)
{
	uint64_t mapped = 0;

	for (size_t i = 0; i < turn->count; i++)
		if (turn->subject[i].entry->pid == subject->entry->pid)
			mapped += file_memory_bytes(turn->subject[i].entry->file);
	if (subject->locked_bytes > mapped)
		subject->locked_bytes = mapped;
}

/* The most that a file of the process counts as, and what of it has its place. */
static void sum_up(const struct turn *turn, size_t first, uint64_t *ret_locked, uint64_t *ret_granted)
{
	*ret_locked = *ret_granted = 0;
	for (size_t i = first; i < turn->count; i++) {
		uint64_t granted = turn->subject[i].entry->granted_bytes;

		if (turn->subject[i].entry->pid != turn->subject[first].entry->pid)
			continue;
		if (is_unmovable(&turn->subject[i]) && turn->subject[i].locked_bytes > *ret_locked)
			*ret_locked = turn->subject[i].locked_bytes;
		if (granted > *ret_granted)
			*ret_granted = granted;
	}
	if (*ret_granted > *ret_locked)
		*ret_granted = *ret_locked;
}

/* What cannot be demoted gets half of the budget, however many have some. Who has all of it granted is not limited:
 * what it does not lock can be demoted. Others share what is left, and take nothing from who was there before. */
static void look_at_locks(struct turn *turn)
{
	uint64_t most = engine_dram_bytes(turn->groups->engine) / 2, given = 0, held = 0, files = 0, locked, granted;

	for (size_t i = 0; i < turn->count; i++)
		if (is_unmovable(&turn->subject[i]))
			leave_to_others(turn, &turn->subject[i]);
	for (size_t i = 0; i < turn->count; i++)
		if (scan_is_stuck(turn->subject[i].entry->file, STUCK_NS))
			turn->subject[i].locked_bytes = UINT64_MAX / 2;
	for (size_t i = 0; i < turn->count; i++) {
		sum_up(turn, i, &locked, &granted);
		if (!is_first_of_process(turn, i))
			continue;
		if (granted > most - given) /* the budget was more */
			granted = most - given;
		grant(turn, turn->subject[i].entry->pid, granted);
		given += granted;
	}
	for (size_t i = 0; i < turn->count; i++)
		if (is_unmovable(&turn->subject[i]) && turn->subject[i].locked_bytes > most)
			held += room_taken_by(turn->subject[i].entry->file);
	for (size_t i = 0; i < turn->count; i++) {
		sum_up(turn, i, &locked, &granted);
		if (!is_first_of_process(turn, i) || locked - granted > most || given + held + locked - granted > most)
			continue;
		grant(turn, turn->subject[i].entry->pid, locked);
		given += locked - granted;
	}
	for (size_t i = 0; i < turn->count; i++)
		files += turn->subject[i].locked_bytes > turn->subject[i].entry->granted_bytes &&
			 is_unmovable(&turn->subject[i]);
	for (size_t i = 0; i < turn->count; i++) {
		granted = turn->subject[i].entry->granted_bytes;
		if (is_unmovable(&turn->subject[i]) && turn->subject[i].locked_bytes > granted)
			lower(&turn->subject[i], granted + (most - given) / files);
	}
}

static void look_at_process(const struct groups *groups, struct subject *subject)
{
	char path[64], text[8192];

	subject->limit_bytes = UINT64_MAX;
	for (int version = 0; version < 2; version++)
		if (!find_group(groups, subject->entry->pid, version, subject->group[version]))
			subject->group[version][0] = '\0';
	snprintf(path, sizeof(path), "/proc/%d/status", (int)subject->entry->pid);
	if (read_text(path, text, sizeof(text)))
		subject->locked_bytes = value_of(text, "VmLck") * 1024;
}

/* How much more each file may come to use. What its mappers have not answered for may never be demoted: of all files
 * together that is half of the budget, whoever they are. */
static uint64_t growth_of_each(const struct turn *turn)
{
	uint64_t most = engine_dram_bytes(turn->groups->engine) / 2, unproven = 0, files = 0, each;

	for (size_t i = 0; i < turn->count; i++) {
		struct ramfile *file = turn->subject[i].entry->file;
		uint64_t bytes;

		if (!is_first_of(turn, i))
			continue;
		bytes = scan_unproven_bytes(file, ANSWER_NS);
		unproven += bytes;
		files++;
	}
	each = files && unproven < most ? (most - unproven) / files : 0;
	for (size_t i = 0; i < turn->count; i++) {
		struct ramfile *file = turn->subject[i].entry->file;
		uint64_t bytes = scan_unproven_bytes(file, ANSWER_NS);

		if (bytes > (each < GROWTH_MIN ? GROWTH_MIN / 2 : most / GROWTH_DIVISOR) &&
		    !scan_is_stuck(file, ANSWER_NS))
			scan_want_proof(file);
	}
	return each;
}

static void set_growth(struct ramfile *file, uint64_t dram, uint64_t most)
{
	uint64_t has = room_taken_by(file), grows = dram / GROWTH_DIVISOR;

	if (has + grows < dram / GROWTH_FIRST_DIVISOR)
		grows = dram / GROWTH_FIRST_DIVISOR - has;
	if (grows > most)
		grows = most;
	if (grows < GROWTH_MIN && scan_unproven_bytes(file, ANSWER_NS) < GROWTH_MIN)
		grows = GROWTH_MIN;
	room_set_growth(file, has + grows);
}

/* The lowest limit of all that map it. */
static void set_limits(const struct turn *turn)
{
	uint64_t dram = engine_dram_bytes(turn->groups->engine), each = growth_of_each(turn);

	for (size_t i = 0; i < turn->count; i++) {
		struct ramfile *file = turn->subject[i].entry->file;
		uint64_t limit = UINT64_MAX;

		for (size_t k = 0; k < turn->count; k++)
			if (turn->subject[k].entry->file == file && turn->subject[k].limit_bytes < limit)
				limit = turn->subject[k].limit_bytes;
		room_set_limit(file, limit < LIMIT_MIN ? LIMIT_MIN : limit);
		if (is_first_of(turn, i))
			set_growth(file, dram, each);
	}
}

/* The entries of this moment, held. One turn goes on at a time: what is granted to one is what the others may not
 * have. */
static int hold(struct groups *groups, struct turn *ret)
{
	struct entry *entry;
	size_t count = 0;

	*ret = (struct turn){ .groups = groups };
	LOCK_SCOPE(&groups->lock);
	while (groups->turning)
		lock_wait(&groups->lock, &groups->changed);
	TAILQ_FOREACH(entry, &groups->entries, link)
		count++;
	ret->subject = calloc(count ? count : 1, sizeof(*ret->subject));
	if (!ret->subject)
		return -ENOMEM;
	groups->turning = true;
	TAILQ_FOREACH(entry, &groups->entries, link) {
		entry->used = true;
		ret->subject[ret->count++].entry = entry;
	}
	return 0;
}

static void let_go(struct turn *turn)
{
	lock_get(&turn->groups->lock);
	for (size_t i = 0; i < turn->count; i++)
		turn->subject[i].entry->used = false;
	turn->groups->turning = false;
	pthread_cond_broadcast(&turn->groups->changed);
	lock_put(&turn->groups->lock);
	free(turn->subject);
}

static int look(struct groups *groups, bool *ret_idle)
{
	struct turn turn;
	int err = hold(groups, &turn);

	if (err)
		return err;
	*ret_idle = turn.count == 0;
	for (size_t i = 0; i < turn.count; i++)
		look_at_process(groups, &turn.subject[i]);
	for (int version = 0; version < 2; version++)
		look_at_groups(&turn, version);
	look_at_locks(&turn);
	set_limits(&turn);
	let_go(&turn);
	return 0;
}

static void *watch(void *arg)
{
	struct groups *groups = arg;

	struct pollfd poll_fd = { .fd = groups->wanted, .events = POLLIN };
	uint64_t count;
	bool idle = true;

	while (!atomic_load(&groups->stopping)) {
		poll(&poll_fd, 1, idle ? -1 : (int)(TURN_NS / NS_PER_MS));
		if (read(groups->wanted, &count, sizeof(count)) < 0 && errno != EAGAIN)
			log_debug("limits of groups: %s", strerror(errno));
		look(groups, &idle); /* without memory for it, the next one */
	}
	return NULL;
}

static void want_look(void *arg)
{
	struct groups *groups = arg;
	uint64_t one = 1;

	if (write(groups->wanted, &one, sizeof(one)) < 0)
		log_debug("a look at groups was asked for before");
}

/* --- life ------------------------------------------------------------------------------------------------------- */

int groups_new(struct engine *engine, struct groups **ret)
{
	struct groups *groups = calloc(1, sizeof(*groups));
	int err;

	if (!groups)
		return -ENOMEM;
	groups->engine = engine;
	TAILQ_INIT(&groups->entries);
	lock_init(&groups->lock, LOCK_RANK_ATTACH);
	lock_cond_init(&groups->changed);
	find_roots(groups);
	groups->wanted = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = groups->wanted < 0 ? -errno : 0;
	if (!err)
		err = -pthread_create(&groups->thread, NULL, watch, groups);
	if (err) {
		groups_free(groups);
		return err;
	}
	groups->thread_runs = true;
	pthread_setname_np(groups->thread, "tierfs-groups");
	room_on_limit(engine, want_look, groups);
	*ret = groups;
	return 0;
}

void groups_free(struct groups *groups)
{
	if (!groups)
		return;
	if (groups->thread_runs) {
		room_on_limit(groups->engine, NULL, NULL);
		atomic_store(&groups->stopping, true);
		want_look(groups);
		pthread_join(groups->thread, NULL);
	}
	if (groups->wanted >= 0)
		close(groups->wanted);
	pthread_cond_destroy(&groups->changed);
	lock_fini(&groups->lock);
	free(groups);
}

/* Under lock. */
static struct entry *find_entry(struct groups *groups, pid_t pid, const struct ramfile *file)
{
	struct entry *entry;

	TAILQ_FOREACH(entry, &groups->entries, link)
		if (entry->pid == pid && entry->file == file)
			break;
	return entry;
}

/* Under lock: one mapping more. NULL: no memory. */
static struct entry *enter(struct groups *groups, pid_t pid, struct ramfile *file)
{
	struct entry *entry = find_entry(groups, pid, file);

	if (!entry) {
		entry = calloc(1, sizeof(*entry));
		if (!entry)
			return NULL;
		*entry = (struct entry){ .pid = pid, .file = file };
		TAILQ_INSERT_TAIL(&groups->entries, entry, link);
	}
	entry->mappings++;
	return entry;
}

int groups_add(struct groups *groups, pid_t pid, struct ramfile *file)
{
	struct entry *entry;
	bool idle, first;
	int err;

	lock_get(&groups->lock);
	entry = enter(groups, pid, file);
	first = entry && entry->mappings == 1;
	lock_put(&groups->lock);
	if (!entry)
		return -ENOMEM;
	if (!first)
		return 0;
	want_look(groups);
	err = look(groups, &idle);
	if (err)
		groups_remove(groups, pid, file);
	return err;
}

void groups_remove(struct groups *groups, pid_t pid, struct ramfile *file)
{
	struct entry *entry;
	bool last = true;

	LOCK_SCOPE(&groups->lock);
	entry = find_entry(groups, pid, file);
	if (!entry || --entry->mappings)
		return;
	TAILQ_REMOVE(&groups->entries, entry, link);
	while (entry->used)
		lock_wait(&groups->lock, &groups->changed);
	for (struct entry *other = TAILQ_FIRST(&groups->entries); other && last; other = TAILQ_NEXT(other, link))
		last = other->file != file;
	if (last) {
		room_set_limit(file, UINT64_MAX);
		room_set_growth(file, UINT64_MAX);
	}
	free(entry);
}
