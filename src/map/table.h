/* map/table.h - the mappings that are usable now, by id, and the threads that resolve their faults.
 *
 * Fault workers wait on an epoll set, which holds the userfaultfd of every mapping with EPOLLONESHOT: an event wakes
 * one worker, and the next one is announced when that worker begins to wait for something, or goes. It finds the
 * mapping by the id in the event and holds a reference while it works. Removing a mapping takes it out of the table and
 * the set, waits until no worker holds it, takes it from its file, and frees it.
 *
 * Where faults are resolved without a disk, what they cost most is to wake a processor up and to wake the toucher's up
 * again. There each of a few processors has a set and workers of its own: an event wakes one on each, and the one where
 * the toucher was has begun before the others are there. With a disk to wait for, one set for all is faster.
 *
 * Nobody is served at the cost of others. A worker turns to the next mapping after a few events of one, and a part of
 * the workers is never with the mappings of one tenant, however many processes it starts: they wait until it gives one
 * back (map/turns.h). Where no tenant is, a process counts as one. What came is read at once, and the fault of a
 * process's main thread goes first among those of its tenant (map/events.h). A worker that does not come back from a
 * process is replaced (map/peers.h).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "map/mapping.h"
#include "policy/tiering.h"

struct map_table;

/* quick: most values that faults need are in DRAM. */
int map_table_new(struct engine *engine, bool quick, struct map_table **ret);
void map_table_free(struct map_table *table); /* stops the workers; the table must be empty. Takes NULL */

/* Adds it to its file and to the table: from here on faults are resolved. On an error nothing has changed. */
int map_table_add(struct map_table *table, struct mapping *mapping);
/* Ends the mapping and frees it. Blocks until faults at work are done. */
void map_table_remove(struct map_table *table, struct mapping *mapping);
/* The calling thread begins to wait for something (on) or ends it. Nothing if it does not serve the mapping. */
void map_table_waiting(struct mapping *mapping, bool on);
unsigned int map_table_count(struct map_table *table);
struct peers *map_table_peers(struct map_table *table);
/* Until it is dropped, the mapping exists. For who knows that it does. */
void map_table_keep(struct mapping *mapping);
void map_table_drop(struct mapping *mapping);
