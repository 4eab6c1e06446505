/* link: -lm */
/* bench/bench_zstd.c - what zstd alone does on one core: blocks as the other programs make them, compressed one by one,
 * and back.
 *
 *   bench_zstd SIZE BLOCK LEVEL RATIO SEED
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zstd.h>

#include "bench/lib_measure.h"

struct job {
	uint64_t size, block, packed_bytes;
	int level;
	char *data, *packed; /* a bound for each block */
	size_t cap, *length;
};

static double compress_all(struct job *job)
{
	ZSTD_CCtx *context = ZSTD_createCCtx();
	uint64_t start_ns = measure_cpu_ns();

	if (!context)
		measure_die("no memory");
	for (uint64_t i = 0; i < job->size / job->block; i++) {
		size_t n = ZSTD_compressCCtx(context, job->packed + i * job->cap, job->cap, job->data + i * job->block,
					     job->block, job->level);

		if (ZSTD_isError(n))
			measure_die("zstd: %s", ZSTD_getErrorName(n));
		job->length[i] = n;
		job->packed_bytes += n < job->block ? n : job->block;
	}
	start_ns = measure_cpu_ns() - start_ns;
	ZSTD_freeCCtx(context);
	return (double)start_ns / 1e9;
}

static double expand_all(const struct job *job)
{
	ZSTD_DCtx *context = ZSTD_createDCtx();
	uint64_t start_ns = measure_cpu_ns();

	if (!context)
		measure_die("no memory");
	for (uint64_t i = 0; i < job->size / job->block; i++) {
		size_t n = ZSTD_decompressDCtx(context, job->data + i * job->block, job->block,
					       job->packed + i * job->cap, job->length[i]);

		if (n != job->block)
			measure_die("zstd does not give the block back");
	}
	start_ns = measure_cpu_ns() - start_ns;
	ZSTD_freeDCtx(context);
	return (double)start_ns / 1e9;
}

int main(int argc, char **argv)
{
	struct job job = { 0 };
	double compress_s, expand_s;

	if (argc != 6)
		measure_die("usage: bench_zstd SIZE BLOCK LEVEL RATIO SEED");
	job.size = measure_parse_size(argv[1]);
	job.block = measure_parse_size(argv[2]);
	job.level = atoi(argv[3]);
	if (!job.block || job.size % job.block || job.block % PAGE)
		measure_die("sizes that do not fit");
	job.cap = ZSTD_compressBound(job.block);
	job.packed = malloc(job.size / job.block * job.cap);
	job.length = calloc(job.size / job.block, sizeof(*job.length));
	job.data = aligned_alloc(PAGE, job.size);
	if (!job.packed || !job.length || !job.data)
		measure_die("no memory");
	memset(job.packed, 0, job.size / job.block * job.cap);
	for (uint64_t page = 0; page < job.size / PAGE; page++)
		measure_fill_page((uint64_t *)(job.data + page * PAGE), page, (unsigned int)atoi(argv[4]),
				  (uint64_t)atoll(argv[5]));
	compress_s = compress_all(&job);
	expand_s = expand_all(&job);
	printf("{\"bytes\": %lu, \"cpu_s\": %.6f, \"expand_cpu_s\": %.6f, \"ratio\": %.3f}\n", job.size, compress_s,
	       expand_s, (double)job.size / (double)job.packed_bytes);
	free(job.packed);
	free(job.length);
	free(job.data);
	return 0;
}
