/* cold/careful.h - files whose values are durable before the records that name them.
 *
 * Which they are the store is told (store.h, keep). A table of their numbers; few files have ever been synced.
 *
 * Thread-safety: none; the store's lock is held by the caller.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cold/store.h"

struct careful_file;

/* All zero is an empty table. */
struct careful {
	struct careful_file *files;
	bool all;       /* as long as nobody has said which */
	bool forgetful; /* there was no memory for one of them: all are, to the end */
};

void careful_set(struct careful *careful, uint64_t ino, bool on); /* 0: all of them, beside what is set for each */
bool careful_any(const struct careful *careful, const struct store_item *items, size_t count);
void careful_clear(struct careful *careful);
