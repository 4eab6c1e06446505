/* prog_rmw - verified random load on a mapped file.
 *
 * Maps FILE shared through plain open() and mmap(), so that it runs on any file system and under `tierctl run`. Threads
 * pick random pages and read-modify-write one slot of them; every slot is checked at every access against the version
 * that its owner wrote last (slot.h). Slots are dealt out to the threads so that every page is shared by all of them.
 * At the end everything is read once more.
 *
 * Other modes look at the same file from outside, with the state file of a load that may be running: verify (all of it,
 * by read, O_DIRECT or through a mapping), direct-read (random ranges, for a time), direct-write (random pages, for a
 * time), serve (mapped, waits for commands on stdin: "run SECONDS", "verify", "quit").
 *
 * Exit status: 0 no wrong word; 1 wrong words; 2 usage; 3 something failed.
 */
#include <getopt.h>
#include <pthread.h>
#include <signal.h>

#include "pick.h"
#include "prog.h"
#include "slot.h"

#define THREADS_MAX 64
#define WRONG_PRINTED_MAX 8
#define DIRECT_BYTES_MAX (256UL << 10)

enum mode { MODE_LOAD, MODE_VERIFY, MODE_DIRECT_READ, MODE_DIRECT_WRITE, MODE_SERVE };

static struct options {
	enum mode mode;
	const char *path, *state_path;
	uint64_t size_bytes, seed, range_offset, range_bytes;
	double seconds, read_ratio, hot, zipf, rate, report, pattern;
	unsigned int threads;
	bool json, direct, map, fresh, huge;
} opt = { .seconds = 10, .read_ratio = 0.25, .report = 0, .pattern = 0.66, .threads = 2 };

struct worker {
	pthread_t thread;
	unsigned int id;
	struct prog_rng rng;
	struct prog_hist hist; /* owned by the thread until it is joined */
	_Atomic uint64_t ops, reads, slowest_ns, started_ns;
} __attribute__((aligned(128)));

static struct state *state;
static volatile uint8_t *memory; /* the mapping of FILE */
static struct pick pick;
static atomic_bool stopping;
static _Atomic uint64_t wrong_slots;
static struct worker workers[THREADS_MAX];
static FILE *human; /* stderr when stdout carries JSON */

/* --- telling what is wrong ------------------------------------------------------------------------------------- */

static void print_words(const char *title, const uint64_t *words)
{
	fprintf(human, "  %-8s", title);
	for (unsigned int j = 0; j < SLOT_WORDS; j++)
		fprintf(human, " %016lx", words[j]);
	fputc('\n', human);
}

/* The first wrong slot of a page is told in full. page: the 4 KiB around the slot as they were seen; slots of other
 * threads may have moved on meanwhile. */
static void report_wrong(uint64_t index, uint64_t version, const uint64_t *got, const uint64_t *page)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	uint64_t want[SLOT_WORDS], first = index / SLOTS_PER_PAGE * SLOTS_PER_PAGE;
	enum slot_verdict verdict = slot_judge(state, index, version, got);
	static uint64_t printed_pages, last_first = UINT64_MAX;
	unsigned int others = 0;

	atomic_fetch_add(&wrong_slots, 1);
	slot_write(state, index, version, want);
	for (uint64_t i = 0; i < SLOTS_PER_PAGE; i++)
		others += !slot_is(state, first + i, state->version[first + i], page + i * SLOT_WORDS);
	pthread_mutex_lock(&lock);
	if (first == last_first || printed_pages++ >= WRONG_PRINTED_MAX) {
		pthread_mutex_unlock(&lock);
		return;
	}
	last_first = first;
	fprintf(human, "WRONG offset 0x%lx (page %lu, slot %lu): expected version %lu, found %s", index * SLOT_BYTES,
		first / SLOTS_PER_PAGE, index % SLOTS_PER_PAGE, version, slot_verdict_name(verdict));
	if (verdict == SLOT_STALE || verdict == SLOT_FUTURE)
		fprintf(human, " (version %lu)", got[1]);
	if (verdict == SLOT_FOREIGN)
		fprintf(human, " (offset 0x%lx version %lu)", got[0] * SLOT_BYTES, got[1]);
	fprintf(human, "; %u of %lu slots of the page look wrong\n", others, SLOTS_PER_PAGE);
	print_words("expected", want);
	print_words("got", got);
	print_words("page", page);
	fflush(human);
	pthread_mutex_unlock(&lock);
}

