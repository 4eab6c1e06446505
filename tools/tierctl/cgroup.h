/* cgroup.h - a memory cgroup for one program: with a limit on what it and the kernel's cache for it may use, the kernel
 * itself chooses which pages of plain mappings leave. Version 1 and 2 of the interface. 0 or -errno.
 */
#pragma once

#include <limits.h>
#include <stdint.h>

struct cgroup {
	char path[PATH_MAX]; /* of its directory */
};

/* Makes one, next to or below that of this process. *ret_what names the file that err is about. -ENOENT: this host has
 * no memory cgroups that one may be made in. */
int cgroup_new(uint64_t limit_bytes, struct cgroup *ret, char ret_what[static PATH_MAX]);
/* This process goes in, with what it starts. */
int cgroup_enter(const struct cgroup *cgroup);
/* Removes it. -EBUSY: a process is in it still. */
int cgroup_remove(const struct cgroup *cgroup);
