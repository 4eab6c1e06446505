/* cold/warm_log.c - the files of the warm store, which together are one log.
 *
 * A segment is filled from its beginning to its end by one writer at a time, so what was acknowledged is always
 * followed by nothing but, at most, one write that was cut off by a kill; whoever reads the log again stops there.
 * A write that failed in a living process is cut off the file at once; where even that fails the segment takes no more,
 * and the sequence numbers tell what is left of it from what came later.
 */
#include "cold/warm_state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cold/codec.h"

_Static_assert(sizeof(struct warm_record) == 48, "records have no gaps");
_Static_assert(sizeof(struct warm_header) <= WARM_HEADER_BYTES, "the header fits");
_Static_assert(3 * WARM_RUN <= 1024, "pieces of one pwritev(2)");

/* --- records --- */

static uint64_t record_checksum(const struct warm_record *record)
{
	return codec_checksum(&record->sequence, sizeof(*record) - sizeof(record->checksum));
}

bool warm_record_valid(const struct warm_record *record)
{
	return record->checksum == record_checksum(record) &&
	       (record->kind == WARM_REMOVED ||
		codec_checksum(warm_record_value(record), record->length_bytes) == record->extra);
}

void warm_header_make(uint64_t id, struct warm_header *ret)
{
	*ret = (struct warm_header){ .id = id };
	memcpy(ret->magic, WARM_MAGIC, sizeof(ret->magic));
	ret->checksum = codec_checksum(ret, offsetof(struct warm_header, checksum));
}

static void add_piece(struct warm_run *run, const void *at, size_t length)
{
	if (length)
		run->piece[run->pieces++] = (struct iovec){ (void *)at, length };
	run->bytes += (uint32_t)length;
}

static void add_record(struct warm *warm, struct warm_record record, const void *value)
{
	static const uint8_t zeros[PLACE_UNIT_BYTES];
	struct warm_run *run = &warm->run;
	uint32_t used = (uint32_t)sizeof(record) + record.length_bytes;

	record.sequence = ++warm->sequence;
	record.checksum = record_checksum(&record);
	run->record[run->records] = record;
	add_piece(run, &run->record[run->records++], sizeof(record));
	add_piece(run, value, record.length_bytes);
	add_piece(run, zeros, place_span(used) - used);
}

/* --- segments --- */

void warm_segment_name(uint64_t id, char name[static WARM_NAME_LEN])
{
	snprintf(name, WARM_NAME_LEN, "%016" PRIx64, id);
}

int warm_segment_add(struct warm *warm, uint64_t id, int fd, struct warm_segment **ret)
{
	struct warm_segment *segment = calloc(1, sizeof(*segment));
	uint32_t slot = 0;

	if (!segment)
		return -ENOMEM;
	while (slot < warm->slots && warm->slot[slot])
		slot++;
	if (slot == warm->slots) {
		free(segment);
		return -ENOSPC;
	}
	segment->id = id;
	segment->slot = slot;
	segment->fd = fd;
	segment->refs = 1;
	warm->slot[slot] = segment;
	TAILQ_INSERT_TAIL(&warm->segments, segment, link);
	*ret = segment;
	return 0;
}

void warm_segment_unref(struct warm_segment *segment)
{
	if (atomic_fetch_sub(&segment->refs, 1) > 1)
		return;
	close(segment->fd);
	free(segment);
}

void warm_segment_remove(struct warm *warm, struct warm_segment *segment)
{
	char name[WARM_NAME_LEN];

	warm_segment_name(segment->id, name);
	/* Found again by the next daemon its values would be the newest: without its header it is none of ours. */
	if (unlinkat(warm->dir_fd, name, 0) < 0 && ftruncate(segment->fd, 0) < 0)
		log_error("warm file %s cannot be removed: %s", name, strerror(errno));
	TAILQ_REMOVE(&warm->segments, segment, link);
	if (warm->current == segment)
		warm->current = NULL;
	warm->slot[segment->slot] = NULL;
	atomic_fetch_sub(&warm->total_bytes, segment->end_bytes);
	pthread_cond_broadcast(&warm->room);
	warm_segment_unref(segment);
}

int warm_segment_read(const struct warm_segment *segment, struct place place, void *buf, size_t length)
{
	off_t at = (off_t)place.offset_bytes + (off_t)sizeof(struct warm_record);
	ssize_t got;

	do
		got = pread(segment->fd, buf, length, at);
	while (got < 0 && errno == EINTR);
	return got == (ssize_t)length ? 0 : -EIO;
}

