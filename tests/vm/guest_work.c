/* guest_work - what runs in the test guest: fills memory with patterns that check themselves, works on them, tells.
 *
 * Every 4 KiB page holds its index, its version, a third of pseudo-random words, two thirds that compress, and a
 * checksum. The versions that the pages should have are kept apart. The work goes through windows: for a few seconds
 * only a part of the pages is rewritten and verified at random while the rest lies idle, then the window moves on, and
 * now and then everything is verified. Settings come from the kernel command line: guest.mib, guest.seconds
 * (0: until a line comes from the console), guest.seed, guest.window (percent of the memory), guest.dwell (seconds in a
 * window), guest.release (MiB that are given back to the guest's kernel after the first pass, and taken again half of
 * the time later), guest.tick (milliseconds between lines that say how much was done; 0: none).
 *
 * Lines on the console, for the script that waits outside:
 *   GUEST: filled PAGES pages
 *   GUEST: pass N pages PAGES bad N         everything was verified for the N-th time
 *   GUEST: window FIRST+COUNT ops N bad N   a window is done
 *   GUEST: tick N                           so many pages were worked on, in all
 *   GUEST: released PAGES pages, GUEST: took back PAGES pages
 *   GUEST: OK ...   or   GUEST: BAD ...     the end
 */
#include <stdbool.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE_WORDS 512
#define RANDOM_WORDS 170
#define BAD_PRINTED_MAX 5

static struct settings {
	uint64_t mib, seconds, seed, window_percent, dwell_seconds, release_mib, tick_ms;
} set = { .mib = 320, .seconds = 20, .seed = 1, .window_percent = 20, .dwell_seconds = 3 };

static uint64_t pages;
static uint64_t (*memory)[PAGE_WORDS];
static uint32_t *version;
static uint64_t bad_pages, ops_done, rng_state;

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static uint64_t next_random(void)
{
	rng_state += 0x9e3779b97f4a7c15ULL;
	return mix(rng_state);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* The words of a page in order: a generator serves both the writer and the checker. */
struct words {
	uint64_t index, version, state, sum;
	unsigned int at;
};

static struct words words_of(uint64_t index, uint32_t page_version)
{
	uint64_t key = mix(set.seed ^ mix(index * 0x9e3779b97f4a7c15ULL + page_version));

	return (struct words){ .index = index, .version = page_version, .state = key, .sum = key };
}

static inline uint64_t next_word(struct words *w)
{
	uint64_t word;

	if (w->at == 0) {
		word = w->index;
	} else if (w->at == 1) {
		word = w->version;
	} else if (w->at < RANDOM_WORDS) {
		w->state = w->state * 6364136223846793005ULL + 1442695040888963407ULL;
		word = w->state ^ (w->state >> 29);
	} else if (w->at < PAGE_WORDS - 1) {
		word = 0x6d656d6f72792000ULL + (w->at & 7);
	} else {
		word = w->sum;
	}
	w->at++;
	w->sum = (w->sum ^ word) * 0x9fb21c651e98df25ULL;
	return word;
}

static void write_page(uint64_t index)
{
	struct words w = words_of(index, ++version[index]);

	for (unsigned int i = 0; i < PAGE_WORDS; i++)
		memory[index][i] = next_word(&w);
}

static void tell_bad(uint64_t index, unsigned int at, uint64_t want)
{
	uint64_t any = 0;

	for (unsigned int i = 0; i < PAGE_WORDS; i++)
		any |= memory[index][i];
	printf("GUEST: bad page %lu at %p word %u: expected %016lx got %016lx%s, page says index %lu version %lu, "
	       "wanted %u\n",
	       index, (void *)memory[index], at, want, memory[index][at], any ? "" : " (all zeros)", memory[index][0],
	       memory[index][1], version[index]);
}

/* A bad page is told and written anew, so that it counts once. */
static void verify_page(uint64_t index)
{
	struct words w = words_of(index, version[index]);

	for (unsigned int i = 0; i < PAGE_WORDS; i++) {
		uint64_t want = next_word(&w);

		if (memory[index][i] == want)
			continue;
		if (bad_pages++ < BAD_PRINTED_MAX)
			tell_bad(index, i, want);
		write_page(index);
		return;
	}
}

static void fill(void)
{
	for (uint64_t i = 0; i < pages; i++) {
		write_page(i);
		if (i % (pages / 4) == 0)
			printf("GUEST: filling %lu of %lu pages\n", i, pages);
	}
	printf("GUEST: filled %lu pages\n", pages);
}

/* The last part of the memory goes back to the kernel, which tells the host if it has a balloon that reports. */
static void release(void)
{
	uint64_t count = set.release_mib << 8;

	pages -= count;
	madvise(memory[pages], count * sizeof(*memory), MADV_DONTNEED);
	printf("GUEST: released %lu pages\n", count);
}

static void take_back(void)
{
	uint64_t count = set.release_mib << 8;

	for (uint64_t i = 0; i < count; i++)
		write_page(pages + i);
	pages += count;
	printf("GUEST: took back %lu pages\n", count);
}

static void verify_all(unsigned int pass)
{
	for (uint64_t i = 0; i < pages; i++)
		verify_page(i);
	printf("GUEST: pass %u pages %lu bad %lu\n", pass, pages, bad_pages);
}

static void work_in_window(uint64_t first, uint64_t count)
{
	double at = now(), end = at + (double)set.dwell_seconds, step = (double)set.tick_ms / 1000, tick = at + step;
	uint64_t ops = 0;

	while ((at = now()) < end) {
		if (set.tick_ms && at >= tick) {
			printf("GUEST: tick %lu\n", ops_done + ops);
			tick = at + step;
		}
		for (unsigned int i = 0; i < 64; i++, ops++) {
			uint64_t random = next_random(), index = (first + random % count) % pages;

			verify_page(index);
			if (random >> 63)
				write_page(index);
		}
	}
	ops_done += ops;
	printf("GUEST: window %lu+%lu ops %lu bad %lu\n", first, count, ops, bad_pages);
}

static void read_settings(void)
{
	static char line[4096];
	FILE *f = fopen("/proc/cmdline", "r");
	size_t n = f ? fread(line, 1, sizeof(line) - 1, f) : 0;

	line[n] = '\0';
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
		sscanf(word, "guest.mib=%lu", &set.mib);
		sscanf(word, "guest.seconds=%lu", &set.seconds);
		sscanf(word, "guest.seed=%lu", &set.seed);
		sscanf(word, "guest.window=%lu", &set.window_percent);
		sscanf(word, "guest.dwell=%lu", &set.dwell_seconds);
		sscanf(word, "guest.release=%lu", &set.release_mib);
		sscanf(word, "guest.tick=%lu", &set.tick_ms);
	}
	if (f)
		fclose(f);
}

