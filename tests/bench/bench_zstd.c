/* link: -lm -llz4 */
/* bench/bench_zstd.c - what zstd alone does on one core: blocks compressed one by one, and back.
 *
 *   bench_zstd SIZE BLOCK LEVEL RATIO SEED    of content as the other programs make it: one line of JSON
 *   bench_zstd FILE|RATIO                     a table of levels and ways to use zstd, over up to 16 MiB of the non-zero
 *                                             blocks of a file (a copy of a RAM file, a core dump), or of such content
 *
 * The table: a block is stored raw if zstd does not save a sixteenth, as the product does. Times are processor time,
 * the best of some rounds; a round goes through all lines, so that a slow moment of the machine meets every line. The
 * first page: what it takes until the first 4 KiB of a block are there. The lines:
 *
 *   dictionary   trained from every other 64 KiB of the data; what is measured is the rest
 *   raw literals, no repeat codes, long matches
 *                parameters of zstd that make expanding faster
 *   magicless    frames without magic number, content size and checksum
 *   lz4          for comparison; the level is its acceleration
 *   pages        each 4 KiB is a frame of its own, so that one can be expanded alone
 */
#define ZSTD_STATIC_LINKING_ONLY
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <lz4.h>
#include <zdict.h>
#include <zstd.h>

#include "bench/lib_measure.h"

/* --- one level, of content that is made --- */

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

static void fill(char *data, uint64_t size, unsigned int ratio, uint64_t seed)
{
	for (uint64_t page = 0; page < size / PAGE; page++)
		measure_fill_page((uint64_t *)(data + page * PAGE), page, ratio, seed);
}

static void one_level(char **argv)
{
	struct job job = { 0 };
	double compress_s, expand_s;

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
	fill(job.data, job.size, (unsigned int)atoi(argv[4]), (uint64_t)atoll(argv[5]));
	compress_s = compress_all(&job);
	expand_s = expand_all(&job);
	printf("{\"bytes\": %lu, \"cpu_s\": %.6f, \"expand_cpu_s\": %.6f, \"ratio\": %.3f}\n", job.size, compress_s,
	       expand_s, (double)job.size / (double)job.packed_bytes);
	free(job.packed);
	free(job.length);
	free(job.data);
}

/* --- the table --- */

#define STUDY_BYTES (16 * UINT64_C(1048576))
#define CHUNK UINT64_C(65536)
#define ROUNDS 5
#define WAYS_MAX 64
#define FRAMES_MAX 16 /* pages of a block */

struct way {
	const char *name;
	uint32_t block;
	int level;
	size_t dictionary_bytes;
	bool raw_literals, magicless, pages, lz4;
	int min_match, hash_log; /* 0: as the level has it */
};

struct sample {
	char *data;
	uint64_t bytes; /* whole chunks */
	char *dictionary_data;
	uint64_t dictionary_data_bytes;
};

struct packed {
	uint32_t length[FRAMES_MAX]; /* as long as a page: raw */
	uint32_t at;                 /* in the output, by 64 bytes */
};

struct result {
	uint64_t blocks, packed_bytes, encode_ns, decode_ns, first_ns;
};

static bool is_zero(const char *data, uint64_t length)
{
	return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0;
}

static void set_c(ZSTD_CCtx *context, ZSTD_cParameter parameter, int value)
{
	if (ZSTD_isError(ZSTD_CCtx_setParameter(context, parameter, value)))
		measure_die("zstd refuses a parameter");
}

static ZSTD_CCtx *new_compressor(const struct way *way)
{
	ZSTD_CCtx *context = ZSTD_createCCtx();

	if (!context)
		measure_die("no memory");
	set_c(context, ZSTD_c_compressionLevel, way->level);
	set_c(context, ZSTD_c_checksumFlag, 0);
	if (way->raw_literals)
		set_c(context, ZSTD_c_literalCompressionMode, ZSTD_ps_disable);
	if (way->magicless) {
		set_c(context, ZSTD_c_format, ZSTD_f_zstd1_magicless);
		set_c(context, ZSTD_c_contentSizeFlag, 0);
		set_c(context, ZSTD_c_dictIDFlag, 0);
	}
	if (way->min_match)
		set_c(context, ZSTD_c_minMatch, way->min_match);
	if (way->hash_log)
		set_c(context, ZSTD_c_hashLog, way->hash_log);
	return context;
}

static ZSTD_DCtx *new_expander(const struct way *way)
{
	ZSTD_DCtx *context = ZSTD_createDCtx();

	if (!context)
		measure_die("no memory");
	if (way->magicless)
		ZSTD_DCtx_setParameter(context, ZSTD_d_format, ZSTD_f_zstd1_magicless);
	return context;
}

