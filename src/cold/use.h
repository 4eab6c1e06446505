/* cold/use.h - what the device of a pool is used for, and how much: each read and write is counted once, under one use.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

enum store_use {
	STORE_GUEST,      /* somebody who maps the file waits for it */
	STORE_AHEAD,      /* read-ahead of mappings */
	STORE_DIRECT,     /* read(2), write(2), cold access, migration, and what changes a file as a whole */
	STORE_DEMOTION,   /* what leaves DRAM */
	STORE_COLLECTION, /* values that move so that space comes back */
	STORE_MOVE,       /* files that move from one store of the pool to another */
	STORE_USES
};

static inline const char *store_use_name(enum store_use use)
{
	static const char *const names[STORE_USES] = { "guest", "ahead", "direct", "demotion", "collection", "move" };

	return names[use];
}

/* As the device has it: a transfer is as many bytes as were asked for, whole pages of direct I/O. */
struct store_traffic {
	uint64_t reads, read_bytes, writes, written_bytes;
};

static inline void store_traffic_add(struct store_traffic *sum, const struct store_traffic *more)
{
	sum->reads += more->reads;
	sum->read_bytes += more->read_bytes;
	sum->writes += more->writes;
	sum->written_bytes += more->written_bytes;
}

struct store_meter {
	_Atomic uint64_t reads, read_bytes, writes, written_bytes;
};

static inline void store_meter_read(struct store_meter *meter, uint64_t bytes)
{
	atomic_fetch_add_explicit(&meter->reads, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&meter->read_bytes, bytes, memory_order_relaxed);
}

static inline void store_meter_write(struct store_meter *meter, uint64_t bytes)
{
	atomic_fetch_add_explicit(&meter->writes, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&meter->written_bytes, bytes, memory_order_relaxed);
}

static inline struct store_traffic store_meter_figures(const struct store_meter *meter)
{
	return (struct store_traffic){ .reads = atomic_load_explicit(&meter->reads, memory_order_relaxed),
				       .read_bytes = atomic_load_explicit(&meter->read_bytes, memory_order_relaxed),
				       .writes = atomic_load_explicit(&meter->writes, memory_order_relaxed),
				       .written_bytes = atomic_load_explicit(&meter->written_bytes,
									     memory_order_relaxed) };
}
