/* cold/store.h - the cold side of one pool: block payloads. Its other contract, small records, is cold/meta.h.
 *
 * The store keeps opaque values under (file, block). It knows nothing of DRAM, generations or FUSE. "Safe" means:
 * survives kill -9 of the daemon. "Durable" means: survives loss of power.
 *
 * Thread-safety: every function may be called from any thread at any time. Functions may block on I/O; call them
 * without locks. They return 0 or -errno, errors of the database being mapped in one place:
 *   -ENOENT   no value under that key
 *   -ENOSPC   the headroom that the database needs would be touched; nothing was written. Comes back by itself.
 *   -EIO      the device or the database failed; nothing that was safe before is lost
 *   -EBADMSG  the stored bytes fail their checksum
 * An error is logged once by the store when its kind changes, not for each call.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cold/use.h"

struct store;
struct meta_ops;

struct store_key {
	uint64_t ino;   /* file, never reused in the life of a pool */
	uint64_t block; /* block number in the file */
};

/* One encoded block: the bytes that codec_encode() made. */
struct store_item {
	struct store_key key;
	const void *value;
	uint32_t length_bytes;
};

/* So many first bytes of each value are kept where they are read without I/O. */
#define STORE_HEAD_BYTES 24

struct store_figures {
	uint64_t disk_bytes;                                   /* files of the database */
	uint64_t memory_bytes;                                 /* memtables, caches, indexes */
	uint64_t put_blocks, put_bytes, get_blocks, get_bytes; /* walks are gets, too */
	uint64_t errors;                                       /* calls that ended with -EIO, -EBADMSG or -ENOSPC */
	bool full;                                             /* the last write was refused with -ENOSPC */
	struct store_traffic traffic[STORE_USES];              /* of values */
	uint64_t index_written_bytes;                          /* the database's: its log, and files that it wrote */
	/* Of a warm store (cold/warm.h), else 0: what it may hold and holds, values that lie in it, gets that it
	 * answered, values that it moved below. */
	uint64_t warm_limit_bytes, warm_bytes, warm_blocks, warm_hits, warm_moved_blocks;
};

/* Called for each value found, in block order; value is valid during the call. Non-zero ends the walk and is returned.
 */
typedef int store_walk_fn(void *arg, struct store_key key, const void *value, uint32_t length_bytes);

/* A range of one file whose values another file shall have as well. */
struct store_share {
	uint64_t from, to; /* files */
	uint64_t first, count;
	/* May be NULL. May change the head that heads() shows of the value under `to`. */
	void (*edit)(void *arg, uint64_t block, uint8_t head[static STORE_HEAD_BYTES]);
	void *arg;
};

/* What hold() says. */
struct store_hold {
	uint64_t ino;
	/* Who changes something from busy_first to busy_last may wait for long. None: busy_first > busy_last. */
	uint64_t busy_first, busy_last;
	void *at; /* the store's own, and so is */
	unsigned int parity;
};

