/* cold/warm.h - a store in front of another one: values stay in DRAM for a while before they go below.
 *
 * What is put is appended to files in a directory on a tmpfs that outlives the daemon, so it is safe on return. When
 * those files hold more than they may, a thread moves the oldest values below. A get of a value that is still here is
 * one look in a table and one copy of memory. Format of the files: docs/format/store.md.
 *
 * The contract is that of store.h. In particular
 *  - the warm value of a block is always the newest one; below may have an older one, or none;
 *  - a remove is done here and below when it returns, and never comes back;
 *  - sync writes below whatever is only here, and syncs below: nothing on a tmpfs is durable;
 *  - when there is no more room and below refuses, put fails with the error of below;
 *  - metadata goes below as it is.
 * Put and get count what callers asked for, wherever the value was; the other figures are those of below.
 */
#pragma once

#include "cold/store.h"

#define WARM_BYTES_MIN (UINT64_C(4) << 20)

struct store_warm_config {
	struct store *below;  /* owned from success on: freed with this store */
	int dir_fd;           /* directory of the files, nobody else's; borrowed, as long as the store is open */
	uint64_t bytes;       /* the files never hold more, but for what an earlier daemon left; >= WARM_BYTES_MIN */
	uint32_t block_bytes; /* largest payload */
};

/* What an earlier daemon left in the directory is found again. -EINVAL: bytes is too small. */
int store_warm_open(const struct store_warm_config *config, struct store **ret);

/* For a mount without a warm store: moves below what an earlier daemon left in the directory, makes it durable and
 * removes the files. Below stays the caller's. On an error everything is where it was. */
int store_warm_drain(struct store *below, int dir_fd, uint32_t block_bytes);
