/* What it costs to have many RAM files: bench_scan FILES [BUSY [MIB]]. They have 2 TiB in sum. BUSY of them (50, or all
 * if there are fewer) are mapped and have MIB (512) in DRAM together; half of the others is mapped, too, and of none of
 * those anything is in DRAM. The engine and its threads are real, processes and the store are not: a process sees
 * nothing in use, at no cost. Prints one object:
 *
 *   round_cpu_s    of the scanner's thread, for a round over all of those
 *   scan_share     of a processor at the pace of a mount that is not short, a round every 15 s
 *   idle_cpu_s     of the scanner's thread, in a second in which no look is due
 *   reclaim_mb_s, reclaim_mb_cpu_s   what demoters free, by the clock, and for each second of their threads
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/due.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mapper.h"
#include "engine/ramfile.h"
#include "engine/write.h"
#include "policy/demoter.h"
#include "policy/tiering.h"

#define BLOCK 16384U
#define MIB (UINT64_C(1) << 20)
#define SPACE (UINT64_C(2) << 40)
#define FILES_MAX 4096U
#define BUSY_DEFAULT 50U
#define MIN_IDLE_NS (200 * NS_PER_MS)
#define MEASURE_NS (3 * NS_PER_S)
#define ROUND_S 15

static struct engine *engine;
static unsigned int files, busy;
static struct ramfile *file[FILES_MAX];
static struct process *process[FILES_MAX];
static const struct mapper_ops *plain_ops;
static struct mapper_ops idle_ops;
static _Atomic bool ends;

static int idle_look(struct mapper *mapper, uint64_t first, uint64_t count, uint8_t *used)
{
	(void)mapper;
	(void)first;
	(void)count;
	(void)used;
	return 0;
}

static int idle_zap(struct mapper *mapper, uint64_t first, uint64_t count, const uint8_t *mark, uint64_t round)
{
	return count ? 0 : plain_ops->zap(mapper, first, count, mark, round);
}

/* The agents of all. */
static void *answer(void *arg)
{
	(void)arg;
	while (!atomic_load(&ends)) {
		for (unsigned int i = 0; i < files; i++)
			if (process[i])
				process_run_agent(process[i]);
		clock_sleep(NS_PER_MS);
	}
	return NULL;
}

/* Words of which half repeat: some two fifths of the size is left. */
static int fill(struct ramfile *to, uint64_t blocks, uint64_t state)
{
	uint8_t data[BLOCK];
	int err = 0;

	for (uint64_t at = 0; at < blocks && !err; at++) {
		for (size_t i = 0; i < BLOCK; i += sizeof(uint64_t)) {
			uint64_t word;

			state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
			word = i / 64 % 2 ? state >> 33 : i / 512;
			memcpy(data + i, &word, sizeof(word));
		}
		err = ramfile_write(to, data, BLOCK, at * BLOCK, false);
	}
	return err;
}

static int map(unsigned int i)
{
	struct mapper *mapper;
	int err = process_map(file[i], 1, &process[i]);

	if (err)
		return err;
	mapper = (struct mapper *)process[i];
	plain_ops = mapper->ops;
	idle_ops = *plain_ops;
	idle_ops.look = idle_look;
	idle_ops.look_runs = NULL;
	idle_ops.zap = idle_zap;
	mapper->ops = &idle_ops;
	return 0;
}

static int make_files(uint64_t bytes)
{
	int err = 0;

	for (unsigned int i = 0; i < files && !err; i++) {
		err = ramfile_load(engine, 7 + i, SPACE / files / BLOCK * BLOCK, false, &file[i]);
		if (!err && i < busy)
			err = fill(file[i], bytes / BLOCK / busy, i + 1);
		if (!err && (i < busy || i % 2))
			err = map(i);
	}
	return err;
}

static double cpu_of(pthread_t thread)
{
	struct timespec time = { 0 };
	clockid_t clock;

	if (!pthread_getcpuclockid(thread, &clock))
		clock_gettime(clock, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double cpu_of_demoters(void)
{
	const struct reclaim *reclaim = &engine->demoter->reclaim;
	double sum = 0;

	for (unsigned int i = 0; i < reclaim->threads; i++)
		sum += cpu_of(reclaim->thread[i]);
	return sum;
}

static uint64_t rounds(void)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < busy; i++) {
		lock_get(&file[i]->lock);
		sum += file[i]->heat.round;
		lock_put(&file[i]->lock);
	}
	return sum;
}

