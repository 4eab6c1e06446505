/* lib/lib_store_mem.h - a store in memory, for tests: same contract as the one on RocksDB, plus ways to make it fail.
 *
 * What was acknowledged is "safe" and is kept by store_mem_crash(); what was also synced, or put with durable, is kept
 * by store_mem_power_loss(). Faults are injected before a call has any effect; a put that fails by injection may leave
 * any of its items in place when store_mem_tear_puts() is on, as the contract allows.
 *
 * Thread-safety: all functions, at any time.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cold/store.h"

enum store_mem_call {
	STORE_MEM_GET,
	STORE_MEM_WALK,
	STORE_MEM_PUT,
	STORE_MEM_REMOVE,
	STORE_MEM_SHARE,
	STORE_MEM_META_PUT,
	STORE_MEM_META_WALK,
	STORE_MEM_SYNC,
	STORE_MEM_CALLS, /* count; also: "any call" for the functions below */
};

int store_mem_new(struct store **ret);

/* The nth call from now (1: the next) fails with error (positive errno), once. 0 takes it back. */
void store_mem_fail_nth(struct store *store, enum store_mem_call call, uint64_t nth, int error);
/* Every call fails with error until called with error 0. */
void store_mem_fail_all(struct store *store, enum store_mem_call call, int error);
/* Every call sleeps before it has any effect. */
void store_mem_delay(struct store *store, enum store_mem_call call, uint64_t delay_ns);
/* Puts that fail by injection leave a random choice of their items in place. seed 0: off. */
void store_mem_tear_puts(struct store *store, uint64_t seed);

/* Calls made so far, failed ones included. */
uint64_t store_mem_calls(struct store *store, enum store_mem_call call);

/* The daemon dies and the store is opened again: calls under way end with -EIO and without effect, faults are taken
 * back, and the content is exactly what was safe. The handle stays valid. */
void store_mem_crash(struct store *store);
/* The same for the host: the content is exactly what was durable. */
void store_mem_power_loss(struct store *store);

/* Flips one bit of a stored value. -ENOENT: nothing is stored there. */
int store_mem_damage(struct store *store, struct store_key key, uint64_t bit);
/* Number of values stored under a file, or under all if ino is 0. */
uint64_t store_mem_count(struct store *store, uint64_t ino);