static void copy_words(uint64_t *to, const volatile uint64_t *from, size_t bytes)
{
	for (size_t i = 0; i < bytes / sizeof(*to); i++)
		to[i] = from[i];
}

static volatile uint64_t *slot_at(uint64_t index)
{
	return (volatile uint64_t *)(memory + index * SLOT_BYTES);
}

static void report_wrong_mapped(uint64_t index, uint64_t version)
{
	uint64_t page[PROG_PAGE / sizeof(uint64_t)], got[SLOT_WORDS];

	copy_words(got, slot_at(index), sizeof(got));
	copy_words(page, slot_at(index / SLOTS_PER_PAGE * SLOTS_PER_PAGE), sizeof(page));
	report_wrong(index, version, got, page);
}

/* --- load through the mapping ---------------------------------------------------------------------------------- */

/* A slot of the page that belongs to this thread: the deal differs from page to page. */
static uint64_t own_slot(struct worker *worker, uint64_t page)
{
	uint64_t turn = (worker->id + opt.threads - prog_mix(page) % opt.threads) % opt.threads;
	uint64_t count = (SLOTS_PER_PAGE - turn + opt.threads - 1) / opt.threads;

	return page * SLOTS_PER_PAGE + turn + opt.threads * prog_below(&worker->rng, count);
}

static bool work_once(struct worker *worker)
{
	uint64_t page = opt.range_offset / PROG_PAGE + pick_page(&pick, &worker->rng);
	uint64_t index = own_slot(worker, page);
	uint64_t version = atomic_load_explicit(&state->version[index], memory_order_relaxed);

	if (!slot_is(state, index, version, slot_at(index))) {
		report_wrong_mapped(index, version);
		return false;
	}
	if (opt.read_ratio > 0 && prog_unit(&worker->rng) < opt.read_ratio) {
		worker->reads++;
		return true;
	}
	slot_write(state, index, version + 1, slot_at(index));
	atomic_store_explicit(&state->version[index], (uint32_t)(version + 1), memory_order_release);
	return true;
}

/* Holds the rate; after a stall it does not try to catch up by more than a second. */
static void keep_pace(uint64_t *next_ns, uint64_t now)
{
	*next_ns += (uint64_t)(1e9 * opt.threads / opt.rate);
	if (*next_ns + PROG_NS < now)
		*next_ns = now;
	if (*next_ns > now + 100000)
		prog_sleep_until_ns(*next_ns);
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	uint64_t begin = prog_now_ns(), next_ns = begin, end;

	while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
		atomic_store_explicit(&worker->started_ns, begin, memory_order_relaxed);
		if (!work_once(worker))
			atomic_store(&stopping, true);
		end = prog_now_ns();
		prog_hist_add(&worker->hist, end - begin);
		if (end - begin > atomic_load_explicit(&worker->slowest_ns, memory_order_relaxed))
			atomic_store_explicit(&worker->slowest_ns, end - begin, memory_order_relaxed);
		atomic_store_explicit(&worker->ops, worker->ops + 1, memory_order_relaxed);
		begin = end;
		if (opt.rate > 0) {
			keep_pace(&next_ns, end);
			begin = prog_now_ns();
		}
	}
	atomic_store(&worker->started_ns, 0);
	return NULL;
}

static uint64_t sum_ops(void)
{
	uint64_t ops = 0;

	for (unsigned int i = 0; i < opt.threads; i++)
		ops += workers[i].ops;
	return ops;
}

/* The slowest operation since the last report, counting those that are still waiting. */
static uint64_t slowest_since(uint64_t now)
{
	uint64_t slowest = 0;

	for (unsigned int i = 0; i < opt.threads; i++) {
		uint64_t ns = atomic_exchange(&workers[i].slowest_ns, 0), started = workers[i].started_ns;

		if (started && now > started && now - started > ns)
			ns = now - started;
		if (ns > slowest)
			slowest = ns;
	}
	return slowest;
}

static void watch_workers(double seconds)
{
	uint64_t start = prog_now_ns(), end = start + (uint64_t)(seconds * 1e9), last_ops = sum_ops(), last = start;

	for (uint64_t now = start; now < end && !stopping; now = prog_now_ns()) {
		prog_sleep_until_ns(now + PROG_NS / 20 < end ? now + PROG_NS / 20 : end);
		now = prog_now_ns();
		if (!(opt.report > 0) || now - last < (uint64_t)(opt.report * 1e9))
			continue;
		fprintf(human, "%6.1fs  %9lu ops  %10.0f ops/s  slowest %9.3f ms  wrong %lu\n",
			(double)(now - start) / 1e9, sum_ops(),
			(double)(sum_ops() - last_ops) / ((double)(now - last) / 1e9), (double)slowest_since(now) / 1e6,
			wrong_slots);
		fflush(human);
		last = now;
		last_ops = sum_ops();
	}
	atomic_store(&stopping, true);
}

