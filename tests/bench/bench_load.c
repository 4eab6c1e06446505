/* link: -lm -ldl */
/* bench/bench_load.c - loads on mapped memory, the same code for tierfs and for what it is measured against.
 *
 * Reads one command a line on standard input and answers each with one line of JSON on standard output, so that whoever
 * drives it can let several instances work in turns, and make memory cold in between. NAME is that of a mapping; sizes
 * take K, M, G.
 *
 *   map NAME PATH|anon|umap:PATH SIZE [huge] [random]
 *                                              maps a file shared, or anonymous memory; huge, random: madvise; umap: by
 *                                              LLNL's umap, a build of which $UMAP_DIR names
 *   unmap NAME [unlink]
 *   fill NAME RATIO SEED                       all pages, with content that zstd makes 1/RATIO of
 *   touch NAME FIRST LENGTH ORDER              one write in every page; ORDER: sequential, random
 *   access NAME OP SECONDS CHOICE THREADS SEED [EVERY_MS]
 *                                              OP: read, write, rmw (8 bytes), mix (3 reads a write); with EVERY_MS,
 *                                              the rate of every interval too. CHOICE of the place:
 *                                                even                  any word
 *                                                zipf:THETA:CLUSTER    pages; neighbours in rank are together in
 *                                                                      clusters of so many bytes, which are shuffled
 *                                                moving:HOT:PERIOD_MS  9 of 10 in a window that jumps
 *   latency NAME ORDER THREADS FIRST COUNT UNIT SEED
 *                                              reads one word of each of COUNT units, never of one twice, and times
 *                                              each; FIRST: units to leave out, of earlier calls
 *   visit HOT COLD SECONDS EVERY_US COUNT UNIT FIRST SEED [BUSY THREADS]
 *                                              every so often reads one word of a unit of COLD, in a shuffled order
 *                                              from its unit FIRST on, then of COUNT random pages of HOT, and times
 *                                              each; the main thread does it, while so many others mix pages of BUSY
 *   stir NAME UNIT SEED                        changes one word of every unit
 *   pageout NAME                               madvise(MADV_PAGEOUT), after msync for a file
 *   cached NAME                                bytes that need no I/O (mincore)
 *   sort NAME THREADS SEED                     fills with numbers, then sorts them; both are timed
 *   quit
 *
 * What `fill` wrote is checked by mix, by latency, by visit and by sort: "bad" counts wrong words.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "bench/lib_measure.h"
#include "bench/lib_sort.h"

#define MAPS_MAX 8
#define THREADS_MAX 32
#define WORDS_MAX 12
#define INTERVALS_MAX 4096
#define HOT_SHARE 10  /* of so many accesses, one goes anywhere */
#define WRITE_EVERY 4 /* of so many accesses of a mix, one writes */

struct map {
	char name[32], path[256];
	uint8_t *base;
	uint64_t bytes;
	int fd; /* -1: anonymous */
	bool umap;
};

