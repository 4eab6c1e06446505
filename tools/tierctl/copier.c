/* copier.c - see copier.h. The only file of tierctl that includes <liburing.h>. */
#include "copier.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE_BYTES (UINT64_C(1) << 20)
#define PAGE_BYTES UINT64_C(4096)

/* A piece on its way: read as a whole, then written as a whole. */
struct slot {
	char *buf;
	uint64_t offset;
	uint64_t length; /* of content; requests are rounded up where the descriptor is O_DIRECT */
	uint64_t done;   /* of the phase */
	bool writing;
	bool busy;
};

struct run {
	struct copier *copier;
	struct slot *slots;
	char *buffers;
	struct io_uring ring;
	bool has_ring;
	uint64_t next;     /* where the next piece begins */
	uint64_t data_end; /* end of the data extent that next lies in */
	unsigned int in_flight;
	int err;
};

static uint64_t round_up(uint64_t bytes)
{
	return (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

/* --- which pieces ------------------------------------------------------------------------------------------------ */

static int punch(int fd, uint64_t from, uint64_t to)
{
	if (from == to)
		return 0;
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)(to - from)) < 0 ? -errno
													      : 0;
}

/* Skips a hole: afterwards [next, data_end) is data, or next is the end of the file. A filesystem without holes is all
 * data. */
static int find_data(struct run *run)
{
	struct copier *copier = run->copier;
	uint64_t size = copier->size_bytes, data, end;
	off_t found = lseek(copier->in_fd, (off_t)run->next, SEEK_DATA);
	int err;

	if (found < 0 && errno != ENXIO && errno != EINVAL && errno != EOPNOTSUPP)
		return -errno;
	data = found >= 0 ? (uint64_t)found & ~(PAGE_BYTES - 1) : errno == ENXIO ? size : run->next;
	if (data < run->next)
		data = run->next;
	if (data > size)
		data = size;
	found = data < size ? lseek(copier->in_fd, (off_t)data, SEEK_HOLE) : -1;
	end = found > (off_t)data ? round_up((uint64_t)found) : size;
	if (copier->punch) {
		err = punch(copier->out_fd, run->next, data);
		if (err) {
			copier->out_failed = true;
			return err;
		}
	}
	copier->hole_bytes += data - run->next;
	run->next = data;
	run->data_end = end < size ? end : size;
	return 0;
}

/* 1: a piece for the slot; 0: there is none left. */
static int next_piece(struct run *run, struct slot *slot)
{
	uint64_t left;
	int err;

	if (run->next == run->data_end && run->next < run->copier->size_bytes) {
		err = find_data(run);
		if (err)
			return err;
	}
	left = run->data_end - run->next;
	if (left == 0)
		return 0;
	slot->offset = run->next;
	slot->length = left < PIECE_BYTES ? left : PIECE_BYTES;
	slot->done = 0;
	slot->writing = false;
	run->next += slot->length;
	return 1;
}

/* --- a piece's way ----------------------------------------------------------------------------------------------- */

/* What is to be asked for now. */
static uint64_t wanted(const struct copier *copier, const struct slot *slot)
{
	bool direct = slot->writing ? copier->out_direct : copier->in_direct;

	return (direct ? round_up(slot->length) : slot->length) - slot->done;
}

/* Takes the outcome of a request. 1: the piece is where it should be; 0: ask again; -errno. */
static int advance(struct copier *copier, struct slot *slot, int64_t result)
{
	bool direct = slot->writing ? copier->out_direct : copier->in_direct;

	if (result == -EINTR || result == -EAGAIN)
		return 0;
	if (result > 0) {
		slot->done += (uint64_t)result;
		if (slot->done < slot->length && direct && slot->done % PAGE_BYTES)
			result = -EIO;
	} else if (result == 0) {
		result = -EIO; /* the file became shorter, or the device is full without saying so */
	}
	if (result < 0) {
		copier->out_failed = slot->writing;
		return (int)result;
	}
	if (slot->done < slot->length)
		return 0;
	if (slot->writing) {
		copier->data_bytes += slot->length;
		return 1;
	}
	/* The last page of an odd-sized file is written whole; the file is cut to its size afterwards. */
	memset(slot->buf + slot->length, 0, round_up(slot->length) - slot->length);
	slot->writing = true;
	slot->done = 0;
	return 0;
}