static double run_load(double seconds)
{
	uint64_t start = prog_now_ns();

	for (unsigned int i = 0; i < opt.threads; i++) {
		workers[i].id = i;
		workers[i].rng.state = prog_mix(opt.seed + workers[i].ops) + i;
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			prog_die("cannot start a thread");
	}
	watch_workers(seconds);
	for (unsigned int i = 0; i < opt.threads; i++)
		pthread_join(workers[i].thread, NULL);
	return (double)(prog_now_ns() - start) / 1e9;
}

/* Every slot of the range through the mapping; nobody may write meanwhile. */
static uint64_t sweep_mapped(void)
{
	uint64_t first = opt.range_offset / SLOT_BYTES, wrong = 0;

	for (uint64_t i = first; i < first + opt.range_bytes / SLOT_BYTES; i++) {
		if (slot_is(state, i, state->version[i], slot_at(i)))
			continue;
		wrong++;
		report_wrong_mapped(i, state->version[i]);
	}
	return wrong;
}

/* --- looking at it from outside -------------------------------------------------------------------------------- */

static void read_whole(int fd, void *buf, size_t length, uint64_t offset)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = pread(fd, (char *)buf + done, length - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			prog_die("read of %zu bytes at 0x%lx: %s", length - done, offset + done,
				 n ? strerror(errno) : "end of file");
		done += (size_t)n;
	}
}

static void write_whole(int fd, const void *buf, size_t length, uint64_t offset)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = pwrite(fd, (const char *)buf + done, length - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			prog_die("write of %zu bytes at 0x%lx: %s", length - done, offset + done,
				 n ? strerror(errno) : "nothing written");
		done += (size_t)n;
	}
}

/* Reads a range and checks every slot; owners may be writing it meanwhile. low: room for a version of each slot. */
static void check_range(int fd, uint64_t offset, size_t length, uint64_t *buf, uint32_t *low)
{
	uint64_t first = offset / SLOT_BYTES, slots = length / SLOT_BYTES;

	for (uint64_t i = 0; i < slots; i++)
		low[i] = atomic_load_explicit(&state->version[first + i], memory_order_acquire);
	read_whole(fd, buf, length, offset);
	for (uint64_t i = 0; i < slots; i++) {
		uint64_t *slot = buf + i * SLOT_WORDS;
		uint32_t high;

		if (slot_is(state, first + i, low[i], slot))
			continue;
		high = atomic_load_explicit(&state->version[first + i], memory_order_acquire);
		if (!slot_is_between(state, first + i, low[i], (uint64_t)high + 1, slot))
			report_wrong(first + i, low[i], slot, buf + i / SLOTS_PER_PAGE * SLOTS_PER_PAGE * SLOT_WORDS);
	}
}

static void *direct_buffer(void)
{
	void *buf = aligned_alloc(PROG_PAGE, DIRECT_BYTES_MAX);

	if (!buf)
		prog_die("out of memory");
	return buf;
}

static void verify_by_read(int fd)
{
	static uint32_t low[DIRECT_BYTES_MAX / SLOT_BYTES];
	uint64_t *buf = direct_buffer(), end = opt.range_offset + opt.range_bytes;

	for (uint64_t offset = opt.range_offset; offset < end; offset += DIRECT_BYTES_MAX) {
		size_t length = end - offset < DIRECT_BYTES_MAX ? end - offset : DIRECT_BYTES_MAX;

		check_range(fd, offset, length, buf, low);
	}
	free(buf);
}

static void read_at_random(int fd)
{
	static uint32_t low[DIRECT_BYTES_MAX / SLOT_BYTES];
	uint64_t *buf = direct_buffer(), end = prog_now_ns() + (uint64_t)(opt.seconds * 1e9), reads = 0;
	struct prog_rng rng = { prog_mix(opt.seed) };

	for (; prog_now_ns() < end && !stopping && !wrong_slots; reads++) {
		uint64_t offset = opt.range_offset + prog_below(&rng, opt.range_bytes / PROG_PAGE) * PROG_PAGE;
		uint64_t length = (1 + prog_below(&rng, DIRECT_BYTES_MAX / PROG_PAGE)) * PROG_PAGE;

		if (length > opt.range_offset + opt.range_bytes - offset)
			length = opt.range_offset + opt.range_bytes - offset;
		check_range(fd, offset, length, buf, low);
	}
	workers[0].ops = reads;
	free(buf);
}

