/* cold/meta.h - small records of a pool under short keys: names, inodes, what became of requests.
 *
 * A second contract of the store (cold/store.h has the words safe and durable, the errors, and the rules for threads).
 * Who keeps names needs this one, who keeps blocks the other.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "cold/store.h"

/* One change of a batch; value NULL removes the key. Keys are 1 to 512 bytes, values up to 64 KiB. */
struct meta_change {
	const void *key;
	size_t key_len;
	const void *value;
	size_t value_len;
};

/* Called for each record found, in the order of keys; both are valid during the call. Non-zero ends the walk and is
 * returned. */
typedef int meta_fn(void *arg, const void *key, size_t key_len, const void *value, size_t value_len);

struct meta_ops {
	/* An atomic batch, safe on return; durable as well if asked for. */
	int (*put)(struct store *store, const struct meta_change *changes, size_t count, bool durable);
	/* All records whose keys begin so. */
	int (*walk)(struct store *store, const void *prefix, size_t prefix_len, meta_fn *fn, void *arg);
};
