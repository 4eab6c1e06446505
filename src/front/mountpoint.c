/* front/mountpoint.c - see mountpoint.h. The mount table is read, not the directory: a stat of a dead or hung mount
 * fails or hangs, and what is known without asking the filesystem is enough. */
#include "front/mountpoint.h"

#include <errno.h>
#include <libgen.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define FSTYPE "fuse.tierfs"
#define HELPER_OPTION "helper=tierfs" /* /sbin/umount.tierfs */
#define DETACH_MAX 64                 /* dead mounts on top of each other */

/* Runs a program quietly. 0: it succeeded; -EIO: it ran and failed; else it could not be run. */
static int run(const char *const argv[])
{
	const char *const environment[] = { "LC_ALL=C", NULL };
	posix_spawn_file_actions_t actions;
	int err, status = 0;
	pid_t child;

	err = -posix_spawn_file_actions_init(&actions);
	if (err < 0)
		return err;
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO && !err; fd++)
		err = -posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
	if (!err)
		err = -posix_spawn(&child, argv[0], &actions, NULL, (char *const *)argv, (char *const *)environment);
	posix_spawn_file_actions_destroy(&actions);
	if (err < 0)
		return err;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

void mountpoint_register(const char *source, const char *mountpoint)
{
	/* --fake: only the entry. Nothing of this may look at the mount, which nobody serves yet. */
	const char *const argv[] = { "/bin/mount", "-i",          "--fake", "--no-canonicalize", "-t", FSTYPE,
				     "-o",         HELPER_OPTION, source,   mountpoint,          NULL };
	int err = run(argv);

	if (err < 0)
		log_debug("%s: umount(8) will not wait for the daemon: %s", mountpoint, strerror(-err));
}

int mountpoint_unmount(const char *mountpoint, bool lazy)
{
	const char *const argv[] = { "/bin/umount", lazy ? "-il" : "-i", mountpoint, NULL };

	/* umount(8) also forgets the entry of mountpoint_register(). */
	if (run(argv) == 0)
		return 0;
	return umount2(mountpoint, lazy ? MNT_DETACH : 0) < 0 ? -errno : 0;
}

/* Octal escapes (space, tab, newline, backslash) of one field, in place. */
static void unescape(char *text)
{
	char *out = text;

	while (*text) {
		if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] >= '0' && text[2] <= '7' &&
		    text[3] >= '0' && text[3] <= '7') {
			*out++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
			text += 4;
		} else {
			*out++ = *text++;
		}
	}
	*out = '\0';
}

int mountpoint_match(const char *line, const char *path)
{
	CLEANUP_FREE char *copy = strdup(line);
	char *field = NULL, *rest = copy, *separator;

	if (!copy)
		return -ENOMEM;
	separator = strstr(copy, " - ");
	if (!separator || strncmp(separator + 3, FSTYPE " ", sizeof(FSTYPE)) != 0)
		return 0;
	for (int i = 0; i < 5; i++) /* id, parent, device, root, mount point */
		field = strsep(&rest, " ");
	if (!field)
		return 0;
	unescape(field);
	return strcmp(field, path) == 0;
}

/* How a line is looked at: 0 to go on, else what is_in_table() returns. */
typedef int line_fn(void *arg, const char *line);

static int is_in_table(line_fn *fn, void *arg)
{
	FILE *table = fopen("/proc/self/mountinfo", "re");
	CLEANUP_FREE char *line = NULL;
	size_t cap = 0;
	int found = 0;

	if (!table)
		return -errno;
	while (found == 0 && getline(&line, &cap, table) > 0)
		found = fn(arg, line);
	fclose(table);
	return found;
}

static int match_path(void *path, const char *line)
{
	return mountpoint_match(line, path);
}

/* 1 if a tierfs is mounted there. */
static int is_mounted(const char *path)
{
	return is_in_table(match_path, (void *)path);
}

