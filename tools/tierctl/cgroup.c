/* cgroup.c - see cgroup.h.
 *
 * In version 2 a group may hold processes or hand out controllers, not both. So the new group becomes a child of the
 * nearest one above us that hands out memory already. Version 1 has no such rule: it becomes a child of ours.
 *
 * The limits differ. memory.high makes who is above it reclaim, and wait, and never ends a process. Version 1 has only
 * a limit that may end one, when nothing can be reclaimed in time.
 */
#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

#define TRIES 20
#define TRY_NS 50000000

static int write_file(const char *dir, const char *name, const char *text, char ret_what[static PATH_MAX])
{
	CLEANUP_CLOSE int fd = -1;

	if (snprintf(ret_what, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
		return -ENAMETOOLONG;
	fd = open(ret_what, O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* Where the hierarchy with the memory controller is mounted. */
static bool find_mount(bool *ret_v2, char ret[static PATH_MAX])
{
	CLEANUP_FREE char *line = NULL;
	FILE *table = fopen("/proc/self/mounts", "re");
	char dir[PATH_MAX], type[32], options[1024];
	bool v1 = false, v2 = false;
	size_t cap = 0;

	while (table && !v1 && getline(&line, &cap, table) > 0) {
		if (sscanf(line, "%*s %4095s %31s %1023s", dir, type, options) != 3)
			continue;
		v1 = !strcmp(type, "cgroup") && strstr(options, "memory");
		if (v1 || (!v2 && !strcmp(type, "cgroup2"))) {
			strcpy(ret, dir);
			v2 = !v1;
		}
	}
	if (table)
		fclose(table);
	*ret_v2 = !v1;
	return v1 || v2;
}

/* The group of this process below the mount: "/" and more. Lines are "NUMBER:CONTROLLERS:PATH". */
static void find_own(bool v2, char ret[static PATH_MAX])
{
	CLEANUP_FREE char *line = NULL;
	FILE *table = fopen("/proc/self/cgroup", "re");
	size_t cap = 0;

	strcpy(ret, "");
	while (table && getline(&line, &cap, table) > 0) {
		char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!path)
			continue;
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (v2 ? controllers[1] == '\0' : !!strstr(controllers, "memory"))
			snprintf(ret, PATH_MAX, "%s", path);
	}
	if (table)
		fclose(table);
}

static bool hands_out_memory(const char *dir)
{
	char path[PATH_MAX], text[256] = "";
	CLEANUP_CLOSE int fd = -1;

	if (snprintf(path, sizeof(path), "%s/cgroup.subtree_control", dir) >= (int)sizeof(path))
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && strstr(text, "memory");
}

static bool is_usable(const char *dir, bool v2)
{
	struct stat attr;

	return stat(dir, &attr) == 0 && (!v2 || hands_out_memory(dir));
}

static int find_parent(bool *ret_v2, char ret[static PATH_MAX])
{
	char mount[PATH_MAX], own[PATH_MAX];

	if (!find_mount(ret_v2, mount))
		return -ENOENT;
	find_own(*ret_v2, own);
	for (;;) {
		char *slash = strrchr(own, '/');

		if (snprintf(ret, PATH_MAX, "%s%s", mount, own) >= PATH_MAX)
			return -ENAMETOOLONG;
		if (is_usable(ret, *ret_v2))
			return 0;
		if (!slash)
			return -ENOENT;
		*slash = '\0';
	}
}

int cgroup_new(uint64_t limit_bytes, struct cgroup *ret, char ret_what[static PATH_MAX])
{
	char parent[PATH_MAX], limit[32];
	bool v2;
	int err = find_parent(&v2, parent);

	snprintf(ret_what, PATH_MAX, "memory cgroup");
	if (err)
		return err;
	if (snprintf(ret->path, sizeof(ret->path), "%s/tierctl-%d", parent, (int)getpid()) >= (int)sizeof(ret->path))
		return -ENAMETOOLONG;
	memcpy(ret_what, ret->path, sizeof(ret->path));
	if (mkdir(ret->path, 0755) < 0)
		return -errno;
	snprintf(limit, sizeof(limit), "%llu", (unsigned long long)limit_bytes);
	err = write_file(ret->path, v2 ? "memory.high" : "memory.limit_in_bytes", limit, ret_what);
	if (err)
		rmdir(ret->path);
	return err;
}

int cgroup_enter(const struct cgroup *cgroup)
{
	char what[PATH_MAX];

	return write_file(cgroup->path, "cgroup.procs", "0", what);
}

int cgroup_remove(const struct cgroup *cgroup)
{
	/* The last process leaves it a moment after it was waited for. */
	for (int i = 0; i < TRIES; i++) {
		if (rmdir(cgroup->path) == 0 || errno == ENOENT)
			return 0;
		if (errno != EBUSY)
			return -errno;
		nanosleep(&(struct timespec){ .tv_nsec = TRY_NS }, NULL);
	}
	return -EBUSY;
}
