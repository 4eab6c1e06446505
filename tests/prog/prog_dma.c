/* prog_dma - is a disk read that is in flight into mapped memory safe from demotion?
 *
 * Threads read pieces of source files with O_DIRECT straight into the mapping of FILE, each time other content, and
 * check it: right after the read, and again later at random when the piece has been idle and may have been demoted. The
 * device writes through the page that was there when the request began; if that page is taken away meanwhile, the data
 * is lost and the old content reappears: this program sees it.
 *
 * A source block (4 KiB) is described by nothing but the seed and its number, so any piece can be checked without the
 * source. Many threads and a large --io make every single request slow, which is what gives a demoter time.
 *
 * Exit status: 0 nothing lost; 1 wrong content; 2 usage; 3 something failed.
 */
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "prog.h"

#define THREADS_MAX 256
#define SOURCES_MAX 8
#define WRONG_PRINTED_MAX 8
#define PAGE_WORDS (PROG_PAGE / sizeof(uint64_t))
#define NEVER UINT32_MAX

static struct options {
	const char *path, *source_dir;
	uint64_t size_bytes, io_bytes, source_bytes, seed;
	double seconds, report, recheck;
	unsigned int threads, sources;
	bool json, cached, huge;
} opt = { .size_bytes = 64 << 20,
	  .io_bytes = 64 << 10,
	  .source_bytes = 64 << 20,
	  .seconds = 10,
	  .recheck = 1,
	  .threads = 2,
	  .sources = 2 };

struct worker {
	pthread_t thread;
	unsigned int id;
	struct prog_rng rng;
	struct prog_hist hist; /* of the reads; owned by the thread until it is joined */
	_Atomic uint64_t reads, checks;
} __attribute__((aligned(128)));

/* A piece of the mapping, io_bytes long. held says that a thread works on it; block: what was read there last. */
struct piece {
	atomic_flag held;
	uint32_t block; /* of the source, or NEVER; under held */
};

static struct worker workers[THREADS_MAX];
static struct piece *pieces;
static volatile uint64_t *memory;
static int source_fd[SOURCES_MAX];
static atomic_bool stopping;
static _Atomic uint64_t wrong_pages;
static uint64_t piece_count;
static FILE *human;

/* Blocks are numbered through all sources. */
static uint64_t source_word(uint64_t block, unsigned int i)
{
	uint64_t key = prog_mix(opt.seed ^ prog_mix(block));

	if (i == 0)
		return block;
	return i < PAGE_WORDS / 3 ? prog_mix(key + i) : key;
}

static uint64_t blocks_per_source(void)
{
	return opt.source_bytes / PROG_PAGE;
}

static int make_source(unsigned int n)
{
	static uint64_t page[PAGE_WORDS];
	char path[4096];
	int fd, direct;
	FILE *f;

	snprintf(path, sizeof(path), "%s/prog_dma.XXXXXX", opt.source_dir);
	fd = mkstemp(path);
	f = fd >= 0 ? fdopen(fd, "w") : NULL;
	if (!f)
		prog_die("%s: %s", path, strerror(errno));
	for (uint64_t b = 0; b < blocks_per_source(); b++) {
		for (unsigned int i = 0; i < PAGE_WORDS; i++)
			page[i] = source_word(n * blocks_per_source() + b, i);
		if (fwrite(page, sizeof(page), 1, f) != 1)
			prog_die("%s: %s", path, strerror(errno));
	}
	if (fflush(f) || fsync(fd))
		prog_die("%s: %s", path, strerror(errno));
	direct = open(path, O_RDONLY | O_CLOEXEC | (opt.cached ? 0 : O_DIRECT));
	if (direct < 0)
		prog_die("%s: O_DIRECT: %s (use another --source)", path, strerror(errno));
	fclose(f);
	unlink(path);
	return direct;
}

static void map_target(void)
{
	int fd = open(opt.path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		prog_die("%s: %s", opt.path, strerror(errno));
	if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)opt.size_bytes) < 0)
		prog_die("%s: cannot set its size: %s", opt.path, strerror(errno));
	memory = mmap(NULL, opt.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		prog_die("%s: cannot map it: %s", opt.path, strerror(errno));
	if (opt.huge && madvise((void *)memory, opt.size_bytes, MADV_HUGEPAGE) < 0)
		fprintf(human, "MADV_HUGEPAGE: %s\n", strerror(errno));
	close(fd);
}