/* Raises every slot of random runs of pages by one version. Nobody else may write the range. */
static void write_at_random(int fd)
{
	uint64_t *buf = direct_buffer(), end = prog_now_ns() + (uint64_t)(opt.seconds * 1e9), writes = 0;
	struct prog_rng rng = { prog_mix(opt.seed) };

	for (; prog_now_ns() < end && !stopping; writes++) {
		uint64_t offset = opt.range_offset + prog_below(&rng, opt.range_bytes / PROG_PAGE) * PROG_PAGE;
		uint64_t length = (1 + prog_below(&rng, DIRECT_BYTES_MAX / PROG_PAGE)) * PROG_PAGE, first;

		if (length > opt.range_offset + opt.range_bytes - offset)
			length = opt.range_offset + opt.range_bytes - offset;
		first = offset / SLOT_BYTES;
		for (uint64_t i = 0; i < length / SLOT_BYTES; i++)
			slot_write(state, first + i, state->version[first + i] + 1, buf + i * SLOT_WORDS);
		write_whole(fd, buf, length, offset);
		for (uint64_t i = 0; i < length / SLOT_BYTES; i++)
			atomic_fetch_add_explicit(&state->version[first + i], 1, memory_order_release);
	}
	workers[0].ops = writes;
	free(buf);
}

/* --- start and end --------------------------------------------------------------------------------------------- */

static void on_stop(int sig)
{
	(void)sig;
	atomic_store(&stopping, true);
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr, base = (uintptr_t)memory;

	(void)sig;
	(void)context;
	if (at >= base && at < base + opt.size_bytes)
		dprintf(STDERR_FILENO, "SIGBUS at offset 0x%lx of the file\n", (unsigned long)(at - base));
	else
		dprintf(STDERR_FILENO, "SIGBUS at %p, outside of the file\n", info->si_addr);
	_exit(PROG_FAILED);
}

static void catch_signals(void)
{
	struct sigaction stop = { .sa_handler = on_stop }, bus = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };

	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGBUS, &bus, NULL);
}

/* A load starts from an empty file unless the state file says what is in it. */
static void open_state(void)
{
	bool known;

	state = state_open(opt.state_path, opt.size_bytes, opt.fresh);
	known = state->magic == STATE_MAGIC;
	if (!known && opt.mode != MODE_LOAD && opt.mode != MODE_SERVE && opt.mode != MODE_DIRECT_WRITE)
		prog_die("--state must name the state file of a load");
	if (known && opt.size_bytes && opt.size_bytes != state->size_bytes)
		prog_die("the state file is for a size of %lu bytes", state->size_bytes);
	if (!known) {
		state->seed = opt.seed;
		state->size_bytes = opt.size_bytes;
		state->compressible_256 = (uint64_t)(opt.pattern * 256);
		state->magic = STATE_MAGIC;
		opt.fresh = true;
	}
	opt.size_bytes = state->size_bytes;
	if (!opt.range_bytes)
		opt.range_bytes = opt.size_bytes - opt.range_offset;
	if (!opt.size_bytes || opt.size_bytes % PROG_PAGE || opt.range_offset % PROG_PAGE ||
	    opt.range_bytes % PROG_PAGE || opt.range_offset + opt.range_bytes > opt.size_bytes)
		prog_die("size and range must be multiples of 4 KiB, and the range inside of the file");
	pick_init(&pick, opt.range_bytes / PROG_PAGE, opt.hot, opt.zipf);
}

