#include "map/evict_mappers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define PROCESSES_MAX 1024U
#define MAPPINGS_MAX 16384U
#define TEXT_BYTES 65536U
#define OPENS_MAX 8U /* mappings that are tried */
#define AGE_NS NS_PER_S
#define AGE_PER_COST 20U /* looking takes a twentieth of the time at most */

struct process {
	pid_t pid;
	int pidfd;
	int err; /* of asking it, 0 or -errno */
};

struct mapping {
	uint64_t ino;
	uint64_t start, end; /* addresses */
	uint64_t offset;     /* of start, in the file */
	unsigned int process;
};

struct evict_mappers {
	uint64_t dev;
	uint64_t fresh_until_ns;
	unsigned int processes, mappings;
	struct process process[PROCESSES_MAX];
	struct mapping mapping[MAPPINGS_MAX];
	char text[TEXT_BYTES];
	struct iovec iov[IOV_MAX];
};

int evict_mappers_new(struct evict_mappers **ret)
{
	struct evict_mappers *mappers = calloc(1, sizeof(*mappers));

	if (!mappers)
		return -ENOMEM;
	*ret = mappers;
	return 0;
}

static void forget(struct evict_mappers *mappers)
{
	for (unsigned int i = 0; i < mappers->processes; i++)
		if (mappers->process[i].pidfd >= 0)
			close(mappers->process[i].pidfd);
	mappers->processes = mappers->mappings = 0;
}

/* ---- looking ---- */

/* The number at *at, which moves behind it and behind the character that ended it. */
static uint64_t number(const char **at, unsigned int base)
{
	uint64_t value = 0;

	for (;; (*at)++) {
		char c = **at;
		unsigned int digit = c >= '0' && c <= '9'   ? (unsigned int)(c - '0')
				     : c >= 'a' && c <= 'f' ? (unsigned int)(c - 'a') + 10
							    : base;

		if (digit >= base)
			break;
		value = value * base + digit;
	}
	if (**at && **at != '\n')
		(*at)++;
	return value;
}

/* A line of /proc/PID/maps: "start-end perms offset major:minor inode   path". False: not of our filesystem. */
static bool parse(const char *line, uint64_t dev, struct mapping *ret)
{
	unsigned int major_nr, minor_nr;

	ret->start = number(&line, 16);
	ret->end = number(&line, 16);
	while (*line && *line != ' ' && *line != '\n')
		line++;
	if (*line != ' ')
		return false;
	line++;
	ret->offset = number(&line, 16);
	major_nr = (unsigned int)number(&line, 16);
	minor_nr = (unsigned int)number(&line, 16);
	if (makedev(major_nr, minor_nr) != dev)
		return false;
	ret->ino = number(&line, 10);
	return ret->ino != 0 && ret->start < ret->end;
}

/* The process gets a row with its first mapping. One that is gone before it has a pidfd is left out with its mappings;
 * if its number went to another process, that one is asked in vain. */
static bool add(struct evict_mappers *mappers, pid_t pid, const struct mapping *mapping)
{
	unsigned int last = mappers->processes;

	if (mappers->mappings == MAPPINGS_MAX)
		return false;
	if (last == 0 || mappers->process[last - 1].pid != pid) {
		struct process process = { .pid = pid, .pidfd = -1 };

		if (last == PROCESSES_MAX)
			return false;
		process.pidfd = pidfd_open(pid, 0);
		if (process.pidfd < 0)
			process.err = -errno;
		if (process.err == -ESRCH)
			return false;
		mappers->process[mappers->processes++] = process;
	}
	mappers->mapping[mappers->mappings] = *mapping;
	mappers->mapping[mappers->mappings++].process = mappers->processes - 1;
	return true;
}

static void look_at(struct evict_mappers *mappers, pid_t pid)
{
	CLEANUP_CLOSE int fd = -1;
	char path[64];
	size_t have = 0;
	ssize_t got;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	while ((got = read(fd, mappers->text + have, TEXT_BYTES - 1 - have)) > 0) {
		char *line = mappers->text, *end;

		have += (size_t)got;
		mappers->text[have] = '\0';
		while ((end = strchr(line, '\n'))) {
			struct mapping mapping;

			if (parse(line, mappers->dev, &mapping) && !add(mappers, pid, &mapping))
				return;
			line = end + 1;
		}
		have -= (size_t)(line - mappers->text);
		memmove(mappers->text, line, have);
		if (have == TEXT_BYTES - 1)
			return; /* no line is that long */
	}
}

