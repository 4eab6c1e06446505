/* prog_touch - how fast is resident memory?
 *
 * Random 8-byte writes, reads or read-modify-writes over a shared mapping of a file, after a warm-up that makes all of
 * it resident; or the first touch of fresh memory (--first-touch). With several --file the files take turns within one
 * run, so that a comparison ("this mount against /dev/shm") sees the same noise: the result has a figure for each and
 * the ratio to the last one. Files are created, and removed at the end.
 */
#include <fcntl.h>
#include <getopt.h>
#include <sys/mman.h>
#include <unistd.h>

#include "prog.h"

#define FILES_MAX 4
#define ROUNDS_MAX 101
#define BATCH 65536

enum op { OP_WRITE, OP_READ, OP_RMW };

static const char *const op_name[] = { "write", "read", "rmw" };

struct target {
	const char *path;
	volatile uint64_t *memory;
	double ns_per_op[ROUNDS_MAX];
	uint64_t ops;
};

static struct options {
	uint64_t size_bytes, seed;
	double seconds;
	unsigned int rounds, files;
	enum op op;
	bool huge, first_touch, random_order, keep;
} opt = { .size_bytes = 256 << 20, .seconds = 1, .rounds = 5, .seed = 1 };

static struct target targets[FILES_MAX];

static void map_target(struct target *target)
{
	int fd = open(target->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		prog_die("%s: %s", target->path, strerror(errno));
	if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)opt.size_bytes) < 0)
		prog_die("%s: cannot set its size: %s", target->path, strerror(errno));
	target->memory = mmap(NULL, opt.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (target->memory == MAP_FAILED)
		prog_die("%s: cannot map it: %s", target->path, strerror(errno));
	if (opt.huge && madvise((void *)target->memory, opt.size_bytes, MADV_HUGEPAGE) < 0)
		fprintf(stderr, "%s: MADV_HUGEPAGE: %s\n", target->path, strerror(errno));
	close(fd);
}

static void unmap_target(struct target *target)
{
	munmap((void *)target->memory, opt.size_bytes);
	target->memory = NULL;
}

/* A stride over the pages that meets each once: in order, or far apart. */
static void touch_pages(struct target *target)
{
	uint64_t pages = opt.size_bytes / PROG_PAGE, step = opt.random_order ? 2654435761UL : 1;
	uint64_t words = PROG_PAGE / sizeof(uint64_t);

	for (uint64_t i = 0; i < pages; i++)
		target->memory[i * step % pages * words] = i + 1;
}

static void warm_up(struct target *target)
{
	uint64_t words = opt.size_bytes / sizeof(uint64_t);

	for (uint64_t i = 0; i < words; i += 8)
		target->memory[i] = prog_mix(i);
}

/* The compiler gets a loop for each operation, with nothing else in it. */
#define RANDOM_LOOP(statement) \
	do { \
		for (unsigned int n = 0; n < BATCH; n++) { \
			uint64_t at; \
			x ^= x << 13; \
			x ^= x >> 7; \
			x ^= x << 17; \
			at = (uint64_t)(((unsigned __int128)x * words) >> 64); \
			statement; \
		} \
	} while (0)

static void measure_random(struct target *target, unsigned int round)
{
	volatile uint64_t *memory = target->memory;
	uint64_t words = opt.size_bytes / sizeof(uint64_t), x = prog_mix(opt.seed + round) | 1, sum = 0, ops = 0;
	uint64_t start = prog_now_ns(), end = start + (uint64_t)(opt.seconds * 1e9), now;

	do {
		switch (opt.op) {
		case OP_WRITE:
			RANDOM_LOOP(memory[at] = x);
			break;
		case OP_READ:
			RANDOM_LOOP(sum += memory[at]);
			break;
		case OP_RMW:
			RANDOM_LOOP(memory[at] += x);
			break;
		}
		ops += BATCH;
		now = prog_now_ns();
	} while (now < end);
	__asm__ volatile("" : : "r"(sum));
	target->ops += ops;
	target->ns_per_op[round] = (double)(now - start) / (double)ops;
}

