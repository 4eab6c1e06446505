/* cold/store_read.h - reading values. As store.h says. */
#pragma once

#include "cold/store_state.h"

int store_read_get(struct store *base, enum store_use use, struct store_key key, void *buf, size_t cap,
		   size_t *ret_len);
int store_read_walk(struct store *base, enum store_use use, uint64_t ino, uint64_t first, uint64_t count,
		    store_walk_fn *fn, void *arg);
int store_read_heads(struct store *base, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg);
/* Reads length bytes at a place of a referenced segment through the buffer; *ret points into it. */
int store_read_at(struct store_rocks *store, enum store_use use, struct segment *segment, uint32_t offset,
		  uint32_t length, void *buffer, void **ret);
