/* cold/warm_load.c - the index, from what an earlier daemon left in the directory.
 *
 * Segments are read in the order of their numbers; what comes later counts. The last one is gone on with.
 */
#include "cold/warm_state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define SLOTS_SPARE 16U

struct ids {
	uint64_t *id;
	size_t count, cap;
};

static bool parse_name(const char *name, uint64_t *ret)
{
	if (strlen(name) != WARM_NAME_LEN - 1 || strspn(name, "0123456789abcdef") != WARM_NAME_LEN - 1)
		return false;
	*ret = strtoull(name, NULL, 16);
	return true;
}

static int compare_ids(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return a < b ? -1 : a > b;
}

static int add_id(struct ids *ids, uint64_t id)
{
	if (ids->count == ids->cap) {
		size_t cap = ids->cap ? 2 * ids->cap : 64;
		uint64_t *grown = realloc(ids->id, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		ids->id = grown;
		ids->cap = cap;
	}
	ids->id[ids->count++] = id;
	return 0;
}

static int list_ids(int dir_fd, struct ids *ids)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	uint64_t id;

	if (!dir) {
		err = -errno;
		if (fd >= 0)
			close(fd);
		return err;
	}
	while (!err && (entry = readdir(dir)))
		if (parse_name(entry->d_name, &id))
			err = add_id(ids, id);
	closedir(dir);
	if (ids->count)
		qsort(ids->id, ids->count, sizeof(*ids->id), compare_ids);
	return err;
}

static bool acceptable(const struct warm *warm, const struct warm_record *record)
{
	switch (record->kind) {
	case WARM_VALUE:
	case WARM_COPY:
		break;
	case WARM_REMOVED:
		if (record->length_bytes || !record->extra)
			return false;
		break;
	default:
		return false;
	}
	return record->sequence > warm->sequence && warm_record_valid(record);
}

static int apply(struct warm *warm, struct warm_segment *segment, const struct warm_record *record)
{
	int err;

	if (record->kind == WARM_REMOVED) {
		warm_index_remove(warm, record->key.ino, record->key.block,
				  warm_last(record->key.block, record->extra));
		segment->removals = true;
		return 0;
	}
	err = warm_index_reserve(warm, record->key);
	if (!err)
		warm_index_set(warm, record->key,
			       (struct place){ segment->slot, segment->end_bytes, record->length_bytes });
	return err;
}

/* Up to the first record that is not whole. */
static int read_records(struct warm *warm, struct warm_segment *segment, const struct warm_view *view)
{
	const struct warm_record *record;
	int err = 0;

	segment->end_bytes = WARM_HEADER_BYTES;
	while (!err && (record = warm_view_record(view, segment->end_bytes)) && acceptable(warm, record)) {
		err = apply(warm, segment, record);
		warm->sequence = record->sequence;
		segment->end_bytes += warm_span(record->length_bytes);
	}
	atomic_fetch_add(&warm->total_bytes, segment->end_bytes);
	return err;
}

static int load_segment(struct warm *warm, uint64_t id)
{
	CLEANUP_CLOSE int fd = -1;
	__attribute__((cleanup(warm_view_close))) struct warm_view view = { 0 };
	struct warm_segment *segment;
	struct warm_header header;
	char name[WARM_NAME_LEN];
	struct stat stat;
	int err;

	warm_segment_name(id, name);
	fd = openat(warm->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &stat) < 0)
		return -errno;
	warm->last_id = id;
	warm_header_make(id, &header);
	if (stat.st_size < WARM_HEADER_BYTES || stat.st_size > PLACE_OFFSET_LIMIT) {
		unlinkat(warm->dir_fd, name, 0); /* the daemon died before anything could be in it */
		return 0;
	}
	err = warm_segment_add(warm, id, fd, &segment);
	if (err < 0)
		return err;
	(void)STEAL_FD(fd);
	err = warm_view_open(segment, (size_t)stat.st_size, &view);
	if (err < 0)
		return err;
	if (memcmp(view.at, &header, sizeof(header)) != 0) {
		log_warn("warm values: file %s is not one of them, or damaged: removed", name);
		warm_segment_remove(warm, segment);
		return 0;
	}
	err = read_records(warm, segment, &view);
	if (!err && segment->end_bytes < stat.st_size)
		log_info("warm values: file %s: %" PRIu64 " bytes at its end were not acknowledged and are ignored",
			 name, (uint64_t)stat.st_size - segment->end_bytes);
	return err;
}

static void resume(struct warm *warm)
{
	struct warm_segment *last = TAILQ_LAST(&warm->segments, warm_segments);

	if (last && last->end_bytes < warm->segment_bytes && ftruncate(last->fd, last->end_bytes) == 0)
		warm->current = last;
}

int warm_load(struct warm *warm)
{
	struct ids ids = { 0 };
	uint64_t count, memory_bytes;
	int err = list_ids(warm->dir_fd, &ids);

	warm->slots = (uint32_t)(2 * (warm->bytes / warm->segment_bytes) + ids.count + SLOTS_SPARE);
	warm->slot = calloc(warm->slots, sizeof(struct warm_segment *));
	if (!err && !warm->slot)
		err = -ENOMEM;
	for (size_t i = 0; !err && i < ids.count; i++)
		err = load_segment(warm, ids.id[i]);
	free(ids.id);
	if (err < 0)
		return err;
	resume(warm);
	warm_index_figures(warm, &count, &memory_bytes);
	if (count)
		log_info("warm values: %" PRIu64 " found again", count);
	return 0;
}
