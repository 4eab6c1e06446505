/* map/evict_mappers.h - who maps the files of one filesystem, as /proc says. For the worker of evict_child.h: one
 * thread.
 *
 * What was found is kept for a second, or longer where looking costs a lot; by then it may be wrong. Wrong addresses do
 * no harm: to page something out is a hint that any process may be given.
 */
#pragma once

#include "map/evict.h"

struct evict_mappers;

int evict_mappers_new(struct evict_mappers **ret);

/* Brings the table up to date for the files of dev; again: whatever its age. */
void evict_mappers_look(struct evict_mappers *mappers, uint64_t dev, bool again);

/* Opens the file by way of a mapping: a descriptor or -errno, -ESRCH when nobody is known to map it. */
int evict_mappers_open(struct evict_mappers *mappers, uint64_t ino);

/* Asks every process that maps the file to let go of these ranges. False: an address was not right any more. Sets the
 * fields of *summary that are about mappers. */
bool evict_mappers_pageout(struct evict_mappers *mappers, uint64_t ino, const struct evict_range *ranges, size_t count,
			   struct evict_summary *summary);