static void measure_first_touch(struct target *target, unsigned int round)
{
	uint64_t start;

	map_target(target);
	start = prog_now_ns();
	touch_pages(target);
	target->ns_per_op[round] = (double)(prog_now_ns() - start) / (double)(opt.size_bytes / PROG_PAGE);
	target->ops += opt.size_bytes / PROG_PAGE;
	unmap_target(target);
	if (truncate(target->path, 0) < 0)
		prog_die("%s: cannot empty it: %s", target->path, strerror(errno));
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(const double *values, unsigned int count)
{
	double sorted[ROUNDS_MAX];

	memcpy(sorted, values, count * sizeof(*values));
	qsort(sorted, count, sizeof(*sorted), compare_doubles);
	return sorted[count / 2];
}

static void run(void)
{
	for (unsigned int i = 0; i < opt.files && !opt.first_touch; i++) {
		map_target(&targets[i]);
		warm_up(&targets[i]);
	}
	for (unsigned int round = 0; round < opt.rounds; round++)
		for (unsigned int i = 0; i < opt.files; i++) {
			/* There and back: nobody is always first. */
			struct target *target = &targets[round % 2 ? opt.files - 1 - i : i];

			if (opt.first_touch)
				measure_first_touch(target, round);
			else
				measure_random(target, round);
		}
}

/* The median of the ratios of the rounds: what disturbs the machine for a while hits both sides of a round. */
static double rate_ratio(const struct target *target, const struct target *against)
{
	double ratio[ROUNDS_MAX];

	for (unsigned int round = 0; round < opt.rounds; round++)
		ratio[round] = against->ns_per_op[round] / target->ns_per_op[round];
	return median(ratio, opt.rounds);
}

static void print_result(void)
{
	printf("{\"op\": \"%s\", \"size_bytes\": %lu, \"huge\": %s, \"rounds\": %u, \"files\": [",
	       opt.first_touch ? "first-touch" : op_name[opt.op], opt.size_bytes, opt.huge ? "true" : "false",
	       opt.rounds);
	for (unsigned int i = 0; i < opt.files; i++) {
		double ns = median(targets[i].ns_per_op, opt.rounds);

		printf("%s{\"path\": \"%s\", \"ops\": %lu, \"ns_per_op\": %.3f, \"ops_per_s\": %.0f, \"rate_ratio\": "
		       "%.4f}",
		       i ? ", " : "", targets[i].path, targets[i].ops, ns, 1e9 / ns,
		       rate_ratio(&targets[i], &targets[opt.files - 1]));
	}
	printf("]}\n");
}

static const char usage[] = "usage: prog_touch --file PATH [--file PATH...] [options]\n"
			    "  --size SIZE       of each file (256M)\n"
			    "  --op OP           write, read or rmw (write)\n"
			    "  --seconds N       of each round (1)\n"
			    "  --rounds N        files take turns; the medians count (5)\n"
			    "  --first-touch     measure the first write to each page of an empty file instead\n"
			    "  --random-order    of the first touches\n"
			    "  --huge            MADV_HUGEPAGE\n"
			    "  --seed N          of the random places\n"
			    "  --keep            do not remove the files\n";

__attribute__((noreturn)) static void bad_usage(void)
{
	fputs(usage, stderr);
	exit(PROG_USAGE);
}

static enum op parse_op(const char *text)
{
	for (unsigned int i = 0; i < 3; i++)
		if (!strcmp(text, op_name[i]))
			return (enum op)i;
	bad_usage();
}

static void set_option(int c, char *arg)
{
	switch (c) {
	case 'f':
		if (opt.files == FILES_MAX)
			prog_die("at most %d files", FILES_MAX);
		targets[opt.files++].path = arg;
		break;
	case 's':
		opt.size_bytes = prog_size(arg) / PROG_PAGE * PROG_PAGE;
		break;
	case 'o':
		opt.op = parse_op(arg);
		break;
	case 't':
		opt.seconds = prog_number(arg, 0.001, 1e6);
		break;
	case 'r':
		opt.rounds = (unsigned int)prog_number(arg, 1, ROUNDS_MAX);
		break;
	case 'e':
		opt.seed = strtoull(arg, NULL, 0);
		break;
	case 'F':
		opt.first_touch = true;
		break;
	case 'R':
		opt.random_order = true;
		break;
	case 'h':
		opt.huge = true;
		break;
	case 'k':
		opt.keep = true;
		break;
	default:
		bad_usage();
	}
}

int main(int argc, char **argv)
{
	static const struct option table[] = {
		{ "file", 1, NULL, 'f' },
		{ "size", 1, NULL, 's' },
		{ "op", 1, NULL, 'o' },
		{ "seconds", 1, NULL, 't' },
		{ "rounds", 1, NULL, 'r' },
		{ "seed", 1, NULL, 'e' },
		{ "first-touch", 0, NULL, 'F' },
		{ "random-order", 0, NULL, 'R' },
		{ "huge", 0, NULL, 'h' },
		{ "keep", 0, NULL, 'k' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1)
		set_option(c, optarg);
	if (!opt.files || optind != argc || opt.size_bytes < 1 << 20)
		bad_usage();
	run();
	print_result();
	for (unsigned int i = 0; i < opt.files && !opt.keep; i++)
		unlink(targets[i].path);
	return PROG_OK;
}
