/* cold/segments_io.c - descriptors of segments, and what is done with them: reading, writing.
 *
 * Descriptors are opened when needed, and those that rest longest are closed beyond a number. That of a segment
 * that is referenced or pending stays open.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cold/segments.h"

/* An eighth of all descriptors, which are connections, arenas and userfaultfds as well; but no more than for 512 GiB of
 * segments of 64 MiB. */
#define OPEN_FILES_PART 8U
#define OPEN_FILES_MIN 64U
#define OPEN_FILES_MAX 8192U

void segments_name(uint32_t id, char name[static SEGMENT_NAME_LEN])
{
	snprintf(name, SEGMENT_NAME_LEN, "%08x", id);
}

/* O_DIRECT comes after the open: where the filesystem lacks it, an open with both makes the file and fails. Each
 * descriptor is asked alone, and one that is refused goes through the page cache. The kernel keeps the two kinds of the
 * same file alike, so nobody has to know which is which, and a refusal says nothing of the next open. */
int segments_open_file(struct segments *segments, uint32_t id, int flags)
{
	char name[SEGMENT_NAME_LEN];
	int fd, status;

	segments_name(id, name);
	fd = openat(segments->dir_fd, name, flags | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	status = fcntl(fd, F_GETFL);
	if (status >= 0)
		fcntl(fd, F_SETFL, status | O_DIRECT);
	return fd;
}

unsigned int segments_files_most(void)
{
	struct rlimit files;
	rlim_t most = OPEN_FILES_MIN;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur / OPEN_FILES_PART > most)
		most = files.rlim_cur / OPEN_FILES_PART;
	return most < OPEN_FILES_MAX ? (unsigned int)most : OPEN_FILES_MAX;
}

void segments_give_file(struct segments *segments, struct segment *segment, int fd)
{
	segment->fd = fd;
	TAILQ_INSERT_TAIL(&segments->open, segment, open);
	segments->open_files++;
}

int segments_take_file(struct segments *segments, struct segment *segment)
{
	int fd = segment->fd;

	segment->fd = -1;
	TAILQ_REMOVE(&segments->open, segment, open);
	segments->open_files--;
	return fd;
}

/* The descriptor that rested longest, taken from its segment; -1: they are not too many, or all in use. */
static int take_resting(struct segments *segments)
{
	struct segment *segment;
	LOCK_SCOPE(&segments->lock);

	if (segments->open_files <= segments->open_most)
		return -1;
	TAILQ_FOREACH(segment, &segments->open, open)
		if (!segment->refs && !segment->pending && segment->sealed)
			return segments_take_file(segments, segment);
	return -1;
}

void segments_close_resting(struct segments *segments)
{
	int fd;

	while ((fd = take_resting(segments)) >= 0)
		close(fd);
}

/* Gives the segment fd, or closes fd if another thread was faster. */
static int install(struct segments *segments, struct segment *segment, int fd)
{
	int used;

	lock_get(&segments->lock);
	if (segment->fd < 0)
		segments_give_file(segments, segment, fd);
	used = segment->fd;
	lock_put(&segments->lock);
	if (used != fd)
		close(fd);
	segments_close_resting(segments);
	return used;
}

int segments_descriptor(struct segments *segments, struct segment *segment)
{
	int fd;

	lock_get(&segments->lock);
	fd = segment->fd;
	lock_put(&segments->lock);
	if (fd >= 0)
		return fd;
	fd = segments_open_file(segments, segment->id, O_RDWR);
	return fd < 0 ? fd : install(segments, segment, fd);
}

/* --- reading, writing --- */

static void set_dirty(struct segments *segments, struct segment *segment)
{
	LOCK_SCOPE(&segments->lock);

	segment->dirty = true;
}

int segments_write(struct segments *segments, enum store_use use, struct segment *segment, const void *buf,
		   size_t length, uint32_t offset)
{
	int fd = segments_descriptor(segments, segment);

	for (size_t done = 0; fd >= 0 && done < length;) {
		ssize_t n = pwrite(fd, (const char *)buf + done, length - done, (off_t)(offset + done));

		if (n < 0 && errno != EINTR)
			return errno == EDQUOT ? -ENOSPC : -errno;
		if (n > 0) {
			done += (size_t)n;
			store_meter_write(&segments->meter[use], (uint64_t)n);
		}
	}
	if (fd < 0)
		return fd;
	set_dirty(segments, segment);
	return 0;
}