void evict_mappers_look(struct evict_mappers *mappers, uint64_t dev, bool again)
{
	uint64_t now_ns = clock_ns(), cost_ns;
	struct dirent *entry;
	DIR *proc;

	if (!again && mappers->dev == dev && now_ns < mappers->fresh_until_ns)
		return;
	forget(mappers);
	mappers->dev = dev;
	mappers->fresh_until_ns = 0;
	proc = opendir("/proc");
	if (!proc)
		return;
	while ((entry = readdir(proc))) {
		pid_t pid = atoi(entry->d_name);

		if (pid > 0 && pid != getpid())
			look_at(mappers, pid);
	}
	closedir(proc);
	cost_ns = clock_ns() - now_ns;
	mappers->fresh_until_ns = now_ns + (cost_ns * AGE_PER_COST > AGE_NS ? cost_ns * AGE_PER_COST : AGE_NS);
}

/* ---- using ---- */

static int open_mapping(const struct evict_mappers *mappers, const struct mapping *mapping)
{
	char path[96];
	struct stat attr;
	int fd, err;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", (int)mappers->process[mapping->process].pid,
		 (unsigned long)mapping->start, (unsigned long)mapping->end);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOATIME);
	if (fd < 0 && (errno == EROFS || errno == EACCES))
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NOATIME);
	if (fd < 0)
		return -errno;
	err = fstat(fd, &attr) < 0 ? -errno : 0;
	if (!err && (attr.st_dev != mappers->dev || attr.st_ino != mapping->ino))
		err = -ENOENT;
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

int evict_mappers_open(struct evict_mappers *mappers, uint64_t ino)
{
	unsigned int tried = 0;
	int fd = -ESRCH;

	for (unsigned int i = 0; i < mappers->mappings && tried < OPENS_MAX; i++) {
		if (mappers->mapping[i].ino != ino)
			continue;
		fd = open_mapping(mappers, &mappers->mapping[i]);
		if (fd >= 0)
			return fd;
		tried++;
	}
	return fd;
}

/* The kernel stops at the first element that it refuses: then the vector goes on from there, to learn why, and behind
 * it. False: an address was not right. */
static bool advise(struct process *process, struct iovec *iov, size_t count)
{
	bool right = true;

	while (count > 0) {
		ssize_t done = process_madvise(process->pidfd, iov, count, MADV_PAGEOUT, 0);
		int err = done < 0 ? -errno : 0;
		size_t skip = 0;

		while (skip < count && done >= (ssize_t)iov[skip].iov_len)
			done -= (ssize_t)iov[skip++].iov_len;
		if (err == -ENOMEM || err == -ESRCH)
			right = false;
		else if (err)
			process->err = err;
		if (err == -ESRCH || err == -EPERM)
			break;
		skip += skip == 0;
		iov += skip;
		count -= skip;
	}
	return right;
}

/* The addresses that show a part of the range. False: there are none. */
static bool overlap(const struct mapping *mapping, const struct evict_range *range, struct iovec *ret)
{
	uint64_t mapping_end = mapping->offset + (mapping->end - mapping->start);
	uint64_t range_end = range->offset + range->length;
	uint64_t from = range->offset > mapping->offset ? range->offset : mapping->offset;
	uint64_t to = range_end < mapping_end ? range_end : mapping_end;

	if (from >= to)
		return false;
	ret->iov_base = (void *)(uintptr_t)(mapping->start + (from - mapping->offset)); /* NOLINT: another's address */
	ret->iov_len = to - from;
	return true;
}

static bool pageout_mapping(struct evict_mappers *mappers, const struct mapping *mapping,
			    const struct evict_range *ranges, size_t count)
{
	struct process *process = &mappers->process[mapping->process];
	bool right = true;
	size_t used = 0;

	if (process->pidfd < 0)
		return true;
	for (size_t i = 0; i < count; i++) {
		used += overlap(mapping, &ranges[i], &mappers->iov[used]);
		if (used == IOV_MAX) {
			right &= advise(process, mappers->iov, used);
			used = 0;
		}
	}
	if (used)
		right &= advise(process, mappers->iov, used);
	return right;
}

bool evict_mappers_pageout(struct evict_mappers *mappers, uint64_t ino, const struct evict_range *ranges, size_t count,
			   struct evict_summary *summary)
{
	unsigned int last = UINT_MAX;
	bool right = true;

	summary->mappers = 0;
	summary->other = 0;
	summary->other_error = 0;
	for (unsigned int i = 0; i < mappers->processes; i++)
		if (mappers->process[i].pidfd >= 0)
			mappers->process[i].err = 0;
	for (unsigned int i = 0; i < mappers->mappings; i++)
		if (mappers->mapping[i].ino == ino)
			right &= pageout_mapping(mappers, &mappers->mapping[i], ranges, count);
	for (unsigned int i = 0; i < mappers->mappings; i++) {
		const struct process *process = &mappers->process[mappers->mapping[i].process];

		if (mappers->mapping[i].ino != ino || mappers->mapping[i].process == last)
			continue;
		last = mappers->mapping[i].process;
		summary->mappers++;
		summary->other += process->err != 0;
		if (process->err)
			summary->other_error = process->err;
	}
	return right;
}