static int open_file(void)
{
	bool writes = opt.mode == MODE_LOAD || opt.mode == MODE_SERVE || opt.mode == MODE_DIRECT_WRITE;
	bool direct = opt.mode == MODE_DIRECT_READ || opt.mode == MODE_DIRECT_WRITE || opt.direct;
	int fd = open(opt.path,
		      (writes    ? O_RDWR | O_CREAT
		       : opt.map ? O_RDWR
				 : O_RDONLY) |
			      (direct ? O_DIRECT : 0) | O_CLOEXEC,
		      0600);

	if (fd < 0)
		prog_die("%s: %s", opt.path, strerror(errno));
	if (writes && opt.fresh && ftruncate(fd, 0) < 0)
		prog_die("%s: cannot empty it: %s", opt.path, strerror(errno));
	if (writes && opt.fresh && ftruncate(fd, (off_t)opt.size_bytes) < 0)
		prog_die("%s: cannot set its size: %s", opt.path, strerror(errno));
	if (opt.mode == MODE_LOAD || opt.mode == MODE_SERVE || opt.map) {
		memory = mmap(NULL, opt.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (memory == MAP_FAILED)
			prog_die("%s: cannot map it: %s", opt.path, strerror(errno));
		if (opt.huge && madvise((void *)memory, opt.size_bytes, MADV_HUGEPAGE) < 0)
			fprintf(human, "MADV_HUGEPAGE: %s\n", strerror(errno));
	}
	return fd;
}

static void serve(void)
{
	char line[64];
	double seconds;

	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin) && strcmp(line, "quit\n")) {
		uint64_t before = sum_ops();

		atomic_store(&stopping, false);
		if (sscanf(line, "run %lf", &seconds) == 1) {
			run_load(seconds);
			printf("ran ops %lu wrong %lu\n", sum_ops() - before, wrong_slots);
		} else if (!strcmp(line, "verify\n")) {
			printf("verified slots %lu wrong %lu\n", opt.range_bytes / SLOT_BYTES, sweep_mapped());
		} else {
			printf("commands: run SECONDS, verify, quit\n");
		}
		fflush(stdout);
	}
}

static double run_mode(int fd)
{
	uint64_t start = prog_now_ns();
	double loaded;

	switch (opt.mode) {
	case MODE_LOAD:
		loaded = run_load(opt.seconds);
		sweep_mapped();
		return loaded;
	case MODE_VERIFY:
		if (opt.map)
			sweep_mapped();
		else
			verify_by_read(fd);
		break;
	case MODE_DIRECT_READ:
		read_at_random(fd);
		break;
	case MODE_DIRECT_WRITE:
		write_at_random(fd);
		break;
	case MODE_SERVE:
		serve();
		break;
	}
	return (double)(prog_now_ns() - start) / 1e9;
}

static int print_result(double seconds)
{
	static struct prog_hist all;
	uint64_t ops = sum_ops(), reads = 0;

	for (unsigned int i = 0; i < opt.threads; i++) {
		prog_hist_merge(&all, &workers[i].hist);
		reads += workers[i].reads;
	}
	fprintf(human,
		"%s: %lu ops in %.1f s, %.0f ops/s, p50 %.1f us, p99 %.1f us, slowest %.1f ms, wrong slots %lu\n",
		wrong_slots ? "WRONG" : "OK", ops, seconds, (double)ops / seconds,
		(double)prog_hist_at(&all, 0.5) / 1e3, (double)prog_hist_at(&all, 0.99) / 1e3, (double)all.max_ns / 1e6,
		wrong_slots);
	if (opt.json)
		printf("{\"seed\": %lu, \"size_bytes\": %lu, \"threads\": %u, \"seconds\": %.3f, \"ops\": %lu, "
		       "\"reads\": %lu, "
		       "\"ops_per_s\": %.1f, \"p50_ns\": %lu, \"p90_ns\": %lu, \"p99_ns\": %lu, \"p999_ns\": %lu, "
		       "\"max_ns\": %lu, \"wrong\": %lu}\n",
		       state->seed, opt.size_bytes, opt.threads, seconds, ops, reads, (double)ops / seconds,
		       prog_hist_at(&all, 0.5), prog_hist_at(&all, 0.9), prog_hist_at(&all, 0.99),
		       prog_hist_at(&all, 0.999), all.max_ns, wrong_slots);
	return wrong_slots ? PROG_WRONG : PROG_OK;
}

static const char usage[] =
	"usage: prog_rmw [options] FILE\n"
	"  --size SIZE         of the file (default: what the state file says)\n"
	"  --seconds N         length of the load (10)\n"
	"  --threads N         1 to 64 (2)\n"
	"  --seed N            of everything random (the time)\n"
	"  --read-ratio F      share of operations that only read (0.25)\n"
	"  --zipf S            exponent of a zipfian choice of pages (0: uniform)\n"
	"  --hot F             this fraction of the pages gets 9 of 10 accesses (0: none)\n"
	"  --rate N            operations a second, all threads together (0: no limit)\n"
	"  --pattern F         share of the filler that compresses away (0.66)\n"
	"  --range OFF:LEN     only this part of the file\n"
	"  --state FILE        keep the expected versions there; an existing one is continued\n"
	"  --fresh             empty FILE and the state first\n"
	"  --huge              MADV_HUGEPAGE on the mapping\n"
	"  --report N          a line every N seconds\n"
	"  --json              the result as one JSON object on stdout, everything else on stderr\n"
	"  --verify-only       no load: read the file and compare with --state; with --direct by O_DIRECT,\n"
	"                      with --map through a mapping\n"
	"  --direct-read       no load: O_DIRECT reads of random ranges, checked, also while a load runs\n"
	"  --direct-write      no load: O_DIRECT writes of random pages\n"
	"  --serve             map, then obey stdin: run SECONDS, verify, quit\n";

