/* lib/lib_scratch.c - mkdtemp, and a removal that follows no links and leaves other filesystems alone. */
#include "lib_scratch.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void scratch_new(struct scratch *scratch, const char *name)
{
	const char *base = getenv("TMPDIR");

	snprintf(scratch->path, sizeof(scratch->path), "%s/tierfs-%s-XXXXXX", base && *base ? base : "/tmp", name);
	if (!mkdtemp(scratch->path)) {
		perror(scratch->path);
		abort();
	}
}

static int remove_one(const char *path, const struct stat *attr, int type, struct FTW *at)
{
	(void)attr;
	(void)type;
	(void)at;
	return remove(path);
}

void scratch_free(struct scratch *scratch)
{
	nftw(scratch->path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

unsigned int scratch_descriptors(const char *part)
{
	unsigned int count = 0;
	struct dirent *entry;
	DIR *open = opendir("/proc/self/fd");

	if (!open) {
		perror("/proc/self/fd");
		abort();
	}
	while ((entry = readdir(open))) {
		char path[2 * SCRATCH_PATH_LEN];
		ssize_t len = readlinkat(dirfd(open), entry->d_name, path, sizeof(path) - 1);

		path[len > 0 ? len : 0] = '\0';
		count += strstr(path, part) != NULL;
	}
	closedir(open);
	return count;
}