static void load_dictionary(const struct way *way, const struct sample *sample, ZSTD_CCtx *compressor,
			    ZSTD_DCtx *expander)
{
	size_t samples = sample->dictionary_data_bytes / way->block;
	size_t *sizes = calloc(samples, sizeof(*sizes));
	char *dictionary = malloc(way->dictionary_bytes);
	size_t length;

	if (!sizes || !dictionary)
		measure_die("no memory");
	for (size_t i = 0; i < samples; i++)
		sizes[i] = way->block;
	length = ZDICT_trainFromBuffer(dictionary, way->dictionary_bytes, sample->dictionary_data, sizes,
				       (unsigned int)samples);
	if (ZDICT_isError(length))
		measure_die("no dictionary: %s", ZDICT_getErrorName(length));
	ZSTD_CCtx_loadDictionary(compressor, dictionary, length);
	ZSTD_DCtx_loadDictionary(expander, dictionary, length);
	free(dictionary);
	free(sizes);
}

/* The length, or 0: not worth it. */
static size_t pack(const struct way *way, ZSTD_CCtx *context, const char *plain, size_t length, char *out)
{
	size_t worth = length - length / 16, n;

	if (way->lz4)
		return (size_t)LZ4_compress_fast(plain, out, (int)length, (int)worth, way->level);
	n = ZSTD_compress2(context, out, worth, plain, length);
	return ZSTD_isError(n) ? 0 : n;
}

static bool unpack(const struct way *way, ZSTD_DCtx *context, const char *in, size_t length, char *plain, size_t size)
{
	if (way->lz4)
		return LZ4_decompress_safe(in, plain, (int)length, (int)size) == (int)size;
	return ZSTD_decompressDCtx(context, plain, size, in, length) == size;
}

static void encode(const struct way *way, ZSTD_CCtx *context, const struct sample *sample, char *out,
		   struct packed *packed, struct result *result)
{
	uint32_t frame = way->pages ? (uint32_t)PAGE : way->block;
	uint64_t start_ns = measure_cpu_ns(), at = 0;

	result->blocks = result->packed_bytes = 0;
	for (uint64_t offset = 0; offset < sample->bytes; offset += way->block) {
		const char *block = sample->data + offset;
		struct packed *now = &packed[result->blocks];

		if (is_zero(block, way->block))
			continue;
		now->at = (uint32_t)(at / 64);
		for (uint32_t i = 0; i < way->block / frame; i++) {
			size_t n = pack(way, context, block + (size_t)i * frame, frame, out + at);

			if (!n) {
				memcpy(out + at, block + (size_t)i * frame, frame);
				n = frame;
			}
			now->length[i] = (uint32_t)n;
			at += n;
			result->packed_bytes += n;
		}
		at = (at + 63) & ~UINT64_C(63);
		result->blocks++;
	}
	result->encode_ns = measure_cpu_ns() - start_ns;
}

/* The first frames of each block, or all of them. */
static uint64_t decode(const struct way *way, ZSTD_DCtx *context, const char *in, const struct packed *packed,
		       uint64_t blocks, bool all, char *plain)
{
	uint32_t frame = way->pages ? (uint32_t)PAGE : way->block;
	uint32_t frames = all ? way->block / frame : 1;
	uint64_t start_ns = measure_cpu_ns();

	for (uint64_t block = 0; block < blocks; block++) {
		const char *from = in + (uint64_t)packed[block].at * 64;
		char *to = plain + block % 64 * way->block;

		for (uint32_t i = 0; i < frames; i++) {
			uint32_t length = packed[block].length[i];

			if (length == frame)
				memcpy(to + (size_t)i * frame, from, frame);
			else if (!unpack(way, context, from, length, to + (size_t)i * frame, frame))
				measure_die("the codec does not give the block back");
			from += length;
		}
	}
	return measure_cpu_ns() - start_ns;
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a && a < b ? a : b;
}

static void measure_way(const struct way *way, const struct sample *sample, struct result *best)
{
	ZSTD_CCtx *compressor = new_compressor(way);
	ZSTD_DCtx *expander = new_expander(way);
	char *out = malloc(sample->bytes + sample->bytes / way->block * 64), *plain = malloc(64 * (size_t)way->block);
	struct packed *packed = calloc(sample->bytes / way->block, sizeof(*packed));
	struct result now;

	if (!out || !plain || !packed)
		measure_die("no memory");
	if (way->dictionary_bytes)
		load_dictionary(way, sample, compressor, expander);
	memset(out, 1, sample->bytes);
	encode(way, compressor, sample, out, packed, &now);
	now.decode_ns = decode(way, expander, out, packed, now.blocks, true, plain);
	now.first_ns = decode(way, expander, out, packed, now.blocks, false, plain);
	*best = (struct result){ now.blocks, now.packed_bytes, less(best->encode_ns, now.encode_ns),
				 less(best->decode_ns, now.decode_ns), less(best->first_ns, now.first_ns) };
	ZSTD_freeCCtx(compressor);
	ZSTD_freeDCtx(expander);
	free(out);
	free(plain);
	free(packed);
}

