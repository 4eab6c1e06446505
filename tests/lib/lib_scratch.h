/* lib/lib_scratch.h - a directory of its own for a test, in $TMPDIR or /tmp. Failures abort: a test cannot go on
 * without. */
#pragma once

#define SCRATCH_PATH_LEN 256

struct scratch {
	char path[SCRATCH_PATH_LEN];
};

void scratch_new(struct scratch *scratch, const char *name);
/* Removes the directory and all in it. */
void scratch_free(struct scratch *scratch);
/* Descriptors of this process that are open on a path with that in it. */
unsigned int scratch_descriptors(const char *part);
