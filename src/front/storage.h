/* front/storage.h - the store of a mount: the pool's own on RocksDB, those of store.NAME=DIR, a warm part for each, and
 * in front of all the router (cold/stores.h).
 *
 * For the thread that starts and ends the daemon.
 */
#pragma once

#include <stdbool.h>

#include "cold/stores.h"
#include "front/options.h"
#include "pool/pool.h"

struct storage {
	struct store *store;     /* NULL: not open */
	int warm_fd[STORES_MAX]; /* directories of warm values; -1: none */
	bool left; /* warm values of a store that is not here are in the arenas' tmpfs, and nowhere else */
};

void storage_init(struct storage *storage);
/* What an earlier daemon left warm is found again, or goes below if this mount has no warm values. The line that says
 * what was wrong was logged. A store beside the pool's own that cannot be opened is said and left out, unless its
 * directory is the wrong one: that is an error, -ENOTEMPTY or -EINVAL. */
int storage_open(struct storage *storage, const struct pool *pool, const struct options *options);
/* Makes all durable and closes it; also after an error. False: something is left in the arenas' tmpfs alone. */
bool storage_close(struct storage *storage);
