/* map/groups.h - how much DRAM the processes that map files may have, by what the system says of them.
 *
 * Attached memory is charged to the memory cgroup of the process that touches it, and a group that is full is ended by
 * the OOM killer, however much of the budget is free. So each file gets a limit (room_set_limit()): what is there of
 * it, and its part of what is free in the tightest group of its mappers, versions 1 and 2, with a margin.
 *
 * Memory that a process locks (mlock(2)), or whose agent does not answer, cannot be demoted. Half of the budget, over
 * all who do, is all that such memory gets. Who locks while there is room keeps it; beyond it their faults wait, and
 * nobody else's. Whether an agent answers is known only afterwards: what came to a file since its mappers last
 * acknowledged a zap is not proven yet, and nothing of it is if they owe one for a second. All unproven memory together
 * stays within the same half. A file that needs more gets a round at once, and goes on with its answer; who never
 * answers stays where it is, and others have the rest.
 *
 * Looked at when a mapping is added, and a few times a second by a thread. Thread-safe. 0 or -errno.
 */
#pragma once

#include <sys/types.h>

#include "engine/ramfile.h"
#include "policy/tiering.h"

struct groups;

int groups_new(struct engine *engine, struct groups **ret);
void groups_free(struct groups *groups); /* all mappings must have been removed. Takes NULL */

/* The process maps the file, once more, which stays until groups_remove(). Returns when the file's limit is known. */
int groups_add(struct groups *groups, pid_t pid, struct ramfile *file);
void groups_remove(struct groups *groups, pid_t pid, struct ramfile *file);
