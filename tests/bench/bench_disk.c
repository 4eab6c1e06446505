/* link: -lm */
/* bench/bench_disk.c - O_DIRECT reads and writes of a whole file, one after the other or many in flight.
 *
 *   bench_disk read|write FILE SIZE CHUNK DEPTH ORDER [RATIO SEED]
 *
 * Depth 1 is pread() and pwrite(), as dd does it; more go through io_uring. ORDER: sequential, random. What is
 * written is what bench_load's `fill` makes; what is read is checked against the first word of each chunk if RATIO is
 * given.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <liburing.h>

#include "bench/lib_measure.h"

#define DEPTH_MAX 256
/* Different chunks that are written in turn: making each of them while the clock runs would be measured too. */
#define WRITE_CHUNKS 64

static struct {
	int fd;
	bool write, random, check;
	uint64_t size, chunk, chunks;
	unsigned int depth;
	uint8_t *data;
	uint64_t at[DEPTH_MAX];
	uint64_t bad;
} job;

static uint64_t offset_of(uint64_t i)
{
	return (job.random ? measure_shuffle(i, job.chunks, 3) : i) * job.chunk;
}

static uint8_t *buffer_of(unsigned int slot, uint64_t i)
{
	return job.data + (job.write ? i % WRITE_CHUNKS : slot) * job.chunk;
}

static void finished(unsigned int slot, uint64_t i, int64_t result)
{
	if (result != (int64_t)job.chunk)
		measure_die("%s at %lu: %s", job.write ? "write" : "read", offset_of(i),
			    result < 0 ? strerror((int)-result) : "short");
	if (!job.write && job.check && *(uint64_t *)buffer_of(slot, i) != measure_stamp(offset_of(i) / PAGE))
		job.bad++;
}

static void run_single(void)
{
	for (uint64_t i = 0; i < job.chunks; i++) {
		ssize_t n = job.write ? pwrite(job.fd, buffer_of(0, i), job.chunk, (off_t)offset_of(i))
				      : pread(job.fd, buffer_of(0, i), job.chunk, (off_t)offset_of(i));

		finished(0, i, n < 0 ? -errno : n);
	}
}

static void submit(struct io_uring *ring, unsigned int slot, uint64_t i)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (job.write)
		io_uring_prep_write(sqe, job.fd, buffer_of(slot, i), (unsigned int)job.chunk, offset_of(i));
	else
		io_uring_prep_read(sqe, job.fd, buffer_of(slot, i), (unsigned int)job.chunk, offset_of(i));
	io_uring_sqe_set_data64(sqe, slot);
	job.at[slot] = i;
}

static void run_many(void)
{
	struct io_uring ring;
	uint64_t next = 0, done = 0;
	int err = io_uring_queue_init(job.depth, &ring, 0);

	if (err)
		measure_die("io_uring: %s", strerror(-err));
	for (unsigned int slot = 0; slot < job.depth && next < job.chunks; slot++)
		submit(&ring, slot, next++);
	while (done < job.chunks) {
		struct io_uring_cqe *cqe;
		unsigned int slot;

		err = io_uring_submit_and_wait(&ring, 1);
		if (err < 0 && err != -EINTR)
			measure_die("io_uring: %s", strerror(-err));
		while (io_uring_peek_cqe(&ring, &cqe) == 0) {
			slot = (unsigned int)io_uring_cqe_get_data64(cqe);
			finished(slot, job.at[slot], cqe->res);
			io_uring_cqe_seen(&ring, cqe);
			done++;
			if (next < job.chunks)
				submit(&ring, slot, next++);
		}
	}
	io_uring_queue_exit(&ring);
}

static void prepare_data(unsigned int ratio, uint64_t seed)
{
	uint64_t buffers = job.write ? WRITE_CHUNKS : job.depth;

	job.data = aligned_alloc(PAGE, buffers * job.chunk);
	if (!job.data)
		measure_die("no memory");
	memset(job.data, 0, buffers * job.chunk);
	for (uint64_t page = 0; job.write && page < buffers * job.chunk / PAGE; page++)
		measure_fill_page((uint64_t *)(job.data + page * PAGE), page, ratio, seed);
}

int main(int argc, char **argv)
{
	uint64_t start_ns, cpu_ns;
	double seconds;

	if (argc < 7)
		measure_die("usage: bench_disk read|write FILE SIZE CHUNK DEPTH ORDER [RATIO SEED]");
	job.write = strcmp(argv[1], "write") == 0;
	job.size = measure_parse_size(argv[3]);
	job.chunk = measure_parse_size(argv[4]);
	job.depth = (unsigned int)atoi(argv[5]);
	job.random = strcmp(argv[6], "random") == 0;
	job.check = argc > 7;
	if (!job.chunk || job.chunk % PAGE || job.size % job.chunk || job.depth < 1 || job.depth > DEPTH_MAX)
		measure_die("sizes that do not fit, or a depth that is not 1 to %d", DEPTH_MAX);
	job.chunks = job.size / job.chunk;
	prepare_data(argc > 7 ? (unsigned int)atoi(argv[7]) : 1, argc > 8 ? (uint64_t)atoll(argv[8]) : 1);
	job.fd = open(argv[2], (job.write ? O_RDWR | O_CREAT : O_RDONLY) | O_DIRECT | O_CLOEXEC, 0600);
	if (job.fd < 0)
		measure_die("open %s: %s", argv[2], strerror(errno));
	if (job.write && lseek(job.fd, 0, SEEK_END) < (off_t)job.size && ftruncate(job.fd, (off_t)job.size) < 0)
		measure_die("ftruncate: %s", strerror(errno));
	start_ns = measure_now_ns();
	cpu_ns = measure_cpu_ns();
	if (job.depth == 1)
		run_single();
	else
		run_many();
	seconds = (double)(measure_now_ns() - start_ns) / 1e9;
	printf("{\"bytes\": %lu, \"seconds\": %.6f, \"mb_per_s\": %.1f, \"cpu_s\": %.6f, \"bad\": %lu}\n", job.size,
	       seconds, (double)job.size / 1e6 / seconds, (double)(measure_cpu_ns() - cpu_ns) / 1e9, job.bad);
	close(job.fd);
	free(job.data);
	return 0;
}