static void print_way(const struct way *way, const struct result *result)
{
	double plain_bytes = (double)(result->blocks * way->block);

	printf("| %uK | %d | %s | %.2f | %.0f | %.0f | %.1f |\n", way->block >> 10, way->level, way->name,
	       plain_bytes / (double)result->packed_bytes, plain_bytes / ((double)result->encode_ns / 1e3),
	       plain_bytes / ((double)result->decode_ns / 1e3),
	       (double)result->first_ns / 1e3 / (double)result->blocks);
}

/* Chunks that are not all zero, evenly from the whole file; as many others for the dictionary. */
static void load_sample(const char *path, struct sample *sample)
{
	char *chunk = malloc(CHUNK);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t stride, seen = 0, used = 0;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) != 0 || !chunk)
		measure_die("cannot read %s", path);
	for (off_t at = 0; at + (off_t)CHUNK <= st.st_size; at += (off_t)CHUNK)
		used += pread(fd, chunk, CHUNK, at) == (ssize_t)CHUNK && !is_zero(chunk, CHUNK);
	stride = used * CHUNK / (2 * STUDY_BYTES) + 1;
	for (off_t at = 0; at + (off_t)CHUNK <= st.st_size; at += (off_t)CHUNK) {
		if (pread(fd, chunk, CHUNK, at) != (ssize_t)CHUNK || is_zero(chunk, CHUNK) || seen++ % stride)
			continue;
		if (seen / stride % 2 && sample->bytes < STUDY_BYTES) {
			memcpy(sample->data + sample->bytes, chunk, CHUNK);
			sample->bytes += CHUNK;
		} else if (sample->dictionary_data_bytes < STUDY_BYTES) {
			memcpy(sample->dictionary_data + sample->dictionary_data_bytes, chunk, CHUNK);
			sample->dictionary_data_bytes += CHUNK;
		}
	}
	close(fd);
	free(chunk);
}

/* All lines of the table. */
static size_t list_ways(struct way *ways)
{
	static const int levels[] = { -7, -5, -3, -2, -1, 1, 2, 3 };
	static const uint32_t blocks[] = { 4096, 16384, 65536 };
	size_t count = 0;

	for (size_t b = 0; b < sizeof(blocks) / sizeof(blocks[0]); b++) {
		for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
			ways[count++] = (struct way){ .name = "", .block = blocks[b], .level = levels[i] };
		ways[count++] = (struct way){ .name = "lz4", .block = blocks[b], .level = 1, .lz4 = true };
	}
	ways[count++] = (struct way){ .name = "lz4", .block = 16384, .level = 3, .lz4 = true };
	ways[count++] = (struct way){ .name = "lz4, pages", .block = 16384, .level = 1, .lz4 = true, .pages = true };
	for (int level = -3; level <= 1; level += 2) {
		const struct way variants[] = {
			{ "pages", 16384, level, .pages = true },
			{ "pages, dictionary of 16K", 16384, level, .pages = true, .dictionary_bytes = 16384 },
			{ "dictionary of 16K", 16384, level, .dictionary_bytes = 16384 },
			{ "dictionary of 64K", 16384, level, .dictionary_bytes = 65536 },
			{ "magicless", 16384, level, .magicless = true },
			{ "raw literals", 16384, level, .raw_literals = true },
			{ "long matches", 16384, level, .min_match = 7 },
			{ "small table", 16384, level, .hash_log = 11 },
		};

		memcpy(ways + count, variants, sizeof(variants));
		count += sizeof(variants) / sizeof(variants[0]);
	}
	return count;
}

static void study(const char *what)
{
	struct sample sample = { .data = aligned_alloc(PAGE, STUDY_BYTES), .dictionary_data = malloc(STUDY_BYTES) };
	unsigned int ratio = (unsigned int)atoi(what);
	struct way ways[WAYS_MAX];
	struct result best[WAYS_MAX] = { 0 };
	size_t count = list_ways(ways);

	if (!sample.data || !sample.dictionary_data)
		measure_die("no memory");
	if (ratio) {
		sample.bytes = sample.dictionary_data_bytes = STUDY_BYTES;
		fill(sample.data, STUDY_BYTES, ratio, 1);
		fill(sample.dictionary_data, STUDY_BYTES, ratio, 2);
	} else {
		load_sample(what, &sample);
	}
	for (int round = 0; round < ROUNDS; round++)
		for (size_t i = 0; i < count; i++)
			measure_way(&ways[i], &sample, &best[i]);
	printf("| block | level | way | ratio | encode MB/s | decode MB/s | first page us |\n"
	       "|---|---|---|---|---|---|---|\n");
	for (size_t i = 0; i < count; i++)
		print_way(&ways[i], &best[i]);
	free(sample.data);
	free(sample.dictionary_data);
}

int main(int argc, char **argv)
{
	if (argc != 2 && argc != 6)
		measure_die("usage: bench_zstd SIZE BLOCK LEVEL RATIO SEED | bench_zstd FILE|RATIO");
	if (argc == 2)
		study(argv[1]);
	else
		one_level(argv);
	return 0;
}