/* Rounds come one after the other while somebody wants them. */
static void want(int by)
{
	for (unsigned int i = 0; i < busy; i++) {
		lock_get(&file[i]->lock);
		file[i]->rounds.wanted += (uint64_t)by;
		lock_put(&file[i]->lock);
		due_pull(file[i]);
	}
}

static void measure_scans(void)
{
	pthread_t scanner = engine->demoter->scanner;
	uint64_t before;
	double cpu, round_cpu_s;

	want(1);
	while (rounds() < 4 * (uint64_t)busy)
		clock_sleep(NS_PER_MS);
	before = rounds();
	cpu = cpu_of(scanner);
	clock_sleep(MEASURE_NS);
	round_cpu_s = (cpu_of(scanner) - cpu) * busy / (double)(rounds() - before);
	want(-1);
	clock_sleep(NS_PER_S); /* the last ones are answered */
	cpu = cpu_of(scanner);
	clock_sleep(NS_PER_S);
	printf("\"round_cpu_s\": %.6f, \"scan_share\": %.6f, \"idle_cpu_s\": %.6f, ", round_cpu_s,
	       round_cpu_s / ROUND_S, cpu_of(scanner) - cpu);
}

/* Until a quarter of the budget, and its reserve, is left. */
static void measure_reclaim(uint64_t bytes)
{
	struct budget *budget = engine_budget(engine);
	uint64_t began_ns = clock_ns(), before = budget_used(budget);
	double cpu = cpu_of_demoters(), gone, seconds;

	tiering_set_dram(engine, bytes / 4);
	while (budget_free(budget) < budget_reserve_bytes(budget))
		clock_sleep(NS_PER_MS);
	seconds = (double)(clock_ns() - began_ns) / 1e9;
	gone = (double)(before - budget_used(budget)) / 1e6;
	printf("\"reclaim_mb_s\": %.0f, \"reclaim_mb_cpu_s\": %.0f", gone / seconds, gone / (cpu_of_demoters() - cpu));
}

static void free_files(void)
{
	for (unsigned int i = 0; i < files; i++) {
		if (process[i])
			process_unmap(process[i]);
		if (file[i])
			ramfile_unload(file[i]);
	}
}

int main(int argc, char **argv)
{
	uint64_t bytes = (argc > 3 ? strtoull(argv[3], NULL, 10) : 512) * MIB;
	struct engine_config config = { .block_bytes = BLOCK,
					.dram_bytes = 4 * bytes,
					.min_idle_ns = MIN_IDLE_NS,
					.level = 1,
					.run_demoter = true,
					.demoters = 1 };
	struct scratch scratch;
	struct rlimit limit;
	pthread_t agents;
	int err;

	files = argc > 1 ? (unsigned int)atoi(argv[1]) : 1000;
	busy = argc > 2 ? (unsigned int)atoi(argv[2]) : BUSY_DEFAULT;
	busy = busy < files ? busy : files;
	if (!busy || files > FILES_MAX || getrlimit(RLIMIT_NOFILE, &limit))
		return 1;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	scratch_new(&scratch, "bench-scan");
	config.arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	err = store_mem_new(&config.store);
	if (!err)
		err = tiering_new(&config, &engine);
	if (!err)
		err = make_files(bytes);
	if (!err)
		err = -pthread_create(&agents, NULL, answer, NULL);
	if (err) {
		fprintf(stderr, "bench_scan: %s\n", strerror(-err));
		scratch_free(&scratch);
		return 1;
	}
	printf("{\"files\": %u, \"busy\": %u, \"resident_bytes\": %llu, ", files, busy,
	       (unsigned long long)budget_used(engine_budget(engine)));
	measure_scans();
	measure_reclaim(bytes);
	printf("}\n");
	atomic_store(&ends, true);
	pthread_join(agents, NULL);
	free_files();
	tiering_free(engine);
	config.store->ops->free(config.store);
	scratch_free(&scratch);
	return 0;
}
