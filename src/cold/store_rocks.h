/* cold/store_rocks.h - the store of store.h on RocksDB and files of values. The directory must exist. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cold/store.h"

struct store_rocks_config {
	const char *dir; /* POOL/store */
	bool create;
	uint32_t block_bytes;        /* largest payload, for sizing buffers */
	uint64_t cache_bytes;        /* bound for caches of the database; 0: default */
	uint64_t write_buffer_bytes; /* bound for all memtables together; 0: default */
	uint32_t segment_bytes; /* size of files of values, a power of two of 1 to 64 MiB; 0: to suit the filesystem */
};

/* Starts threads: to be called after the last fork() of the process. */
int store_rocks_open(const struct store_rocks_config *config, struct store **ret);
