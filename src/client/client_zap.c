/* client/client_zap.c - see client_zap.h.
 *
 * madvise(MADV_DONTNEED) works through the areas of a range in order, and ends with EINVAL at the first one that is
 * locked. So a call for the first part of a range succeeds as long as it ends before the locked area: halving finds
 * where that begins. Where it ends is looked for in steps that double. What lies between two locked areas that are
 * close together may be passed over; it keeps its entries.
 */
#include "client/client_zap.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "client/client_filter.h"
#include "client/client_range.h"
#include "client/client_sys.h"
#include "wire/wire.h"

#define BATCH_MAX 256
#define PAGE_BYTES ((uintptr_t)4096)
#define LOCKED_MAX 256 /* areas that are gone around, in one batch */

static int self_fd = -1;
static bool vector_refused; /* kernels before 6.13 take no MADV_DONTNEED by process_madvise */
static struct iovec batch[BATCH_MAX];
static size_t batch_count;

static long drop(uintptr_t from, uintptr_t to)
{
	return client_sys(SYS_madvise, from, to - from, MADV_DONTNEED);
}

/* The first locked page of a range that has one. */
static uintptr_t locked_from(uintptr_t from, uintptr_t to)
{
	while (to - from > PAGE_BYTES) {
		uintptr_t middle = from + ((to - from) / 2 & ~(PAGE_BYTES - 1));

		if (drop(from, middle) == -EINVAL)
			to = middle;
		else
			from = middle;
	}
	return from;
}

/* Where locked pages that begin at from end, at most at to. */
static uintptr_t locked_to(uintptr_t from, uintptr_t to)
{
	uintptr_t step = PAGE_BYTES, beyond = to;

	while (step < to - from && drop(from + step, from + step + PAGE_BYTES) == -EINVAL) {
		from += step;
		step *= 2;
	}
	if (step < to - from)
		beyond = from + step;
	while (beyond - from > PAGE_BYTES) {
		uintptr_t middle = from + ((beyond - from) / 2 & ~(PAGE_BYTES - 1));

		if (drop(middle, middle + PAGE_BYTES) == -EINVAL)
			from = middle;
		else
			beyond = middle;
	}
	return beyond;
}

/* All but what is locked. Returns the error of the first call. */
static long zap_around(uintptr_t from, uintptr_t to, unsigned int *areas)
{
	long first = drop(from, to), err = first;

	while (err == -EINVAL && (*areas)++ < LOCKED_MAX) {
		from = locked_to(locked_from(from, to), to);
		err = from < to ? drop(from, to) : 0;
	}
	return first;
}

static void zap_batch(void)
{
	unsigned int areas = 0;
	size_t total = 0;
	bool all = true;
	long done = -1;

	for (size_t i = 0; i < batch_count; i++)
		total += batch[i].iov_len;
	if (!client_filter_allows(CLIENT_FILTER_VECTOR))
		vector_refused = true;
	if (self_fd < 0 && !vector_refused)
		self_fd = wire_raise_fd((int)client_sys(SYS_pidfd_open, getpid(), 0));
	if (self_fd >= 0 && !vector_refused)
		done = client_sys(SYS_process_madvise, self_fd, batch, batch_count, MADV_DONTNEED, 0);
	if (done < 0 || (size_t)done != total) {
		/* A locked page ends the vector early; zapping the rest once more does no harm. */
		for (size_t i = 0; i < batch_count; i++) {
			uintptr_t from = (uintptr_t)batch[i].iov_base;

			if (zap_around(from, from + batch[i].iov_len, &areas) < 0)
				all = false;
		}
		vector_refused = vector_refused || (done < 0 && all);
	}
	batch_count = 0;
}

static void add(uintptr_t from, uintptr_t to)
{
	batch[batch_count++] = (struct iovec){ .iov_base = (void *)from, .iov_len = to - from };
	if (batch_count == BATCH_MAX)
		zap_batch();
}

void client_zap(const struct tierfs_range *ranges, size_t count, const struct client_conn *conn)
{
	for (size_t i = 0; i < count; i++) {
		uintptr_t from = (uintptr_t)ranges[i].addr;
		uintptr_t end = from + (uintptr_t)ranges[i].length_bytes;

		while (from < end) {
			struct client_range *range = client_range_find(from, end - from);
			uintptr_t to;

			if (!range)
				break;
			to = range->addr + range->length_bytes;
			if (range->addr > from)
				from = range->addr;
			if (to > end)
				to = end;
			if (range->mapping->conn == conn)
				add(from, to);
			from = to;
		}
	}
	if (batch_count)
		zap_batch();
}

void client_zap_forget(void)
{
	self_fd = -1;
}