static int write_all(int fd, struct iovec *piece, unsigned int pieces, off_t at)
{
	while (pieces) {
		ssize_t wrote = pwritev(fd, piece, (int)pieces, at);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return wrote < 0 ? -errno : -EIO;
		at += wrote;
		for (; pieces && (size_t)wrote >= piece->iov_len; piece++, pieces--)
			wrote -= (ssize_t)piece->iov_len;
		if (pieces) {
			piece->iov_base = (char *)piece->iov_base + wrote;
			piece->iov_len -= (size_t)wrote;
		}
	}
	return 0;
}

/* A new one becomes the current. */
static int grow(struct warm *warm)
{
	uint8_t first[WARM_HEADER_BYTES] = { 0 };
	struct iovec piece = { first, sizeof(first) };
	CLEANUP_CLOSE int fd = -1;
	char name[WARM_NAME_LEN];
	struct warm_segment *segment;
	uint64_t id = warm->last_id + 1;
	int err;

	warm_segment_name(id, name);
	fd = openat(warm->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	warm_header_make(id, (struct warm_header *)(void *)first);
	err = write_all(fd, &piece, 1, 0);
	if (!err)
		err = warm_segment_add(warm, id, fd, &segment);
	if (err < 0) {
		unlinkat(warm->dir_fd, name, 0);
		return err;
	}
	(void)STEAL_FD(fd);
	warm->last_id = id;
	segment->end_bytes = WARM_HEADER_BYTES;
	atomic_fetch_add(&warm->total_bytes, WARM_HEADER_BYTES);
	warm->current = segment;
	return 0;
}

/* Room for a record of that span in the current segment. */
static int make_room(struct warm *warm, uint32_t span)
{
	if (warm->current && warm->current->end_bytes + span <= warm->segment_bytes)
		return 0;
	return grow(warm);
}

static int write_run(struct warm *warm)
{
	struct warm_segment *segment = warm->current;
	int err = write_all(segment->fd, warm->run.piece, warm->run.pieces, segment->end_bytes);

	if (!err) {
		segment->end_bytes += warm->run.bytes;
		atomic_fetch_add(&warm->total_bytes, warm->run.bytes);
	} else if (ftruncate(segment->fd, segment->end_bytes) < 0) {
		warm->current = NULL;
	}
	warm->run.records = warm->run.pieces = warm->run.bytes = 0;
	return err;
}

/* --- changes --- */

int warm_log_put(struct warm *warm, enum warm_kind kind, const struct store_item *items, size_t count, size_t *ret_done)
{
	int err = make_room(warm, warm_span(items->length_bytes));
	struct warm_segment *segment = warm->current;
	uint32_t at = !err ? segment->end_bytes : 0, end = at;
	size_t done = 0;

	for (; !err && done < count && done < WARM_RUN; done++) {
		if (end + warm_span(items[done].length_bytes) > warm->segment_bytes)
			break;
		err = warm_index_reserve(warm, items[done].key);
		end += warm_span(items[done].length_bytes);
	}
	if (err < 0)
		return err;
	for (size_t i = 0; i < done; i++)
		add_record(warm,
			   (struct warm_record){
				   .key = items[i].key,
				   .extra = codec_checksum(items[i].value, items[i].length_bytes),
				   .length_bytes = items[i].length_bytes,
				   .kind = kind,
			   },
			   items[i].value);
	err = write_run(warm);
	if (err < 0)
		return err;
	for (size_t i = 0; i < done; i++) {
		warm_index_set(warm, items[i].key, (struct place){ segment->slot, at, items[i].length_bytes });
		at += warm_span(items[i].length_bytes);
	}
	*ret_done = done;
	return 0;
}

int warm_log_remove(struct warm *warm, uint64_t ino, uint64_t first, uint64_t count)
{
	int err = make_room(warm, warm_span(0));

	if (err < 0)
		return err;
	add_record(warm, (struct warm_record){ .key = { ino, first }, .extra = count, .kind = WARM_REMOVED }, NULL);
	err = write_run(warm);
	if (err < 0)
		return err;
	warm->current->removals = true;
	warm_index_remove(warm, ino, first, warm_last(first, count));
	return 0;
}

/* --- views --- */

int warm_view_open(const struct warm_segment *segment, size_t bytes, struct warm_view *ret)
{
	void *at = mmap(NULL, bytes, PROT_READ, MAP_SHARED, segment->fd, 0);

	if (at == MAP_FAILED)
		return -errno;
	*ret = (struct warm_view){ at, bytes };
	return 0;
}

void warm_view_close(struct warm_view *view)
{
	if (view->at)
		munmap((void *)view->at, view->bytes);
	view->at = NULL;
}

const struct warm_record *warm_view_record(const struct warm_view *view, uint32_t offset)
{
	const struct warm_record *record = (const void *)(view->at + offset);

	if (offset > view->bytes || view->bytes - offset < sizeof(*record) ||
	    record->length_bytes >= PLACE_LENGTH_LIMIT || warm_span(record->length_bytes) > view->bytes - offset)
		return NULL;
	return record;
}