/* A terminal is readable when a line is there, or its end. */
static bool is_over(double end)
{
	struct pollfd console = { .fd = STDIN_FILENO, .events = POLLIN };

	return set.seconds ? now() >= end : poll(&console, 1, 0) > 0;
}

/* Windows and, each time they are through, everything. Returns the number of passes. */
static unsigned int work(double end, unsigned int pass)
{
	uint64_t window = 0, count = pages * set.window_percent / 100 + 1;

	while (!is_over(end)) {
		work_in_window(window, count);
		window = (window + count) % pages;
		if (window < count)
			verify_all(++pass);
	}
	return pass;
}

int main(void)
{
	unsigned int pass = 0;
	double start;

	setvbuf(stdout, NULL, _IOLBF, 0);
	read_settings();
	pages = set.mib << 8;
	rng_state = set.seed;
	memory = mmap(NULL, pages * sizeof(*memory), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	version = calloc(pages, sizeof(*version));
	if (memory == MAP_FAILED || !version || pages < 4) {
		printf("GUEST: BAD cannot allocate %lu MiB\n", set.mib);
		return 1;
	}
	start = now();
	printf("GUEST: start %lu MiB, %lu seconds, seed %lu\n", set.mib, set.seconds, set.seed);
	fill();
	verify_all(++pass);
	if (set.release_mib && set.release_mib < set.mib) {
		release();
		pass = work(now() + (double)set.seconds / 2, pass);
		take_back();
	}
	pass = work(start + (double)set.seconds, pass);
	verify_all(++pass);
	printf("GUEST: %s pages %lu passes %u ops %lu bad %lu seconds %.1f\n", bad_pages ? "BAD" : "OK", pages, pass,
	       ops_done, bad_pages, now() - start);
	return bad_pages != 0;
}