static void set_range(char *text)
{
	char *colon = strchr(text, ':');

	if (!colon)
		prog_die("--range wants OFFSET:LENGTH");
	*colon = '\0';
	opt.range_offset = prog_size(text);
	opt.range_bytes = prog_size(colon + 1);
}

static bool set_option(int c, char *arg)
{
	switch (c) {
	case 's':
		opt.size_bytes = prog_size(arg);
		return true;
	case 't':
		opt.seconds = prog_number(arg, 0, 1e7);
		return true;
	case 'n':
		opt.threads = (unsigned int)prog_number(arg, 1, THREADS_MAX);
		return true;
	case 'e':
		opt.seed = strtoull(arg, NULL, 0);
		return true;
	case 'r':
		opt.read_ratio = prog_number(arg, 0, 1);
		return true;
	case 'z':
		opt.zipf = prog_number(arg, 0, 10);
		return true;
	case 'o':
		opt.hot = prog_number(arg, 0, 1);
		return true;
	case 'q':
		opt.rate = prog_number(arg, 0, 1e9);
		return true;
	case 'p':
		opt.pattern = prog_number(arg, 0, 1);
		return true;
	case 'i':
		opt.report = prog_number(arg, 0, 1e6);
		return true;
	case 'g':
		set_range(arg);
		return true;
	case 'S':
		opt.state_path = arg;
		return true;
	case 'f':
		opt.fresh = true;
		return true;
	case 'h':
		opt.huge = true;
		return true;
	case 'j':
		opt.json = true;
		return true;
	case 'd':
		opt.direct = true;
		return true;
	case 'm':
		opt.map = true;
		return true;
	case 'V':
		opt.mode = MODE_VERIFY;
		return true;
	case 'R':
		opt.mode = MODE_DIRECT_READ;
		return true;
	case 'W':
		opt.mode = MODE_DIRECT_WRITE;
		return true;
	case 'v':
		opt.mode = MODE_SERVE;
		return true;
	default:
		return false;
	}
}

static void parse_options(int argc, char **argv)
{
	static const struct option table[] = {
		{ "size", 1, NULL, 's' },        { "seconds", 1, NULL, 't' },
		{ "threads", 1, NULL, 'n' },     { "seed", 1, NULL, 'e' },
		{ "read-ratio", 1, NULL, 'r' },  { "zipf", 1, NULL, 'z' },
		{ "hot", 1, NULL, 'o' },         { "rate", 1, NULL, 'q' },
		{ "pattern", 1, NULL, 'p' },     { "report", 1, NULL, 'i' },
		{ "range", 1, NULL, 'g' },       { "state", 1, NULL, 'S' },
		{ "fresh", 0, NULL, 'f' },       { "huge", 0, NULL, 'h' },
		{ "json", 0, NULL, 'j' },        { "direct", 0, NULL, 'd' },
		{ "map", 0, NULL, 'm' },         { "verify-only", 0, NULL, 'V' },
		{ "direct-read", 0, NULL, 'R' }, { "direct-write", 0, NULL, 'W' },
		{ "serve", 0, NULL, 'v' },       { NULL, 0, NULL, 0 },
	};
	int c;

	opt.seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1)
		if (!set_option(c, optarg)) {
			fputs(usage, stderr);
			exit(PROG_USAGE);
		}
	if (optind + 1 != argc) {
		fputs(usage, stderr);
		exit(PROG_USAGE);
	}
	opt.path = argv[optind];
}

int main(int argc, char **argv)
{
	int fd;
	double seconds;

	parse_options(argc, argv);
	human = opt.json || opt.mode == MODE_SERVE ? stderr : stdout;
	open_state();
	fprintf(human, "prog_rmw: %s, %lu MiB, seed %lu\n", opt.path, opt.size_bytes >> 20, state->seed);
	fflush(human);
	fd = open_file();
	catch_signals();
	seconds = run_mode(fd);
	close(fd);
	return print_result(seconds > 0 ? seconds : 1e-9);
}
