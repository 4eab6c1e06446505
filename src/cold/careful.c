/* cold/careful.c - a hash table. */
#include "cold/careful.h"

#include <stdlib.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct careful_file {
	UT_hash_handle hh;
	uint64_t ino;
};

static struct careful_file *find(const struct careful *careful, uint64_t ino)
{
	struct careful_file *file;

	HASH_FIND(hh, careful->files, &ino, sizeof(ino), file);
	return file;
}

static void add(struct careful *careful, uint64_t ino)
{
	struct careful_file *file = calloc(1, sizeof(*file));

	if (file) {
		file->ino = ino;
		HASH_ADD(hh, careful->files, ino, sizeof(file->ino), file);
	}
	if (file && file->hh.tbl)
		return;
	free(file);
	careful->forgetful = true;
}

void careful_set(struct careful *careful, uint64_t ino, bool on)
{
	struct careful_file *file = ino ? find(careful, ino) : NULL;

	if (!ino) {
		careful->all = on;
	} else if (on && !file) {
		add(careful, ino);
	} else if (!on && file) {
		HASH_DEL(careful->files, file);
		free(file);
	}
}

bool careful_any(const struct careful *careful, const struct store_item *items, size_t count)
{
	if (careful->all || careful->forgetful)
		return count;
	for (size_t i = 0; careful->files && i < count; i++) {
		if ((!i || items[i].key.ino != items[i - 1].key.ino) && find(careful, items[i].key.ino))
			return true;
	}
	return false;
}

void careful_clear(struct careful *careful)
{
	struct careful_file *file, *next;

	HASH_ITER(hh, careful->files, file, next) {
		HASH_DEL(careful->files, file);
		free(file);
	}
}
