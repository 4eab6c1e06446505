/* cold/segments.c - see the header for what; here is why it is safe.
 *
 * A segment that someone reads (refs) or whose reserved space is not accounted for yet (pending) is never unlinked, and
 * neither is the current one. A dead segment stays in the table until it was unlinked: its number is not used again,
 * and should the references be counted anew meanwhile, it may turn out to be alive. If the process dies, the file is
 * found at the next open with nothing live in it and goes then.
 *
 * New files are allocated in full at once: the filesystem says "no space" before anything was written, and the blocks
 * lie together. Numbers go up and wrap; a number in use is passed over.
 */
#include "cold/segments.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "cold/places.h"

static uint64_t align_up(uint64_t bytes)
{
	return (bytes + SEGMENT_ALIGN - 1) & ~(uint64_t)(SEGMENT_ALIGN - 1);
}

/* --- the directory --- */

static struct segment *add_segment(struct segments *segments, uint32_t id, uint64_t file_bytes)
{
	struct segment *segment = calloc(1, sizeof(*segment));

	if (!segment)
		return NULL;
	segment->id = id;
	segment->fd = -1;
	segment->file_bytes = file_bytes;
	segment->sealed = true;
	HASH_ADD(hh, segments->table, id, sizeof(segment->id), segment);
	if (!segment->hh.tbl) { /* there was no memory for it */
		free(segment);
		return NULL;
	}
	if (id > segments->last_id)
		segments->last_id = id;
	return segment;
}

