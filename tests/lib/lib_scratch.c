/* lib/lib_scratch.c - mkdtemp, and a removal that follows no links and leaves other filesystems alone. */
#include "lib_scratch.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

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