static void show(const struct copier *copier)
{
	if (copier->progress)
		progress_show(copier->progress, copier->data_bytes + copier->hole_bytes, copier->size_bytes);
}

/* --- many at a time ------------------------------------------------------------------------------------------------
 */

static void submit(struct run *run, struct slot *slot)
{
	const struct copier *copier = run->copier;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&run->ring); /* as many entries as slots: there is one */
	unsigned int length = (unsigned int)wanted(copier, slot);

	if (slot->writing)
		io_uring_prep_write(sqe, copier->out_fd, slot->buf + slot->done, length, slot->offset + slot->done);
	else
		io_uring_prep_read(sqe, copier->in_fd, slot->buf + slot->done, length, slot->offset + slot->done);
	io_uring_sqe_set_data(sqe, slot);
	slot->busy = true;
	run->in_flight++;
}

static void start_pieces(struct run *run)
{
	for (unsigned int i = 0; i < run->copier->depth && !run->err; i++) {
		struct slot *slot = &run->slots[i];
		int rc;

		if (slot->busy)
			continue;
		rc = next_piece(run, slot);
		if (rc <= 0) {
			run->err = rc;
			return;
		}
		submit(run, slot);
	}
}

static void complete(struct run *run, struct slot *slot, int result)
{
	int rc = advance(run->copier, slot, result);

	slot->busy = false;
	run->in_flight--;
	if (rc < 0 && !run->err)
		run->err = rc;
	if (rc == 0 && !run->err)
		submit(run, slot);
}

static void run_ring(struct run *run)
{
	struct io_uring_cqe *cqe;

	start_pieces(run);
	while (run->in_flight) {
		int rc = io_uring_submit_and_wait(&run->ring, 1);

		if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) {
			/* Requests may still write into the buffers: they are left to the end of the process. */
			run->err = rc;
			run->buffers = NULL;
			return;
		}
		while (!io_uring_peek_cqe(&run->ring, &cqe)) {
			struct slot *slot = io_uring_cqe_get_data(cqe);
			int result = cqe->res;

			io_uring_cqe_seen(&run->ring, cqe);
			complete(run, slot, result);
		}
		start_pieces(run);
		show(run->copier);
	}
}

/* --- one at a time -------------------------------------------------------------------------------------------------
 */

static int64_t transfer(const struct copier *copier, const struct slot *slot)
{
	uint64_t length = wanted(copier, slot);
	off_t offset = (off_t)(slot->offset + slot->done);
	ssize_t done;

	if (slot->writing)
		done = pwrite(copier->out_fd, slot->buf + slot->done, length, offset);
	else
		done = pread(copier->in_fd, slot->buf + slot->done, length, offset);
	return done < 0 ? -errno : done;
}

static void run_plain(struct run *run)
{
	struct slot *slot = &run->slots[0];
	int rc;

	while ((rc = next_piece(run, slot)) > 0) {
		do
			rc = advance(run->copier, slot, transfer(run->copier, slot));
		while (rc == 0);
		if (rc < 0)
			break;
		show(run->copier);
	}
	run->err = rc < 0 ? rc : 0;
}

int copier_run(struct copier *copier)
{
	struct run run = { .copier = copier };

	run.slots = calloc(copier->depth, sizeof(*run.slots));
	run.buffers = aligned_alloc(PAGE_BYTES, copier->depth * PIECE_BYTES);
	if (!run.slots || !run.buffers) {
		run.err = -ENOMEM;
		goto out;
	}
	for (unsigned int i = 0; i < copier->depth; i++)
		run.slots[i].buf = run.buffers + i * PIECE_BYTES;
	run.has_ring = io_uring_queue_init(copier->depth, &run.ring, 0) == 0;
	if (run.has_ring)
		run_ring(&run);
	else
		run_plain(&run);
	if (run.has_ring)
		io_uring_queue_exit(&run.ring);
out:
	free(run.buffers);
	free(run.slots);
	return run.err;
}
