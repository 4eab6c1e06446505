/* cold/rocks.h - the database (RocksDB): small records in two families, through a write-ahead log.
 *
 * Names and such (metadata) are few, are all read at a mount, and change together in atomic batches. Records that say
 * where a value lies are many, and go by ranges. Apart, a walk of one never passes the tombstones of the other, and
 * each is compacted for itself; they still share one log, so that one sync covers both.
 *
 * Records are safe when rocks_write() returns, and durable if that was asked for or rocks_sync() came after. When the
 * database fails it often stays failed, although the reason is gone; rocks_reopen() closes and opens it under its
 * users.
 *
 * Thread-safety: all functions but open and close. Functions return 0 or -errno as store_error_number() says, and log
 * the database's own words once when the kind of error changes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rocks;

enum rocks_family {
	ROCKS_META,  /* metadata records of the pool */
	ROCKS_INDEX, /* where values lie */
};
#define ROCKS_FAMILIES 2

struct rocks_config {
	const char *dir;
	bool create; /* if there is none; else -ENOENT */
	uint64_t cache_bytes;
	uint64_t buffer_bytes; /* all memtables together */
};

int rocks_open(const struct rocks_config *config, struct rocks **ret);
/* Closes; what is safe stays safe. Takes NULL. */
void rocks_close(struct rocks *rocks);
/* Waits for calls under way. After an error the database is closed, every call answers -EIO, and this may be tried
 * again. */
int rocks_reopen(struct rocks *rocks);

enum rocks_change_kind {
	ROCKS_PUT,
	ROCKS_DELETE,
	ROCKS_DELETE_RANGE, /* from key on, before the key that stands as value */
};

struct rocks_change {
	enum rocks_family family;
	enum rocks_change_kind kind;
	const void *key;
	size_t key_len;
	const void *value;
	size_t value_len;
};

/* All changes or none. After an error each record is either old or new, and which is known only after a reopen. */
int rocks_write(struct rocks *rocks, const struct rocks_change *changes, size_t count, bool durable);

/* Keys of a walk: from first on and before end; no end if that is NULL. */
struct rocks_range {
	const void *first;
	size_t first_len;
	const void *end;
	size_t end_len;
};

/* Records of a range, in order, until fn returns non-zero, which is returned. fn runs on copies and without any lock of
 * this file, so it may use the database; it sees changes that are made meanwhile or not. */
typedef int rocks_fn(void *arg, const void *key, size_t key_len, const void *value, size_t value_len);
int rocks_walk(struct rocks *rocks, enum rocks_family family, const struct rocks_range *range, rocks_fn *fn, void *arg);

/* Makes everything durable. */
int rocks_sync(struct rocks *rocks);
void rocks_figures(struct rocks *rocks, uint64_t *ret_disk_bytes, uint64_t *ret_memory_bytes);
/* Bytes that it has written so far, to its log and to its files. */
uint64_t rocks_written(struct rocks *rocks);