struct store_ops {
	/* Copies the value into buf. -ENOBUFS if cap is too small. */
	int (*get)(struct store *store, enum store_use use, struct store_key key, void *buf, size_t cap,
		   size_t *ret_len);
	/* All of the values present in [first, first + count) of a file, ordered, with read-ahead. A value that cannot
	 * be read is left out, and get() of it says why. fn may call the store. */
	int (*walk)(struct store *store, enum store_use use, uint64_t ino, uint64_t first, uint64_t count,
		    store_walk_fn *fn, void *arg);
	/* As walk, but value points to the first STORE_HEAD_BYTES of each value only (fewer if it is shorter), while
	 * length_bytes is that of the whole: codec_peek() is content with that. Reads no values, so it is cheap. */
	int (*heads)(struct store *store, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg);
	/* Puts a batch, replacing. On 0 all of it is safe; on an error each item is either old or new. */
	int (*put)(struct store *store, enum store_use use, const struct store_item *items, size_t count);
	/* Removes a range of blocks; on 0 that is safe. Much cheaper than count puts. */
	int (*remove)(struct store *store, uint64_t ino, uint64_t first, uint64_t count);
	/* The values of a range become those of the same blocks of another file, too. No value is read, written or
	 * copied; each takes a record. From then on the two files have nothing to do with each other: a put or a remove
	 * in one does not show in the other, and a value goes when the last file that has it lets it go. Nothing of the
	 * range may be stored under `to`, and nobody may change the range of `from` meanwhile. On an error some of the
	 * values are shared; a remove makes it good. */
	int (*share)(struct store *store, const struct store_share *share);
	/* Bytes of a file's values that other files have, too. No I/O. */
	uint64_t (*shared_bytes)(struct store *store, uint64_t ino);
	/* Optional: both are NULL in a store that has no part that is nearer. They are called when a clean block is
	 * demoted that may be needed again soon; the caller sees to it that nobody else changes its key meanwhile.
	 * renew: the value counts as new in the nearer part. False: it does not lie there.
	 * put_copies: values with the content that is stored already. They go to the nearer part if there is room, and
	 * may be dropped at any time. Blocks that have a value there are left out. */
	bool (*renew)(struct store *store, struct store_key key);
	void (*put_copies)(struct store *store, const struct store_item *items, size_t count);
	/* What sync() made durable of a file has been promised to somebody. From here on each of its blocks has, also
	 * after a loss of power, a value that can be read: that one, or one that was put later. Without this a record
	 * may be durable before the value that it names. Puts wait for the disk. Ends when all of the file is removed.
	 * File 0: all of them, as long as nobody knows which. May be NULL. */
	void (*keep)(struct store *store, uint64_t ino, bool keep);
	/* Optional, with let_go. A put or a remove may have to wait while the store moves a part of the file, until
	 * that is durable. Between hold() and let_go() those of one thread do not, but in the range that hold() says.
	 * Neither waits. It is held for a short time; a move waits meanwhile. */
	void (*hold)(struct store *store, uint64_t ino, struct store_hold *ret);
	void (*let_go)(struct store *store, const struct store_hold *hold);
	/* Makes everything that is safe durable. On an error nobody knows what of it is; a later sync that succeeds
	 * has made all of it durable, also what the failed one was about. */
	int (*sync)(struct store *store);
	/* As sync(), of what is stored of one file, and of all metadata: what other devices have is not waited for.
	 * NULL: there is one device, and it is sync(). */
	int (*sync_file)(struct store *store, uint64_t ino);
	/* How many devices there are, each of which is full or fails on its own. NULL: one. */
	unsigned int (*devices)(struct store *store);
	/* Figures that cost no I/O. */
	void (*figures)(struct store *store, struct store_figures *ret);
	/* Makes everything durable and closes. Takes NULL. */
	void (*free)(struct store *store);
};

/* Every implementation begins with this: store_rocks.h, warm.h, stores.h, the memory store of the tests
 * (tests/lib/lib_store_mem.h). */
struct store {
	const struct store_ops *ops;
	const struct meta_ops *meta;
};

static inline int store_sync_file(struct store *store, uint64_t ino)
{
	return store->ops->sync_file ? store->ops->sync_file(store, ino) : store->ops->sync(store);
}

static inline unsigned int store_devices(struct store *store)
{
	return store->ops->devices ? store->ops->devices(store) : 1;
}

static inline void store_hold(struct store *store, uint64_t ino, struct store_hold *ret)
{
	*ret = (struct store_hold){ .ino = ino, .busy_first = 1 };
	if (store->ops->hold)
		store->ops->hold(store, ino, ret);
}

static inline void store_let_go(struct store *store, const struct store_hold *hold)
{
	if (store->ops->let_go)
		store->ops->let_go(store, hold);
}

static inline bool store_is_busy(const struct store_hold *hold, uint64_t block)
{
	return block >= hold->busy_first && block <= hold->busy_last;
}
