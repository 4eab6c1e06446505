/* client/preload.c - what `tierctl run` puts in front of a VMM's libc: mmap(MAP_SHARED) of a RAM file attaches it.
 *
 * Everything else goes straight to the kernel, and costs next to nothing: no wrapper takes a lock, allocates or
 * asks a daemon unless the file is of a FUSE filesystem or the memory is attached. System calls are made directly
 * rather than through the next library's symbols, so that nothing has to be looked up and an allocator may call these
 * from its own start-up.
 *
 * Not seen, as with any preload library: static programs, and system calls that a program makes by itself.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/client.h"

#define EXPORT __attribute__((visibility("default")))

/* Newer than Debian 12's headers (Linux 6.1). */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static int fail(int err)
{
	errno = -err;
	return -1;
}

/* The program's own message will name neither the file nor the reason. */
static void complain(int fd, int err, const char *why)
{
	char link[32], path[512];
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	path[length < 0 ? 0 : length] = '\0';
	dprintf(STDERR_FILENO, "tierfs: %s: cannot be mapped: %s\n", length > 0 ? path : "(unknown file)",
		why[0] ? why : strerror(-err));
}

static void *map_any(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	bool replaces = (flags & MAP_FIXED) && !(flags & MAP_FIXED_NOREPLACE);
	int type = flags & MAP_TYPE;

	if (!(flags & MAP_ANONYMOUS) && (type == MAP_SHARED || type == MAP_SHARED_VALIDATE) && length > 0 && fd >= 0) {
		struct client_wish wish = {
			.fd = fd, .addr = addr, .length_bytes = length, .prot = prot, .flags = flags, .offset = offset
		};
		char why[CLIENT_WHY_LEN];
		int saved = errno;
		void *mapped;
		int err = client_attach(&wish, &mapped, why);

		errno = saved;
		if (!err)
			return mapped;
		if (err != -ENOTTY) {
			complain(fd, err, why);
			errno = -err;
			return MAP_FAILED;
		}
	}
	if (replaces && (uintptr_t)addr % 4096 == 0) {
		int err = client_give_up(addr, length);

		if (err) {
			errno = -err;
			return MAP_FAILED;
		}
	}
	return (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset);
}

/* With a 64-bit off_t there is one mmap with two names, and the headers turn the first into the second: named here by
 * hand. */
EXPORT void *preload_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset) __asm__("mmap");
EXPORT void *preload_mmap64(void *addr, size_t length, int prot, int flags, int fd, off_t offset) __asm__("mmap64");

void *preload_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return map_any(addr, length, prot, flags, fd, offset);
}

void *preload_mmap64(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return map_any(addr, length, prot, flags, fd, offset);
}

EXPORT int munmap(void *addr, size_t length)
{
	if ((uintptr_t)addr % 4096 == 0) {
		int err = client_give_up(addr, length);

		if (err)
			return fail(err);
	}
	return (int)syscall(SYS_munmap, addr, length);
}

/* Attached memory stays where it is: a userfaultfd registration does not follow a move, and the daemon knows the old
 * address. It can shrink. */
static void *remap_attached(void *addr, size_t old_length, size_t new_length, int flags)
{
	size_t old_pages = (old_length + 4095) & ~(size_t)4095, new_pages = (new_length + 4095) & ~(size_t)4095;

	if ((uintptr_t)addr % 4096 || new_length == 0 || (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) ||
	    old_length == 0) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	if (new_pages > old_pages) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	if (new_pages < old_pages && munmap((char *)addr + new_pages, old_pages - new_pages) < 0)
		return MAP_FAILED;
	return addr;
}

EXPORT void *mremap(void *addr, size_t old_length, size_t new_length, int flags, ...)
{
	void *new_addr = NULL;
	va_list args;

	va_start(args, flags);
	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
		new_addr = va_arg(args, void *);
	va_end(args);
	if (client_is_attached(addr, old_length ? old_length : 1))
		return remap_attached(addr, old_length, new_length, flags);
	if ((flags & MREMAP_FIXED) && (uintptr_t)new_addr % 4096 == 0) {
		int err = client_give_up(new_addr, new_length);

		if (err) {
			errno = -err;
			return MAP_FAILED;
		}
	}
	return (void *)syscall(SYS_mremap, addr, old_length, new_length, flags, new_addr);
}

/* MADV_REMOVE would punch the arena behind the daemon's back and leave the block in the cold store. */
EXPORT int madvise(void *addr, size_t length, int advice)
{
	if ((advice == MADV_REMOVE || advice == MADV_DOFORK) && client_is_attached(addr, length)) {
		size_t pages = (length + 4095) & ~(size_t)4095;
		int err;

		if (advice == MADV_DOFORK || (uintptr_t)addr % 4096)
			return fail(-EINVAL);
		if (!client_is_all_attached(addr, pages))
			return fail(-ENOMEM);
		err = client_discard(addr, pages);
		return err ? fail(err) : 0;
	}
	if (advice == MADV_COLLAPSE && client_is_attached(addr, length))
		return fail(
			-EINVAL); /* which pages are huge is the daemon's to decide: it may be demoting some of them */
	if (syscall(SYS_madvise, addr, length, advice) < 0)
		return -1;
	if ((advice == MADV_HUGEPAGE || advice == MADV_NOHUGEPAGE) && client_is_attached(addr, length)) {
		int saved = errno;

		client_advise_huge(addr, length, advice == MADV_HUGEPAGE);
		errno = saved;
	}
	return 0;
}

/* A daemon that is started again brings a new mount: the VMM's descriptor is of the old one and answers ENOTCONN for
 * good, while its memory has long been taken over. Balloons discard through the descriptor, so what they ask for goes
 * the other way then. */
static int punch(int fd, int mode, off_t offset, off_t length)
{
	int err;

	if (syscall(SYS_fallocate, fd, mode, offset, length) == 0)
		return 0;
	if ((errno != ENOTCONN && errno != ECONNABORTED) || !(mode & FALLOC_FL_PUNCH_HOLE))
		return -1;
	if (offset < 0 || length <= 0 || offset % 4096 || length % 4096)
		return -1;
	err = client_discard_file(fd, offset, length);
	return err ? fail(err == -ENXIO ? -ENOTCONN : err) : 0;
}

EXPORT int preload_fallocate(int fd, int mode, off_t offset, off_t length) __asm__("fallocate");
EXPORT int preload_fallocate64(int fd, int mode, off_t offset, off_t length) __asm__("fallocate64");

int preload_fallocate(int fd, int mode, off_t offset, off_t length)
{
	return punch(fd, mode, offset, length);
}

int preload_fallocate64(int fd, int mode, off_t offset, off_t length)
{
	return punch(fd, mode, offset, length);
}