int segments_read(struct segments *segments, enum store_use use, struct segment *segment, void *buf, size_t length,
		  uint32_t offset, size_t *ret_len)
{
	int fd = segments_descriptor(segments, segment);
	size_t done = 0;

	while (fd >= 0 && done < length) {
		ssize_t n = pread(fd, (char *)buf + done, length - done, (off_t)(offset + done));

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			store_meter_read(&segments->meter[use], (uint64_t)n);
		if (n == 0 || (n > 0 && (size_t)n % SEGMENT_ALIGN)) { /* the end of the file */
			done += (size_t)n;
			break;
		}
		if (n > 0)
			done += (size_t)n;
	}
	if (fd < 0)
		return fd;
	*ret_len = done;
	return 0;
}

/* --- many reads at a time --- */

/* The kernel's own asynchronous I/O: one call for many reads, no library, no threads. Contexts are dear to make, so a
 * few are kept. 0: there are none to be had; then the reads are done one after the other. */
static aio_context_t take_context(struct segments *segments)
{
	aio_context_t context = 0;

	lock_get(&segments->lock);
	if (segments->contexts)
		context = segments->context[--segments->contexts];
	lock_put(&segments->lock);
	if (!context && syscall(SYS_io_setup, SEGMENT_READS_MAX, &context) < 0)
		return 0;
	return context;
}

static void give_context(struct segments *segments, aio_context_t context)
{
	bool kept = false;

	lock_get(&segments->lock);
	if (segments->contexts < SEGMENT_CONTEXTS_KEPT) {
		segments->context[segments->contexts++] = context;
		kept = true;
	}
	lock_put(&segments->lock);
	if (!kept)
		syscall(SYS_io_destroy, context);
}

void segments_drop_contexts(struct segments *segments)
{
	while (segments->contexts)
		syscall(SYS_io_destroy, segments->context[--segments->contexts]);
}

static void read_one(struct segments *segments, enum store_use use, struct segment_read *read)
{
	read->err = segments_read(segments, use, read->segment, read->buf, read->length, read->offset, &read->got);
}

/* Submits reads as far as the kernel takes them; returns how many. */
static long submit(struct segments *segments, aio_context_t context, struct segment_read **reads, size_t count)
{
	struct iocb request[SEGMENT_READS_MAX], *list[SEGMENT_READS_MAX];
	long done = 0;

	memset(request, 0, count * sizeof(*request));
	for (size_t i = 0; i < count; i++) {
		int fd = segments_descriptor(segments, reads[i]->segment);

		request[i].aio_data = i;
		request[i].aio_lio_opcode = IOCB_CMD_PREAD;
		request[i].aio_fildes = (uint32_t)fd; /* a bad one is refused, and then read_one() says why */
		request[i].aio_buf = (uint64_t)(uintptr_t)reads[i]->buf;
		request[i].aio_nbytes = reads[i]->length;
		request[i].aio_offset = reads[i]->offset;
		list[i] = &request[i];
	}
	while (done < (long)count) {
		long n = syscall(SYS_io_submit, context, (long)count - done, list + done);

		if (n <= 0)
			break;
		done += n;
	}
	return done;
}

/* Waits for all that was submitted: the buffers are the caller's again afterwards. What came back short or with an
 * error is read once more, alone. */
static void reap(struct segments *segments, enum store_use use, aio_context_t context, struct segment_read **reads,
		 long submitted)
{
	struct io_event event[SEGMENT_READS_MAX];

	while (submitted > 0) {
		long n = syscall(SYS_io_getevents, context, 1, submitted, event, NULL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			abort(); /* a bug: and the kernel still writes to the buffers */
		for (long i = 0; i < n; i++) {
			struct segment_read *read = reads[event[i].data];

			read->got = (size_t)event[i].res;
			read->err = 0;
			if (event[i].res > 0)
				store_meter_read(&segments->meter[use], (uint64_t)event[i].res);
			if (event[i].res != (int64_t)read->length)
				read_one(segments, use, read);
		}
		submitted -= n;
	}
}

void segments_read_many(struct segments *segments, enum store_use use, struct segment_read **reads, size_t count)
{
	aio_context_t context = count > 1 ? take_context(segments) : 0;
	long submitted = 0;

	if (context) {
		submitted = submit(segments, context, reads, count);
		reap(segments, use, context, reads, submitted);
		give_context(segments, context);
	}
	for (size_t i = (size_t)submitted; i < count; i++)
		read_one(segments, use, reads[i]);
}