static void tell_wrong(uint64_t offset, uint64_t block, unsigned int i, const char *when)
{
	volatile uint64_t *page = memory + offset / sizeof(uint64_t);
	uint64_t count = opt.sources * blocks_per_source(), found = page[0];

	if (atomic_fetch_add(&wrong_pages, 1) >= WRONG_PRINTED_MAX)
		return;
	fprintf(human, "WRONG offset 0x%lx %s: expected source block %lu, word %u is %016lx not %016lx; ", offset, when,
		block, i, page[i], source_word(block, i));
	if (found && found < count && page[1] == source_word(found, 1))
		fprintf(human, "the page holds block %lu: the read was lost\n", found);
	else
		fprintf(human, "the page begins %016lx %016lx\n", found, page[1]);
	fflush(human);
}

/* The caller holds the piece. */
static void check_piece(uint64_t n, const char *when)
{
	uint64_t block = pieces[n].block;

	for (uint64_t offset = n * opt.io_bytes; offset < (n + 1) * opt.io_bytes; offset += PROG_PAGE, block++) {
		volatile uint64_t *page = memory + offset / sizeof(uint64_t);

		for (unsigned int i = 0; i < PAGE_WORDS; i++) {
			if (page[i] == source_word(block, i))
				continue;
			tell_wrong(offset, block, i, when);
			break;
		}
	}
}

static void read_piece(struct worker *worker, uint64_t n)
{
	unsigned int source = (unsigned int)prog_below(&worker->rng, opt.sources);
	uint64_t at = prog_below(&worker->rng, (opt.source_bytes - opt.io_bytes) / PROG_PAGE + 1), start;
	size_t done = 0;

	start = prog_now_ns();
	while (done < opt.io_bytes) {
		ssize_t got = pread(source_fd[source], (char *)memory + n * opt.io_bytes + done, opt.io_bytes - done,
				    (off_t)(at * PROG_PAGE + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			prog_die("read of a source: %s", got ? strerror(errno) : "end of file");
		done += (size_t)got;
	}
	prog_hist_add(&worker->hist, prog_now_ns() - start);
	pieces[n].block = (uint32_t)(source * blocks_per_source() + at);
	worker->reads++;
	check_piece(n, "right after the read");
}

static void *work(void *arg)
{
	struct worker *worker = arg;

	while (!stopping && !wrong_pages) {
		uint64_t n = prog_below(&worker->rng, piece_count);

		if (atomic_flag_test_and_set_explicit(&pieces[n].held, memory_order_acquire))
			continue;
		if (pieces[n].block != NEVER && prog_unit(&worker->rng) * (1 + opt.recheck) < opt.recheck) {
			check_piece(n, "at a later look");
			worker->checks++;
		} else {
			read_piece(worker, n);
		}
		atomic_flag_clear_explicit(&pieces[n].held, memory_order_release);
	}
	return NULL;
}

static uint64_t sum_reads(void)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < opt.threads; i++)
		sum += workers[i].reads;
	return sum;
}

static void watch_workers(void)
{
	uint64_t start = prog_now_ns(), end = start + (uint64_t)(opt.seconds * 1e9), last = start;

	for (uint64_t now = start; now < end && !stopping && !wrong_pages; now = prog_now_ns()) {
		prog_sleep_until_ns(now + PROG_NS / 20);
		if (!(opt.report > 0) || now - last < (uint64_t)(opt.report * 1e9))
			continue;
		fprintf(human, "%6.1fs  %9lu reads  wrong %lu\n", (double)(now - start) / 1e9, sum_reads(),
			wrong_pages);
		fflush(human);
		last = now;
	}
	stopping = true;
}

static double run(void)
{
	uint64_t start = prog_now_ns();

	piece_count = opt.size_bytes / opt.io_bytes;
	pieces = calloc(piece_count, sizeof(*pieces));
	if (!pieces)
		prog_die("out of memory");
	for (uint64_t i = 0; i < piece_count; i++)
		pieces[i].block = NEVER;
	for (unsigned int i = 0; i < opt.threads; i++) {
		workers[i].id = i;
		workers[i].rng.state = prog_mix(opt.seed) + i;
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			prog_die("cannot start a thread");
	}
	watch_workers();
	for (unsigned int i = 0; i < opt.threads; i++)
		pthread_join(workers[i].thread, NULL);
	for (uint64_t i = 0; i < piece_count; i++)
		if (pieces[i].block != NEVER)
			check_piece(i, "at the end");
	return (double)(prog_now_ns() - start) / 1e9;
}

