#include "map/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096U

/* Newer than Debian 12's headers; include/uapi/linux/userfaultfd.h and fs.h of Linux 6.7. */
#ifndef UFFDIO_POISON
struct uffdio_poison {
	struct uffdio_range range;
	__u64 mode;
	__s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif

#ifndef PAGEMAP_SCAN
struct page_region {
	__u64 start;
	__u64 end;
	__u64 categories;
};
struct pm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end;
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_PRESENT (1 << 3)
#endif

#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define REGIONS 256

int uffd_register(int uffd, uint64_t addr, uint64_t length)
{
	struct uffdio_register range = {
		.range = { .start = addr, .len = length },
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &range) < 0 ? -errno : 0;
}

int uffd_wake(int uffd, uint64_t addr, uint64_t length)
{
	struct uffdio_range range = { .start = addr, .len = length };

	return ioctl(uffd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

/* What one call makes of a range: bytes from its begin on, or a negative errno. */
typedef int64_t some_fn(int uffd, uint64_t addr, const void *data, uint64_t length);

static int64_t copy_some(int uffd, uint64_t addr, const void *data, uint64_t length)
{
	struct uffdio_copy copy = { .dst = addr, .src = (uintptr_t)data, .len = length };

	return ioctl(uffd, UFFDIO_COPY, &copy) == 0 || copy.copy > 0 ? copy.copy : -errno;
}

static int64_t zero_some(int uffd, uint64_t addr, const void *data, uint64_t length)
{
	struct uffdio_zeropage zero = { .range = { .start = addr, .len = length } };

	(void)data;
	return ioctl(uffd, UFFDIO_ZEROPAGE, &zero) == 0 || zero.zeropage > 0 ? zero.zeropage : -errno;
}

static int64_t poison_some(int uffd, uint64_t addr, const void *data, uint64_t length)
{
	struct uffdio_poison poison = { .range = { .start = addr, .len = length } };

	(void)data;
	if (ioctl(uffd, UFFDIO_POISON, &poison) == 0 || poison.updated > 0)
		return poison.updated;
	return errno == EINVAL || errno == ENOTTY ? -EOPNOTSUPP : -errno;
}

/* Maps the page that the file has, also over poison. -EFAULT: it has none. The range need not be registered for minor
 * faults. */
static int64_t continue_some(int uffd, uint64_t addr, const void *data, uint64_t length)
{
	struct uffdio_continue range = { .range = { .start = addr, .len = length } };

	(void)data;
	return ioctl(uffd, UFFDIO_CONTINUE, &range) == 0 || range.mapped > 0 ? range.mapped : -errno;
}

/* A page that is there already stays, and who waits for it goes on. */
static int fill(int uffd, some_fn *some, uint64_t addr, const uint8_t *data, uint64_t length)
{
	for (uint64_t done = 0; done < length;) {
		int64_t bytes = some(uffd, addr + done, data ? data + done : NULL, length - done);

		if (bytes == -EAGAIN || bytes == -EINTR)
			continue;
		if (bytes == -EEXIST) {
			uffd_wake(uffd, addr + done, PAGE);
			bytes = PAGE;
		}
		if (bytes < 0)
			return (int)bytes;
		done += (uint64_t)bytes;
	}
	return 0;
}

int uffd_copy(int uffd, uint64_t addr, const void *data, uint64_t length)
{
	return fill(uffd, copy_some, addr, data, length);
}

int uffd_zero(int uffd, uint64_t addr, uint64_t length)
{
	return fill(uffd, zero_some, addr, NULL, length);
}

int uffd_poison(int uffd, uint64_t addr, uint64_t length)
{
	return fill(uffd, poison_some, addr, NULL, length);
}

int uffd_heal(int uffd, uint64_t addr, uint64_t length, bool zeros)
{
	int err = 0;

	for (uint64_t end = addr + length; !err && addr < end; addr += PAGE) {
		err = fill(uffd, continue_some, addr, NULL, PAGE);
		if (err == -EFAULT)
			err = zeros ? uffd_zero(uffd, addr, PAGE) : 0;
	}
	return err;
}

int uffd_protect(int uffd, uint64_t addr, uint64_t length, bool on)
{
	struct uffdio_writeprotect range = {
		.range = { .start = addr, .len = length },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	while (ioctl(uffd, UFFDIO_WRITEPROTECT, &range) < 0)
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	return 0;
}

/* O_NONBLOCK is of the open file description, and who has a copy may clear it. RWF_NOWAIT is of the call; kernels
 * before 6.10 do not know it for this kind of file. There the flag is set before each read, and a read that sleeps all
 * the same is ended by a signal (map/peers.c). */
static _Atomic bool no_nowait;

bool uffd_read_may_sleep(void)
{
	return atomic_load(&no_nowait);
}

bool uffd_unblock(int uffd)
{
	int flags = fcntl(uffd, F_GETFL);

	if (flags < 0 || flags & O_NONBLOCK)
		return false;
	fcntl(uffd, F_SETFL, flags | O_NONBLOCK);
	return true;
}

static ssize_t read_events(int uffd, struct uffd_msg *ret, size_t length)
{
	struct iovec iov = { .iov_base = ret, .iov_len = length };
	ssize_t got;

	if (!atomic_load(&no_nowait)) {
		got = preadv2(uffd, &iov, 1, -1, RWF_NOWAIT);
		if (got >= 0 || (errno != EOPNOTSUPP && errno != EINVAL && errno != ESPIPE))
			return got;
		atomic_store(&no_nowait, true);
	}
	uffd_unblock(uffd);
	return read(uffd, ret, length);
}

int uffd_read(int uffd, struct uffd_event *ret, unsigned int most)
{
	struct uffd_msg msg[UFFD_EVENTS_MAX];
	int count = 0;

	if (most > UFFD_EVENTS_MAX)
		most = UFFD_EVENTS_MAX;
	while (!count) {
		ssize_t got = read_events(uffd, msg, most * sizeof(*msg));

		if (got < 0)
			return -errno;
		if (!got || (size_t)got % sizeof(*msg))
			return -EIO;
		for (size_t i = 0; i < (size_t)got / sizeof(*msg); i++) {
			if (msg[i].event != UFFD_EVENT_PAGEFAULT)
				continue;
			ret[count++] = (struct uffd_event){
				.addr = msg[i].arg.pagefault.address & ~(uint64_t)(PAGE - 1),
				.kind = msg[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP ? UFFD_EVENT_PROTECTED
											    : UFFD_EVENT_MISSING,
				.tid = (pid_t)msg[i].arg.pagefault.feat.ptid,
			};
		}
	}
	return count;
}

static int mapped_by_reading(int pagemap, uint64_t addr, uint64_t length, uffd_mapped_fn *fn, void *arg)
{
	uint64_t entries[REGIONS];
	uint64_t pages = length / PAGE;

	for (uint64_t page = 0; page < pages;) {
		uint64_t want = pages - page < REGIONS ? pages - page : REGIONS;
		ssize_t got = pread(pagemap, entries, want * sizeof(*entries),
				    (off_t)((addr / PAGE + page) * sizeof(*entries)));

		if (got < 0)
			return -errno;
		if (got < (ssize_t)sizeof(*entries))
			return -ESRCH;
		for (uint64_t i = 0; i < (uint64_t)got / sizeof(*entries); i++)
			if (entries[i] & PAGEMAP_PRESENT)
				fn(arg, addr + (page + i) * PAGE, PAGE);
		page += (uint64_t)got / sizeof(*entries);
	}
	return 0;
}

int uffd_mapped(int pagemap, uint64_t addr, uint64_t length, uffd_mapped_fn *fn, void *arg)
{
	struct page_region region[REGIONS];
	uint64_t end = addr + length;

	while (addr < end) {
		struct pm_scan_arg scan = {
			.size = sizeof(scan),
			.start = addr,
			.end = end,
			.vec = (uintptr_t)region,
			.vec_len = REGIONS,
			.category_mask = PAGE_IS_PRESENT,
			.return_mask = PAGE_IS_PRESENT,
		};
		int count = ioctl(pagemap, PAGEMAP_SCAN, &scan);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 && (errno == ENOTTY || errno == EINVAL))
			return mapped_by_reading(pagemap, addr, end - addr, fn, arg);
		if (count < 0)
			return -errno;
		for (int i = 0; i < count; i++)
			fn(arg, region[i].start, region[i].end - region[i].start);
		if (scan.walk_end <= addr)
			break;
		addr = scan.walk_end;
	}
	return 0;
}