static struct map maps[MAPS_MAX];
static void *(*umap)(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
static int (*uunmap)(void *addr, size_t bytes);
static volatile uint64_t sink;

static struct map *find_map(const char *name)
{
	for (int i = 0; i < MAPS_MAX; i++)
		if (maps[i].base && strcmp(maps[i].name, name) == 0)
			return &maps[i];
	measure_die("no mapping %s", name);
}

static double seconds_since(uint64_t start_ns)
{
	return (double)(measure_now_ns() - start_ns) / 1e9;
}

/* --- mappings --- */

/* Loaded at run time: umap's licence and its place on the disk are its own. */
static void load_umap(void)
{
	const char *dir = getenv("UMAP_DIR");
	char pattern[4096];
	glob_t found;
	void *library;

	snprintf(pattern, sizeof(pattern), "%s/lib*/libumap.so", dir ? dir : "");
	if (!dir || glob(pattern, 0, NULL, &found) != 0)
		measure_die("umap: no %s", pattern);
	library = dlopen(found.gl_pathv[0], RTLD_NOW);
	globfree(&found);
	if (!library)
		measure_die("umap: %s", dlerror());
	*(void **)&umap = dlsym(library, "umap");
	*(void **)&uunmap = dlsym(library, "uunmap");
	if (!umap || !uunmap)
		measure_die("umap: %s", dlerror());
}

static void *map_memory(const struct map *map)
{
	if (map->umap) {
		if (!umap)
			load_umap();
		return umap(NULL, map->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, map->fd, 0);
	}
	return mmap(NULL, map->bytes, PROT_READ | PROT_WRITE, map->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED,
		    map->fd, 0);
}

static void do_map(char **word, int words)
{
	struct map *map = NULL;
	int advice = -1;
	uint64_t start_ns = measure_now_ns();

	for (int i = 0; i < MAPS_MAX && !map; i++)
		if (!maps[i].base)
			map = &maps[i];
	if (!map || words < 4)
		measure_die("map: too many, or too few words");
	snprintf(map->name, sizeof(map->name), "%s", word[1]);
	map->umap = strncmp(word[2], "umap:", 5) == 0;
	snprintf(map->path, sizeof(map->path), "%s", map->umap ? word[2] + 5 : word[2]);
	map->bytes = measure_parse_size(word[3]);
	map->fd = -1;
	if (strcmp(word[2], "anon") != 0) {
		/* umap keeps pages itself, and its programs open files so. */
		map->fd = open(map->path, O_RDWR | O_CREAT | O_CLOEXEC | (map->umap ? O_DIRECT : 0), 0600);
		if (map->fd < 0)
			measure_die("open %s: %s", word[2], strerror(errno));
		if (lseek(map->fd, 0, SEEK_END) < (off_t)map->bytes && ftruncate(map->fd, (off_t)map->bytes) < 0)
			measure_die("ftruncate %s: %s", word[2], strerror(errno));
	}
	map->base = map_memory(map);
	if (map->base == MAP_FAILED)
		measure_die("mmap %s: %s", word[2], strerror(errno));
	for (int i = 4; i < words; i++) {
		advice = strcmp(word[i], "huge") == 0 ? MADV_HUGEPAGE : MADV_RANDOM;
		if (madvise(map->base, map->bytes, advice) < 0)
			measure_die("madvise %s: %s", word[i], strerror(errno));
	}
	printf("{\"seconds\": %.6f}\n", seconds_since(start_ns));
}

static void do_unmap(char **word, int words)
{
	struct map *map = find_map(word[1]);

	/* umap writes back what is dirty, but leaves the memory. */
	if (map->umap && uunmap(map->base, map->bytes) < 0)
		measure_die("uunmap %s", map->path);
	munmap(map->base, map->bytes);
	if (map->fd >= 0)
		close(map->fd);
	if (words > 2 && map->fd >= 0 && unlink(map->path) < 0)
		measure_die("unlink %s: %s", map->path, strerror(errno));
	map->base = NULL;
	printf("{}\n");
}

/* --- filling and touching --- */

static void do_fill(char **word)
{
	struct map *map = find_map(word[1]);
	uint64_t start_ns = measure_now_ns();
	uint64_t page[PAGE_WORDS];

	for (uint64_t i = 0; i < map->bytes / PAGE; i++) {
		measure_fill_page(page, i, (unsigned int)atoi(word[2]), (uint64_t)atoll(word[3]));
		memcpy(map->base + i * PAGE, page, PAGE);
	}
	printf("{\"seconds\": %.6f}\n", seconds_since(start_ns));
}

static void do_touch(char **word)
{
	struct map *map = find_map(word[1]);
	uint64_t first = measure_parse_size(word[2]) / PAGE, pages = measure_parse_size(word[3]) / PAGE;
	bool random = strcmp(word[4], "random") == 0;
	uint64_t start_ns;

	if ((first + pages) * PAGE > map->bytes)
		measure_die("touch: beyond the end");
	start_ns = measure_now_ns();
	for (uint64_t i = 0; i < pages; i++) {
		uint64_t page = first + (random ? measure_shuffle(i, pages, 1) : i);

		*(volatile uint64_t *)(map->base + page * PAGE) = i + 1;
	}
	printf("{\"seconds\": %.6f, \"pages\": %lu}\n", seconds_since(start_ns), pages);
}

static void do_stir(char **word)
{
	struct map *map = find_map(word[1]);
	uint64_t unit = measure_parse_size(word[2]), seed = (uint64_t)atoll(word[3]);
	uint64_t start_ns = measure_now_ns();

	for (uint64_t offset = 0; offset < map->bytes; offset += unit)
		*(volatile uint64_t *)(map->base + offset + 8) = measure_mix(offset + seed) & 0xffffff;
	printf("{\"seconds\": %.6f}\n", seconds_since(start_ns));
}

/* --- access --- */

enum op { OP_READ, OP_WRITE, OP_RMW, OP_MIX };
enum choice { CHOICE_EVEN, CHOICE_ZIPF, CHOICE_MOVING };

struct access {
	struct map *map;
	enum op op;
	enum choice choice;
	struct zipf zipf;
	uint64_t cluster_pages;
	uint64_t hot_pages, period_ns;
	uint64_t start_ns, end_ns, interval_ns;
};

struct worker {
	pthread_t thread;
	const struct access *access;
	uint64_t state, ops, bad;
	struct histogram histogram;
	uint64_t interval[INTERVALS_MAX];
	const struct latency *latency;
};

static struct worker workers[THREADS_MAX];

/* The loop over resident memory must be nothing but the access. */
#define EVEN_BATCH 1024
static void even_batch(struct worker *worker)
{
	const struct access *access = worker->access;
	uint64_t *words = (uint64_t *)access->map->base;
	uint64_t n = access->map->bytes / 8, sum = 0;

	switch (access->op) {
	case OP_READ:
		for (int i = 0; i < EVEN_BATCH; i++)
			sum += ((volatile uint64_t *)words)[measure_below(&worker->state, n)];
		break;
	case OP_WRITE:
		for (int i = 0; i < EVEN_BATCH; i++)
			((volatile uint64_t *)words)[measure_below(&worker->state, n)] = (uint64_t)i;
		break;
	case OP_RMW:
	case OP_MIX:
		for (int i = 0; i < EVEN_BATCH; i++)
			((volatile uint64_t *)words)[measure_below(&worker->state, n)]++;
		break;
	}
	sink += sum;
	worker->ops += EVEN_BATCH;
}

static uint64_t choose_page(struct worker *worker, uint64_t now_ns)
{
	const struct access *access = worker->access;
	uint64_t pages = access->map->bytes / PAGE;
	uint64_t rank, window;

	if (access->choice == CHOICE_ZIPF) {
		rank = zipf_next(&access->zipf, &worker->state);
		return measure_shuffle(rank / access->cluster_pages, pages / access->cluster_pages, 5) *
			       access->cluster_pages +
		       rank % access->cluster_pages;
	}
	if (measure_below(&worker->state, HOT_SHARE) == 0)
		return measure_below(&worker->state, pages);
	window = (now_ns - access->start_ns) / access->period_ns;
	return (measure_mix(window) % (pages - access->hot_pages)) + measure_below(&worker->state, access->hot_pages);
}

/* One access: the first word says whether the page is the right one, the others may be written. */
static void page_batch(struct worker *worker, uint64_t now_ns)
{
	const struct access *access = worker->access;

	for (int i = 0; i < 16; i++, worker->ops++) {
		uint64_t page = choose_page(worker, now_ns);
		volatile uint64_t *at = (volatile uint64_t *)(access->map->base + page * PAGE);
		uint64_t word = 1 + measure_below(&worker->state, PAGE_WORDS - 1);
		bool write = access->op == OP_WRITE ||
			     (access->op == OP_MIX && measure_below(&worker->state, WRITE_EVERY) == 0);

		worker->bad += at[0] != measure_stamp(page);
		if (write)
			at[word] = worker->state & 0xffffff;
		else
			sink += at[word];
	}
}

static void *access_thread(void *arg)
{
	struct worker *worker = arg;
	const struct access *access = worker->access;
	uint64_t now_ns = access->start_ns, ops;

	while (now_ns < access->end_ns) {
		ops = worker->ops;
		if (access->choice == CHOICE_EVEN)
			even_batch(worker);
		else
			page_batch(worker, now_ns);
		now_ns = measure_now_ns();
		if (access->interval_ns) {
			uint64_t interval = (now_ns - access->start_ns) / access->interval_ns;

			if (interval < INTERVALS_MAX)
				worker->interval[interval] += worker->ops - ops;
		}
	}
	return NULL;
}

static void parse_choice(struct access *access, char *text)
{
	char *rest = text, *first, *second;

	strsep(&rest, ":");
	first = strsep(&rest, ":");
	second = strsep(&rest, ":");
	access->choice = CHOICE_EVEN;
	if (strcmp(text, "even") == 0)
		return;
	if (!first || !second)
		measure_die("choice %s needs two numbers", text);
	if (strcmp(text, "zipf") == 0) {
		access->choice = CHOICE_ZIPF;
		zipf_init(&access->zipf, access->map->bytes / PAGE, atof(first));
		access->cluster_pages = measure_parse_size(second) / PAGE;
	} else {
		access->choice = CHOICE_MOVING;
		access->hot_pages = measure_parse_size(first) / PAGE;
		access->period_ns = measure_parse_size(second) * 1000000;
	}
}

static enum op parse_op(const char *text)
{
	static const char *const names[] = { "read", "write", "rmw", "mix" };

	for (int i = 0; i < 4; i++)
		if (strcmp(text, names[i]) == 0)
			return (enum op)i;
	measure_die("no operation %s", text);
}

static unsigned int parse_threads(const char *text)
{
	unsigned int threads = (unsigned int)atoi(text);

	if (threads < 1 || threads > THREADS_MAX)
		measure_die("threads: 1 to %d", THREADS_MAX);
	return threads;
}

static void begin_workers(unsigned int threads, void *(*fn)(void *))
{
	for (unsigned int i = 0; i < threads; i++)
		if (pthread_create(&workers[i].thread, NULL, fn, &workers[i]))
			measure_die("no thread");
}

static void end_workers(unsigned int threads)
{
	for (unsigned int i = 0; i < threads; i++)
		pthread_join(workers[i].thread, NULL);
}

static void run_workers(unsigned int threads, void *(*fn)(void *))
{
	begin_workers(threads, fn);
	end_workers(threads);
}

static void print_intervals(unsigned int threads, uint64_t count)
{
	printf(", \"intervals\": [");
	for (uint64_t i = 0; i < count && i < INTERVALS_MAX; i++) {
		uint64_t sum = 0;

		for (unsigned int j = 0; j < threads; j++)
			sum += workers[j].interval[i];
		printf("%s%lu", i ? ", " : "", sum);
	}
	printf("]");
}

static void do_access(char **word, int words)
{
	struct access access = { .map = find_map(word[1]) };
	unsigned int threads;
	struct rusage before, after;
	uint64_t ops = 0, bad = 0;
	double seconds;

	if (words < 7)
		measure_die("access: too few words");
	access.op = parse_op(word[2]);
	threads = parse_threads(word[5]);
	parse_choice(&access, word[4]);
	if (words > 7)
		access.interval_ns = measure_parse_size(word[7]) * 1000000;
	for (unsigned int i = 0; i < threads; i++) {
		memset(workers[i].interval, 0, access.interval_ns ? sizeof(workers[i].interval) : 0);
		workers[i].access = &access;
		workers[i].state = measure_mix((uint64_t)atoll(word[6]) * THREADS_MAX + i);
		workers[i].ops = workers[i].bad = 0;
	}
	getrusage(RUSAGE_SELF, &before);
	access.start_ns = measure_now_ns();
	access.end_ns = access.start_ns + (uint64_t)(atof(word[3]) * 1e9);
	run_workers(threads, access_thread);
	seconds = seconds_since(access.start_ns);
	getrusage(RUSAGE_SELF, &after);
	for (unsigned int i = 0; i < threads; i++) {
		ops += workers[i].ops;
		bad += workers[i].bad;
	}
	printf("{\"ops\": %lu, \"seconds\": %.6f, \"rate\": %.1f, \"bad\": %lu, \"minor\": %ld, \"major\": %ld", ops,
	       seconds, (double)ops / seconds, bad, after.ru_minflt - before.ru_minflt,
	       after.ru_majflt - before.ru_majflt);
	if (access.interval_ns)
		print_intervals(threads, (uint64_t)(atof(word[3]) * 1e9) / access.interval_ns);
	printf("}\n");
}

/* --- latency --- */

struct latency {
	struct map *map;
	uint64_t first, count, unit, seed;
	bool random;
	_Atomic uint64_t next;
};

static void *latency_thread(void *arg)
{
	struct worker *worker = arg;
	struct latency *latency = (struct latency *)worker->latency;
	uint64_t units = latency->map->bytes / latency->unit;
	uint64_t i;

	while ((i = atomic_fetch_add(&latency->next, 1)) < latency->count) {
		uint64_t place = latency->first + i;
		uint64_t offset = (latency->random ? measure_shuffle(place, units, latency->seed) : place) *
				  latency->unit;
		uint64_t start_ns, value;

		/* Which page of the unit is the same for all who are measured with this seed. */
		if (latency->random)
			offset += measure_mix(place + latency->seed) % (latency->unit / PAGE) * PAGE;
		start_ns = measure_now_ns();
		value = *(volatile uint64_t *)(latency->map->base + offset);
		histogram_add(&worker->histogram, measure_now_ns() - start_ns);
		worker->bad += value != measure_stamp(offset / PAGE);
	}
	return NULL;
}

static void do_latency(char **word, int words)
{
	static struct histogram sum;
	struct latency latency = { .map = find_map(word[1]) };
	unsigned int threads;
	uint64_t start_ns, bad = 0;
	double seconds;

	if (words < 8)
		measure_die("latency: too few words");
	latency.random = strcmp(word[2], "random") == 0;
	threads = parse_threads(word[3]);
	latency.first = (uint64_t)atoll(word[4]);
	latency.count = (uint64_t)atoll(word[5]);
	latency.unit = measure_parse_size(word[6]);
	latency.seed = (uint64_t)atoll(word[7]);
	if ((latency.first + latency.count) * latency.unit > latency.map->bytes)
		measure_die("latency: beyond the end");
	for (unsigned int i = 0; i < threads; i++) {
		memset(&workers[i].histogram, 0, sizeof(workers[i].histogram));
		workers[i].latency = &latency;
		workers[i].bad = 0;
	}
	start_ns = measure_now_ns();
	run_workers(threads, latency_thread);
	seconds = seconds_since(start_ns);
	memset(&sum, 0, sizeof(sum));
	for (unsigned int i = 0; i < threads; i++) {
		histogram_merge(&sum, &workers[i].histogram);
		bad += workers[i].bad;
	}
	printf("{\"seconds\": %.6f, \"bad\": %lu, ", seconds, bad);
	histogram_print(&sum);
	printf("}\n");
}

/* --- a guest that has time: hot memory again and again, and cold memory now and then --- */

static uint64_t timed_read(const struct map *map, uint64_t page, struct histogram *histogram)
{
	uint64_t start_ns = measure_now_ns(), value;

	value = *(volatile uint64_t *)(map->base + page * PAGE);
	histogram_add(histogram, measure_now_ns() - start_ns);
	return value != measure_stamp(page);
}

static void sleep_until(uint64_t ns)
{
	struct timespec until = { .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

/* Until then; what they find wrong is returned by end_busy(). */
static unsigned int begin_busy(struct access *access, char **word, uint64_t end_ns)
{
	unsigned int threads = parse_threads(word[1]);

	*access = (struct access){ .map = find_map(word[0]), .op = OP_MIX, .choice = CHOICE_ZIPF, .end_ns = end_ns };
	zipf_init(&access->zipf, access->map->bytes / PAGE, 0);
	access->cluster_pages = 1;
	for (unsigned int i = 0; i < threads; i++)
		workers[i] = (struct worker){ .access = access, .state = measure_mix(i + 1) };
	begin_workers(threads, access_thread);
	return threads;
}

static uint64_t end_busy(unsigned int threads)
{
	uint64_t bad = 0;

	end_workers(threads);
	for (unsigned int i = 0; i < threads; i++)
		bad += workers[i].bad;
	return bad;
}

static void do_visit(char **word, int words)
{
	static struct histogram hot, cold;
	static struct access busy;
	unsigned int threads;
	const struct map *hot_map = find_map(word[1]), *cold_map = find_map(word[2]);
	uint64_t every_ns = measure_parse_size(word[4]) * 1000, count = measure_parse_size(word[5]);
	uint64_t unit_pages = measure_parse_size(word[6]) / PAGE, unit = measure_parse_size(word[7]);
	uint64_t state = measure_parse_size(word[8]), bad = 0, units = cold_map->bytes / PAGE / unit_pages;
	uint64_t start_ns = measure_now_ns(), next_ns = start_ns;
	uint64_t end_ns = start_ns + (uint64_t)(atof(word[3]) * 1e9);

	memset(&hot, 0, sizeof(hot));
	memset(&cold, 0, sizeof(cold));
	if (words == 10)
		measure_die("visit: how many threads?");
	threads = words > 10 ? begin_busy(&busy, word + 9, end_ns) : 0;
	while (measure_now_ns() < end_ns) {
		uint64_t page = measure_shuffle(unit++ % units, units, 3) * unit_pages;

		bad += timed_read(cold_map, page + measure_below(&state, unit_pages), &cold);
		for (uint64_t i = 0; i < count; i++)
			bad += timed_read(hot_map, measure_below(&state, hot_map->bytes / PAGE), &hot);
		next_ns += every_ns;
		/* Who came late goes on from there: what was missed is not made up for. */
		if (next_ns < measure_now_ns())
			next_ns = measure_now_ns();
		sleep_until(next_ns);
	}
	bad += end_busy(threads);
	printf("{\"seconds\": %.6f, \"bad\": %lu, \"hot\": {", seconds_since(start_ns), bad);
	histogram_print(&hot);
	printf("}, \"cold\": {");
	histogram_print(&cold);
	printf("}}\n");
}

/* --- the kernel's view --- */

static void do_pageout(char **word)
{
	struct map *map = find_map(word[1]);
	uint64_t start_ns = measure_now_ns();

	if (map->fd >= 0 && msync(map->base, map->bytes, MS_SYNC) < 0)
		measure_die("msync: %s", strerror(errno));
	if (madvise(map->base, map->bytes, MADV_PAGEOUT) < 0)
		measure_die("MADV_PAGEOUT: %s", strerror(errno));
	printf("{\"seconds\": %.6f}\n", seconds_since(start_ns));
}

/* Processor time, so that a busy machine does not count. */
static uint64_t touch_shuffled(const struct map *map)
{
	uint64_t pages = map->bytes / PAGE, start_ns = measure_cpu_ns();

	for (uint64_t i = 0; i < pages; i++)
		/* A write that changes nothing: reads would get their neighbours' pages too. */
		__atomic_fetch_add((uint64_t *)(map->base + measure_shuffle(i, pages, 9) * PAGE), 0, __ATOMIC_RELAXED);
	return measure_cpu_ns() - start_ns;
}

static void do_refault(char **word)
{
	struct map *map = find_map(word[1]);
	uint64_t mapped_ns = touch_shuffled(map), zapped_ns;

	if (map->fd < 0 || madvise(map->base, map->bytes, MADV_DONTNEED) < 0)
		measure_die("refault: not a mapping of a file");
	zapped_ns = touch_shuffled(map);
	printf("{\"ns\": %.1f}\n", ((double)zapped_ns - (double)mapped_ns) * (double)PAGE / (double)map->bytes);
}

static void do_cached(char **word)
{
	struct map *map = find_map(word[1]);
	unsigned char seen[1024];
	uint64_t cached = 0;

	for (uint64_t offset = 0; offset < map->bytes; offset += sizeof(seen) * PAGE) {
		uint64_t length = map->bytes - offset < sizeof(seen) * PAGE ? map->bytes - offset : sizeof(seen) * PAGE;

		if (mincore(map->base + offset, length, seen) < 0)
			measure_die("mincore: %s", strerror(errno));
		for (uint64_t i = 0; i < length / PAGE; i++)
			cached += seen[i] & 1;
	}
	printf("{\"bytes\": %lu}\n", cached * PAGE);
}

/* --- sort --- */

static void do_sort(char **word)
{
	struct map *map = find_map(word[1]);
	uint64_t *words = (uint64_t *)map->base, count = map->bytes / 8, bad = 0, sum = 0;
	uint64_t state = (uint64_t)atoll(word[3]), start_ns = measure_now_ns();
	unsigned int threads = parse_threads(word[2]);
	double fill_s, sort_s;

	for (uint64_t i = 0; i < count; i++) {
		words[i] = measure_random(&state) >> 32;
		sum += words[i];
	}
	fill_s = seconds_since(start_ns);
	start_ns = measure_now_ns();
	measure_sort(words, count, threads);
	sort_s = seconds_since(start_ns);
	for (uint64_t i = 0; i < count; i++) {
		bad += i && words[i - 1] > words[i];
		sum -= words[i];
	}
	printf("{\"fill_s\": %.6f, \"seconds\": %.6f, \"bad\": %lu}\n", fill_s, sort_s, bad + (sum != 0));
}

/* --- commands --- */

static bool obey(char **word, int words)
{
	static const struct {
		const char *name;
		int words;
		void (*fixed)(char **word);
		void (*open)(char **word, int words);
	} commands[] = {
		{ "map", 4, NULL, do_map },         { "unmap", 2, NULL, do_unmap },
		{ "fill", 4, do_fill, NULL },       { "touch", 5, do_touch, NULL },
		{ "access", 7, NULL, do_access },   { "latency", 8, NULL, do_latency },
		{ "stir", 4, do_stir, NULL },       { "sort", 4, do_sort, NULL },
		{ "pageout", 2, do_pageout, NULL }, { "cached", 2, do_cached, NULL },
		{ "refault", 2, do_refault, NULL }, { "visit", 9, NULL, do_visit },
	};

	if (words == 0 || strcmp(word[0], "quit") == 0)
		return false;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(word[0], commands[i].name) != 0)
			continue;
		if (words < commands[i].words)
			measure_die("%s: too few words", word[0]);
		if (commands[i].fixed)
			commands[i].fixed(word);
		else
			commands[i].open(word, words);
		fflush(stdout);
		return true;
	}
	measure_die("no command %s", word[0]);
}

int main(void)
{
	static char line[1024];

	while (fgets(line, sizeof(line), stdin)) {
		char *word[WORDS_MAX], *rest = NULL;
		int words = 0;

		for (char *at = strtok_r(line, " \n", &rest); at && words < WORDS_MAX;
		     at = strtok_r(NULL, " \n", &rest))
			word[words++] = at;
		if (!obey(word, words))
			break;
	}
	return 0;
}