static int list_entry(struct segments *segments, const char *text)
{
	char name[SEGMENT_NAME_LEN];
	struct stat attr;
	char *end;
	unsigned long id = strtoul(text, &end, 16);

	if (*end || id >= PLACE_NOWHERE)
		return 0; /* not one of ours */
	segments_name((uint32_t)id, name);
	if (strcmp(name, text) != 0)
		return 0;
	/* One that is not listed would look as if it were lost. */
	if (fstatat(segments->dir_fd, name, &attr, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISREG(attr.st_mode))
		return 0;
	return add_segment(segments, (uint32_t)id, (uint64_t)attr.st_size) ? 0 : -ENOMEM;
}

static int list_segments(struct segments *segments)
{
	DIR *dir = opendir(segments->dir);
	struct dirent *entry;
	int err = 0;

	if (!dir)
		return -errno;
	while (!err) {
		errno = 0;
		entry = readdir(dir);
		if (!entry) {
			err = -errno;
			break;
		}
		err = list_entry(segments, entry->d_name);
	}
	closedir(dir);
	return err;
}

int segments_open(struct segments *segments, const char *dir, uint32_t segment_bytes)
{
	int err;

	memset(segments, 0, sizeof(*segments));
	lock_init(&segments->lock, LOCK_RANK_STORE);
	pthread_mutex_init(&segments->grow, NULL);
	segments->dir_fd = -1;
	segments->segment_bytes = segment_bytes;
	TAILQ_INIT(&segments->open);
	segments->open_most = segments_files_most();
	segments->dir = strdup(dir);
	if (!segments->dir)
		return -ENOMEM;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	segments->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (segments->dir_fd < 0)
		return -errno;
	err = list_segments(segments);
	segments->dir_dirty = true; /* for the directory itself */
	return err;
}

/* What cannot be cut is only longer than it need be. */
static void trim(struct segments *segments, const struct segment *segment, uint64_t length)
{
	char name[SEGMENT_NAME_LEN];
	int fd;

	if (segment->fd >= 0) {
		if (ftruncate(segment->fd, (off_t)length) == 0)
			return;
	}
	segments_name(segment->id, name);
	fd = openat(segments->dir_fd, name, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return; /* costs space, nothing else; the next open tries again */
	if (ftruncate(fd, (off_t)length) < 0)
		errno = 0;
	close(fd);
}

static void free_segment(struct segments *segments, struct segment *segment)
{
	if (segment->fd >= 0)
		close(segments_take_file(segments, segment));
	free(segment);
}

void segments_close(struct segments *segments)
{
	struct segment *segment, *next;

	if (!segments->dir)
		return;
	segments_reap(segments);
	segments_drop_contexts(segments);
	if (segments->current)
		trim(segments, segments->current, segments->current->end_bytes);
	HASH_ITER(hh, segments->table, segment, next) {
		HASH_DEL(segments->table, segment);
		free_segment(segments, segment);
	}
	if (segments->dir_fd >= 0)
		close(segments->dir_fd);
	pthread_mutex_destroy(&segments->grow);
	lock_fini(&segments->lock);
	free(segments->dir);
	memset(segments, 0, sizeof(*segments));
}

/* --- life and death --- */

struct segment *segments_find(struct segments *segments, uint32_t id)
{
	struct segment *segment;

	HASH_FIND(hh, segments->table, &id, sizeof(id), segment);
	return segment;
}

static uint64_t file_bytes_of(const struct segment *segment)
{
	return segment->end_bytes > segment->file_bytes ? segment->end_bytes : segment->file_bytes;
}

void segments_check_dead(struct segments *segments, struct segment *segment)
{
	if (segment->life != SEGMENT_LIVE || !segment->sealed || segment->live_count || segment->pending)
		return;
	segment->life = SEGMENT_DEAD;
	if (!segments->dead_since_ns)
		segments->dead_since_ns = clock_ns();
	segments->end_bytes -= segment->end_bytes;
	segments->dead_bytes += file_bytes_of(segment);
	segment->next_dead = segments->dead;
	segments->dead = segment;
}

void segments_revive(struct segments *segments)
{
	struct segment *segment;

	while ((segment = segments->dead)) {
		segments->dead = segment->next_dead;
		segment->life = SEGMENT_LIVE;
		segments->end_bytes += segment->end_bytes;
		segments->dead_bytes -= file_bytes_of(segment);
	}
	segments->dead_since_ns = 0;
	for (segment = segments->table; segment; segment = segment->hh.next) {
		if (segment->life != SEGMENT_LIVE) /* it is being unlinked */
			continue;
		segments->live_bytes -= segment->live_bytes;
		segment->live_bytes = 0;
		segment->live_count = 0;
	}
}

void segments_cover(struct segments *segments)
{
	if (segments->keep_dead)
		return;
	for (struct segment *segment = segments->dead; segment; segment = segment->next_dead) {
		if (segment->life == SEGMENT_DEAD)
			segment->life = SEGMENT_COVERED;
	}
	segments->dead_since_ns = 0;
}

void segments_covered(struct segments *segments, bool durable)
{
	for (struct segment *segment = segments->dead; segment; segment = segment->next_dead) {
		if (segment->life == SEGMENT_COVERED)
			segment->life = durable ? SEGMENT_GONE : SEGMENT_DEAD;
		if (segment->life == SEGMENT_DEAD && !segments->dead_since_ns)
			segments->dead_since_ns = clock_ns();
	}
}

void segments_add_live(struct segments *segments, struct segment *segment, uint32_t offset, uint32_t span_bytes)
{
	uint64_t end = align_up((uint64_t)offset + span_bytes);

	if (end > segment->end_bytes) { /* when the references are counted at the start */
		segments->end_bytes += end - segment->end_bytes;
		segment->end_bytes = end;
	}
	segment->live_bytes += span_bytes;
	segment->live_count++;
	segments->live_bytes += span_bytes;
}

void segments_drop_live(struct segments *segments, struct segment *segment, uint32_t span_bytes)
{
	segment->live_bytes -= span_bytes;
	segment->live_count--;
	segments->live_bytes -= span_bytes;
	segments_check_dead(segments, segment);
}

/* Takes those off the list that are gone and that nobody reads. They stay in the table. */
static struct segment *take_gone(struct segments *segments)
{
	LOCK_SCOPE(&segments->lock);
	struct segment **link = &segments->dead, *taken = NULL, *segment;

	while ((segment = *link)) {
		if (segment->refs || segment->life != SEGMENT_GONE) {
			link = &segment->next_dead;
			continue;
		}
		*link = segment->next_dead;
		segment->next_dead = taken;
		taken = segment;
	}
	return taken;
}

/* It is not in the list, and goes back there if its file is still on the disk. */
static void bury(struct segments *segments, struct segment *segment, bool unlinked)
{
	LOCK_SCOPE(&segments->lock);

	if (!unlinked) {
		segment->next_dead = segments->dead;
		segments->dead = segment;
		return;
	}
	segments->dead_bytes -= file_bytes_of(segment);
	HASH_DEL(segments->table, segment);
	free_segment(segments, segment);
}

void segments_reap(struct segments *segments)
{
	struct segment *segment = take_gone(segments);

	while (segment) {
		struct segment *next = segment->next_dead;
		char name[SEGMENT_NAME_LEN];

		segments_name(segment->id, name);
		bury(segments, segment, unlinkat(segments->dir_fd, name, 0) == 0 || errno == ENOENT);
		segment = next;
	}
}

void segments_settle(struct segments *segments)
{
	struct segment *segment, *next;

	HASH_ITER(hh, segments->table, segment, next) {
		if (segment->live_count && segment->file_bytes > segment->end_bytes) {
			trim(segments, segment, segment->end_bytes);
			segment->file_bytes = segment->end_bytes;
		}
		lock_get(&segments->lock);
		segments_check_dead(segments, segment);
		lock_put(&segments->lock);
	}
	lock_get(&segments->lock);
	segments_cover(segments);
	segments_covered(segments, true);
	lock_put(&segments->lock);
	segments_reap(segments);
}

void segments_ref(struct segments *segments, struct segment *segment)
{
	segment->refs++;
	if (segment->fd < 0)
		return;
	TAILQ_REMOVE(&segments->open, segment, open);
	TAILQ_INSERT_TAIL(&segments->open, segment, open);
}

void segments_unref(struct segments *segments, struct segment *segment)
{
	bool reap;

	lock_get(&segments->lock);
	segment->refs--;
	reap = !segment->refs && segment->life == SEGMENT_GONE;
	lock_put(&segments->lock);
	if (reap)
		segments_reap(segments);
}

/* --- filling --- */

int segments_reserve(struct segments *segments, uint64_t need, uint64_t want, struct segment **ret,
		     uint32_t *ret_offset, uint32_t *ret_bytes)
{
	struct segment *segment = segments->current;
	uint64_t room = segment ? segments->segment_bytes - segment->end_bytes : 0;
	uint64_t bytes = align_up(want);

	if (!segment || room < need)
		return -EAGAIN;
	if (bytes > room)
		bytes = room;
	*ret = segment;
	*ret_offset = (uint32_t)segment->end_bytes;
	*ret_bytes = (uint32_t)bytes;
	segment->end_bytes += bytes;
	segments->end_bytes += bytes;
	segment->pending++;
	return 0;
}

void segments_settled(struct segments *segments, struct segment *segment)
{
	segment->pending--;
	segments_check_dead(segments, segment);
}

bool segments_seal(struct segments *segments, struct segment *segment)
{
	bool was_current = segments->current == segment;

	segment->sealed = true;
	if (was_current) {
		segments->current = NULL;
		segment->file_bytes = segment->end_bytes;
	}
	return was_current;
}

void segments_trim(struct segments *segments, struct segment *segment)
{
	trim(segments, segment, segment->file_bytes);
}

static bool has_room(struct segments *segments, uint64_t need)
{
	LOCK_SCOPE(&segments->lock);

	return segments->current && segments->segment_bytes - segments->current->end_bytes >= need;
}

/* The next number that is free. */
static uint32_t next_id(struct segments *segments)
{
	LOCK_SCOPE(&segments->lock);

	do {
		segments->last_id = (segments->last_id + 1) % PLACE_NOWHERE;
	} while (segments_find(segments, segments->last_id));
	return segments->last_id;
}

static void unmake_file(struct segments *segments, uint32_t id, int fd)
{
	char name[SEGMENT_NAME_LEN];

	close(fd);
	segments_name(id, name);
	unlinkat(segments->dir_fd, name, 0);
}

static int make_file(struct segments *segments, uint32_t id)
{
	int fd = segments_open_file(segments, id, O_RDWR | O_CREAT | O_EXCL);
	int err;

	if (fd < 0)
		return fd;
	err = fallocate(fd, 0, 0, segments->segment_bytes) < 0 ? -errno : 0;
	if (!err || err == -EOPNOTSUPP)
		return fd;
	unmake_file(segments, id, fd);
	return err == -EDQUOT ? -ENOSPC : err;
}

/* The file id becomes the current segment; *ret_old is the one before, referenced, or NULL. */
static int make_current(struct segments *segments, uint32_t id, int fd, bool scarce, struct segment **ret_old)
{
	LOCK_SCOPE(&segments->lock);
	struct segment *segment = add_segment(segments, id, segments->segment_bytes);
	struct segment *old = segments->current;

	if (!segment)
		return -ENOMEM;
	segment->sealed = false;
	segment->fresh = true;
	segment->scarce = scarce;
	segments_give_file(segments, segment, fd);
	segments->dir_dirty = true;
	*ret_old = old;
	if (old) {
		segments_ref(segments, old);
		segments_seal(segments, old);
		segments_check_dead(segments, old);
	}
	segments->current = segment;
	return 0;
}

static int grow(struct segments *segments, bool scarce)
{
	struct segment *old;
	uint32_t id;
	int fd, err;

	do {
		id = next_id(segments);
		fd = make_file(segments, id);
	} while (fd == -EEXIST); /* whatever it is, it is not ours to overwrite */
	if (fd < 0)
		return fd;
	err = make_current(segments, id, fd, scarce, &old);
	if (err < 0) {
		unmake_file(segments, id, fd);
		return err;
	}
	if (old) {
		segments_trim(segments, old);
		segments_unref(segments, old);
	}
	segments_close_resting(segments);
	return 0;
}

int segments_grow(struct segments *segments, uint64_t need, bool scarce)
{
	int err = 0;

	pthread_mutex_lock(&segments->grow);
	if (!has_room(segments, need))
		err = grow(segments, scarce);
	pthread_mutex_unlock(&segments->grow);
	return err;
}
