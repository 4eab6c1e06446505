/* client/client_zap.c - see client_zap.h. */
#include "client/client_zap.h"

#include <stdbool.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "client/client_filter.h"
#include "client/client_range.h"
#include "client/client_sys.h"
#include "wire/wire.h"

#define BATCH_MAX 256

static int self_fd = -1;
static bool vector_refused; /* kernels before 6.13 take no MADV_DONTNEED by process_madvise */
static struct iovec batch[BATCH_MAX];
static size_t batch_count;

static void zap_batch(void)
{
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
		for (size_t i = 0; i < batch_count; i++)
			if (client_sys(SYS_madvise, batch[i].iov_base, batch[i].iov_len, MADV_DONTNEED) < 0)
				all = false;
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
