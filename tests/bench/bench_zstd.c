/* link: -lm */
/* bench/bench_zstd.c - what zstd alone does on one core: blocks as the other programs make them, compressed one by one.
 *
 *   bench_zstd SIZE BLOCK LEVEL RATIO SEED
 */
#include <stdio.h>
#include <stdlib.h>

#include <zstd.h>

#include "bench/lib_measure.h"

int main(int argc, char **argv)
{
	uint64_t size, block, packed_bytes = 0, start_ns;
	unsigned int ratio;
	uint64_t *data;
	size_t cap;
	void *packed;
	ZSTD_CCtx *context = ZSTD_createCCtx();

	if (argc != 6)
		measure_die("usage: bench_zstd SIZE BLOCK LEVEL RATIO SEED");
	size = measure_parse_size(argv[1]);
	block = measure_parse_size(argv[2]);
	ratio = (unsigned int)atoi(argv[4]);
	cap = ZSTD_compressBound(block);
	packed = malloc(cap);
	data = aligned_alloc(PAGE, size);
	if (!context || !packed || !data || size % block || block % PAGE)
		measure_die("no memory, or sizes that do not fit");
	for (uint64_t page = 0; page < size / PAGE; page++)
		measure_fill_page(data + page * PAGE_WORDS, page, ratio, (uint64_t)atoll(argv[5]));
	start_ns = measure_cpu_ns();
	for (uint64_t offset = 0; offset < size; offset += block) {
		size_t n = ZSTD_compressCCtx(context, packed, cap, (char *)data + offset, block, atoi(argv[3]));

		if (ZSTD_isError(n))
			measure_die("zstd: %s", ZSTD_getErrorName(n));
		packed_bytes += n < block ? n : block;
	}
	printf("{\"bytes\": %lu, \"cpu_s\": %.6f, \"ratio\": %.3f}\n", size,
	       (double)(measure_cpu_ns() - start_ns) / 1e9, (double)size / (double)packed_bytes);
	ZSTD_freeCCtx(context);
	free(packed);
	free(data);
	return 0;
}