static int print_result(double seconds)
{
	static struct prog_hist all;
	uint64_t reads = sum_reads(), checks = 0;

	for (unsigned int i = 0; i < opt.threads; i++) {
		prog_hist_merge(&all, &workers[i].hist);
		checks += workers[i].checks;
	}
	fprintf(human,
		"%s: %lu reads of %lu KiB and %lu later looks in %.1f s, read p50 %.0f us, slowest %.1f ms, wrong "
		"pages %lu\n",
		wrong_pages ? "WRONG" : "OK", reads, opt.io_bytes >> 10, checks, seconds,
		(double)prog_hist_at(&all, 0.5) / 1e3, (double)all.max_ns / 1e6, wrong_pages);
	if (opt.json)
		printf("{\"seed\": %lu, \"reads\": %lu, \"checks\": %lu, \"seconds\": %.3f, \"p50_ns\": %lu, "
		       "\"p99_ns\": %lu, "
		       "\"max_ns\": %lu, \"wrong\": %lu}\n",
		       opt.seed, reads, checks, seconds, prog_hist_at(&all, 0.5), prog_hist_at(&all, 0.99), all.max_ns,
		       wrong_pages);
	return wrong_pages ? PROG_WRONG : PROG_OK;
}

static const char usage[] =
	"usage: prog_dma --source DIR [options] FILE\n"
	"  --source DIR        on a disk file system with O_DIRECT; files are made there and are gone at the end\n"
	"  --sources N         number of source files, 1 to 8 (2)\n"
	"  --source-size SIZE  of each (64M)\n"
	"  --size SIZE         of FILE, which is emptied first (64M)\n"
	"  --io SIZE           of a read, a multiple of 4K (64K)\n"
	"  --threads N         reads in flight at once, 1 to 256 (2)\n"
	"  --recheck F         later looks for each read (1)\n"
	"  --seconds N         (10)\n"
	"  --seed N            (the time)\n"
	"  --cached            without O_DIRECT, to see the difference\n"
	"  --huge              MADV_HUGEPAGE on the mapping\n"
	"  --report N          a line every N seconds\n"
	"  --json              the result as one JSON object on stdout, everything else on stderr\n";

__attribute__((noreturn)) static void bad_usage(void)
{
	fputs(usage, stderr);
	exit(PROG_USAGE);
}

static void set_option(int c, char *arg)
{
	switch (c) {
	case 'd':
		opt.source_dir = arg;
		break;
	case 'n':
		opt.sources = (unsigned int)prog_number(arg, 1, SOURCES_MAX);
		break;
	case 'S':
		opt.source_bytes = prog_size(arg) / PROG_PAGE * PROG_PAGE;
		break;
	case 's':
		opt.size_bytes = prog_size(arg) / PROG_PAGE * PROG_PAGE;
		break;
	case 'b':
		opt.io_bytes = prog_size(arg) / PROG_PAGE * PROG_PAGE;
		break;
	case 't':
		opt.threads = (unsigned int)prog_number(arg, 1, THREADS_MAX);
		break;
	case 'r':
		opt.recheck = prog_number(arg, 0, 1000);
		break;
	case 'l':
		opt.seconds = prog_number(arg, 0, 1e7);
		break;
	case 'e':
		opt.seed = strtoull(arg, NULL, 0);
		break;
	case 'c':
		opt.cached = true;
		break;
	case 'h':
		opt.huge = true;
		break;
	case 'i':
		opt.report = prog_number(arg, 0, 1e6);
		break;
	case 'j':
		opt.json = true;
		break;
	default:
		bad_usage();
	}
}

static void parse_options(int argc, char **argv)
{
	static const struct option table[] = {
		{ "source", 1, NULL, 'd' },  { "sources", 1, NULL, 'n' }, { "source-size", 1, NULL, 'S' },
		{ "size", 1, NULL, 's' },    { "io", 1, NULL, 'b' },      { "threads", 1, NULL, 't' },
		{ "recheck", 1, NULL, 'r' }, { "seconds", 1, NULL, 'l' }, { "seed", 1, NULL, 'e' },
		{ "cached", 0, NULL, 'c' },  { "report", 1, NULL, 'i' },  { "json", 0, NULL, 'j' },
		{ "huge", 0, NULL, 'h' },    { NULL, 0, NULL, 0 },
	};
	int c;

	opt.seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1)
		set_option(c, optarg);
	if (optind + 1 != argc || !opt.source_dir || !opt.io_bytes || opt.io_bytes > opt.size_bytes ||
	    opt.io_bytes > opt.source_bytes)
		bad_usage();
	opt.path = argv[optind];
}

static void on_stop(int sig)
{
	(void)sig;
	stopping = true;
}

int main(int argc, char **argv)
{
	struct sigaction stop = { .sa_handler = on_stop };

	parse_options(argc, argv);
	human = opt.json ? stderr : stdout;
	fprintf(human, "prog_dma: %s, %lu MiB, seed %lu\n", opt.path, opt.size_bytes >> 20, opt.seed);
	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	for (unsigned int i = 0; i < opt.sources; i++)
		source_fd[i] = make_source(i);
	map_target();
	return print_result(run());
}
