#include "mem/huge.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096U
#define ZEROS_BYTES (UINT64_C(64) << 10)

/* Newer than Debian 12's headers (Linux 5.14, 6.1). */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* A unit of the arena, mapped at an address that a huge page could have. */
struct window {
	void *reserved;
	uint8_t *unit;
};

static int window_open(struct window *window, const struct arena *arena, uint64_t offset)
{
	void *unit;

	window->reserved = mmap(NULL, 2 * HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (window->reserved == MAP_FAILED)
		return -errno;
	unit = (void *)(((uintptr_t)window->reserved + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
	window->unit = mmap(unit, HUGE_BYTES, PROT_READ, MAP_SHARED | MAP_FIXED, arena->fd, (off_t)offset);
	if (window->unit == MAP_FAILED) {
		int err = -errno;

		munmap(window->reserved, 2 * HUGE_BYTES);
		return err;
	}
	return 0;
}

static void window_close(struct window *window)
{
	munmap(window->reserved, 2 * HUGE_BYTES);
}

int huge_fill(const struct arena *arena, uint64_t offset, bool *ret_huge)
{
	static const uint8_t zeros[ZEROS_BYTES];
	struct window window;
	int err = 0;

	/* All of it: a fault that is missing in a process must not be answered by a huge page behind its back, so the
	 * kernel makes none of a unit with holes where userfaultfd looks for them. */
	for (uint64_t at = 0; !err && at < HUGE_BYTES; at += ZEROS_BYTES)
		err = arena_write(arena, zeros, ZEROS_BYTES, offset + at);
	if (err)
		return err;
	*ret_huge = false;
	if (window_open(&window, arena, offset))
		return 0;
	*ret_huge = madvise(window.unit, HUGE_BYTES, MADV_COLLAPSE) == 0;
	window_close(&window);
	return 0;
}

int huge_split(const struct arena *arena, uint64_t offset, uint64_t length)
{
	uint64_t start = offset % HUGE_BYTES;
	unsigned char present[HUGE_BYTES / PAGE];
	struct window window;
	int err;

	err = window_open(&window, arena, offset - start);
	if (err)
		return err;
	if (mincore(window.unit + start, length, present) < 0)
		err = -errno;
	/* Advice for a part of a large page splits it, if nobody else maps it. Populating tells of a page beyond the
	 * end of the file by an error, where a touch would raise SIGBUS. */
	for (uint64_t at = 0; !err && at < length; at += PAGE)
		if (present[at / PAGE] & 1 && madvise(window.unit + start + at, PAGE, MADV_POPULATE_READ) == 0)
			madvise(window.unit + start + at, PAGE, MADV_COLD);
	window_close(&window);
	return err;
}
