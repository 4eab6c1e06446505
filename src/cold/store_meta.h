/* cold/store_meta.h - metadata in the database. As store.h says. */
#pragma once

#include "cold/store_state.h"

int store_meta_put(struct store *base, const struct store_meta_change *changes, size_t count, bool durable);
int store_meta_walk(struct store *base, const void *prefix, size_t prefix_len, store_meta_fn *fn, void *arg);
