/* How fast demoters make room: bench_reclaim THREADS LEVEL [MIB]. Files that nobody maps fill the budget, which is then
 * cut to a quarter; the store is in memory, so it is processors that are measured. LEVEL: of zstd; 0: LZ4. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/ramfile.h"
#include "engine/write.h"
#include "policy/tiering.h"

#define BLOCK 16384U
#define FILES 4U
#define MIB (UINT64_C(1) << 20)

/* Words of which half repeat: some two fifths of the size is left. */
static void fill(uint8_t *data, uint64_t *state)
{
	for (size_t i = 0; i < BLOCK; i += sizeof(uint64_t)) {
		uint64_t word;

		*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		word = i / 64 % 2 ? *state >> 33 : i / 512;
		memcpy(data + i, &word, sizeof(word));
	}
}

static int write_file(struct ramfile *file, uint64_t bytes, uint64_t state)
{
	uint8_t data[BLOCK];
	int err = 0;

	for (uint64_t at = 0; at < bytes && !err; at += BLOCK) {
		fill(data, &state);
		err = ramfile_write(file, data, BLOCK, at, false);
	}
	return err;
}

static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Until a quarter of the budget, and its reserve, is left. */
static void measure(struct engine *engine, uint64_t bytes)
{
	uint64_t began_ns = clock_ns(), before = budget_used(engine_budget(engine)), gone;
	double cpu = cpu_seconds(), seconds;

	tiering_set_dram(engine, bytes / 4);
	while (budget_free(engine_budget(engine)) < budget_reserve_bytes(engine_budget(engine)))
		clock_sleep(NS_PER_MS);
	seconds = (double)(clock_ns() - began_ns) / 1e9;
	cpu = cpu_seconds() - cpu;
	gone = before - budget_used(engine_budget(engine));
	printf("%.0f MB/s, %.0f MB for each second of a processor\n", (double)gone / 1e6 / seconds,
	       (double)gone / 1e6 / cpu);
}

int main(int argc, char **argv)
{
	uint64_t bytes = (argc > 3 ? strtoull(argv[3], NULL, 10) : 512) * MIB;
	struct engine_config config = { .block_bytes = BLOCK,
					.dram_bytes = 2 * bytes,
					.min_idle_ns = 200 * NS_PER_MS,
					.level = argc > 2 ? atoi(argv[2]) : 1,
					.run_demoter = true,
					.demoters = argc > 1 ? (unsigned int)atoi(argv[1]) : 0 };
	struct ramfile *file[FILES];
	struct scratch scratch;
	struct engine *engine;
	int err;

	scratch_new(&scratch, "bench-reclaim");
	config.arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	err = store_mem_new(&config.store);
	if (!err)
		err = tiering_new(&config, &engine);
	for (unsigned int i = 0; i < FILES && !err; i++) {
		err = ramfile_load(engine, 7 + i, bytes / FILES, false, &file[i]);
		if (!err)
			err = write_file(file[i], bytes / FILES, i + 1);
	}
	if (!err)
		measure(engine, bytes);
	if (err)
		fprintf(stderr, "bench_reclaim: %s\n", strerror(-err));
	else
		for (unsigned int i = 0; i < FILES; i++)
			ramfile_unload(file[i]);
	if (!err)
		tiering_free(engine);
	scratch_free(&scratch);
	return err ? 1 : 0;
}
