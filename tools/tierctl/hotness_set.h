/* hotness_set.h - the hotness of a RAM file in memory: from the file itself, or from a file that was exported. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <tierfs/access.h>
#include <tierfs/hotness.h>

struct hotness_set {
	struct tierfs_hotness_header header;
	struct tierfs_hotness_record *record; /* in order; owned */
	size_t count, cap;
	struct tierfs_access_ages live; /* zero if it comes from an exported file */
	bool is_live;
};

/* All print the one line of an error and return 1, or 0. */
/* compare: say of resident blocks whether they changed since they were stored, which reads them. */
int hotness_set_read_ram(struct hotness_set *set, const char *path, bool compare);
int hotness_set_load(struct hotness_set *set, const char *path);
int hotness_set_save(const struct hotness_set *set, const char *path);
/* Whichever of the two the path is. */
int hotness_set_read(struct hotness_set *set, const char *path);
void hotness_set_free(struct hotness_set *set);