static int device_of(const char *line, char device[static MOUNTPOINT_DEVICE_LEN])
{
	return sscanf(line, "%*d %*d %31s", device) == 1; /* id, parent, device */
}

static int match_device(void *device, const char *line)
{
	char of_line[MOUNTPOINT_DEVICE_LEN];

	return device_of(line, of_line) && strcmp(of_line, device) == 0;
}

struct on_path {
	const char *path;
	char *device;
	int err;
};

/* The last one is on top. */
static int note_device(void *arg, const char *line)
{
	struct on_path *on_path = arg;

	if (mountpoint_match(line, on_path->path) > 0 && device_of(line, on_path->device))
		on_path->err = 0;
	return 0;
}

int mountpoint_device(const char *path, char ret[static MOUNTPOINT_DEVICE_LEN])
{
	struct on_path on_path = { .path = path, .device = ret, .err = -ENOENT };
	int err = is_in_table(note_device, &on_path);

	return err < 0 ? err : on_path.err;
}

bool mountpoint_has_device(const char *device)
{
	return is_in_table(match_device, (void *)device) != 0;
}

/* The canonical name, without a question to the last component, which may be a dead mount. */
static int canonical(const char *path, char **ret)
{
	CLEANUP_FREE char *for_dir = strdup(path), *for_base = strdup(path), *dir = NULL;
	const char *base;
	struct statx attr;
	char *name;

	if (!for_dir || !for_base)
		return -ENOMEM;
	base = basename(for_base);
	/* A last component that leads elsewhere has to be followed. */
	if (strcmp(base, ".") == 0 || strcmp(base, "..") == 0 || strcmp(base, "/") == 0 ||
	    (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &attr) ==
		     0 &&
	     S_ISLNK(attr.stx_mode))) {
		name = realpath(path, NULL);
		if (!name)
			return -errno;
	} else {
		dir = realpath(dirname(for_dir), NULL);
		if (!dir)
			return -errno;
		if (asprintf(&name, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, base) < 0)
			return -ENOMEM;
	}
	*ret = name;
	return 0;
}

static int clear_dead(const char *path)
{
	struct statfs fs;
	int mounted, err;

	for (int i = 0; i < DETACH_MAX; i++) {
		mounted = is_mounted(path);
		if (mounted <= 0)
			return mounted;
		/* Attributes may come from the kernel's cache; this one always asks. */
		if (statfs(path, &fs) == 0 || (errno != ENOTCONN && errno != ECONNABORTED))
			return -EBUSY;
		err = mountpoint_unmount(path, true);
		if (err < 0)
			return err;
		log_info("%s: took away the mount of a tierfs that is gone", path);
	}
	return -EBUSY;
}

int mountpoint_name(const char *path, char **ret)
{
	return canonical(path, ret);
}

int mountpoint_claim(const char *path, char **ret)
{
	CLEANUP_FREE char *name = NULL;
	struct stat attr;
	int err = canonical(path, &name);

	if (!err)
		err = clear_dead(name);
	if (err == -EBUSY) {
		log_error("%s: a tierfs is mounted there already", name);
		return err;
	}
	if (!err && stat(name, &attr) < 0)
		err = -errno;
	if (!err && !S_ISDIR(attr.st_mode))
		err = -ENOTDIR;
	if (err < 0) {
		log_error("%s: cannot be mounted on: %s", path, strerror(-err));
		return err;
	}
	*ret = STEAL_PTR(name);
	return 0;
}

int mountpoint_check_pool(const char *mountpoint, const char *pool_dir)
{
	size_t len = strlen(mountpoint);

	if (strncmp(pool_dir, mountpoint, len) != 0 || (pool_dir[len] != '/' && pool_dir[len] != '\0' && len > 1))
		return 0;
	log_error("%s: the pool %s lies below it; mount somewhere else", mountpoint, pool_dir);
	return -EINVAL;
}
