/* client/preload.c - what `tierctl run` puts in front of a VMM's libc: mmap(MAP_SHARED) of a RAM file attaches it.
 *
 * Everything else goes straight to the kernel, and costs next to nothing: no wrapper takes a lock, allocates or
 * asks a daemon unless the file is of a FUSE filesystem or the memory is attached. System calls are made directly
 * rather than through the next library's symbols, so that nothing has to be looked up and an allocator may call these
 * from its own start-up.
 *
 * Not seen, as with any preload library: static programs, and system calls that a program makes without libc.
 */
#include "client/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/client.h"
#include "client/client_sys.h"

int preload_fail(int err)
{
	errno = -err;
	return -1;
}

long preload_result(long result)
{
	return result < 0 && result > -4096 ? preload_fail((int)result) : result;
}

void preload_say_of(const char *file, const char *what, const char *why)
{
	char line[800];
	int printed = snprintf(line, sizeof(line), "tierfs: %s: %s%s%s\n", file[0] ? file : "(unknown file)", what,
			       why[0] ? ": " : "", why);

	if (printed > 0)
		client_sys(SYS_write, STDERR_FILENO, line,
			   (size_t)printed < sizeof(line) ? (size_t)printed : sizeof(line) - 1);
}

void preload_say(int fd, const char *what, const char *why)
{
	char link[32], path[512];
	long length;

	if (fd < 0) {
		preload_say_of(what, why, "");
		return;
	}
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = client_sys(SYS_readlinkat, AT_FDCWD, link, path, sizeof(path) - 1);
	path[length < 0 ? 0 : length] = '\0';
	preload_say_of(path, what, why);
}

static bool is_required(void)
{
	const char *value = getenv(PRELOAD_REQUIRE);

	return value && *value;
}

/* A private mapping is a copy of the file as it is now: nothing of it is tiered. True: it is refused. */
static bool refuses_private(int fd, int prot)
{
	static atomic_bool said;

	if (!(prot & PROT_WRITE) || (atomic_load(&said) && !is_required()) || client_is_tierfs(fd))
		return false;
	if (is_required()) {
		preload_say(fd, "cannot be mapped",
			    "MAP_PRIVATE (share=off) memory is not tiered, and tiering is required");
		return true;
	}
	if (!atomic_exchange(&said, true))
		preload_say(fd, "is mapped MAP_PRIVATE (share=off)", "this memory is not tiered; it takes share=on");
	return false;
}

static long map_shared(const struct client_wish *wish)
{
	char why[CLIENT_WHY_LEN];
	int saved = errno;
	void *mapped;
	int err = client_attach(wish, &mapped, why);

	if (!err) {
		errno = saved;
		return (long)mapped;
	}
	if (err != -ENOTTY) /* the program's own message will name neither the file nor the reason */
		preload_say(wish->fd, "cannot be mapped", why[0] ? why : strerror(-err));
	errno = saved;
	return err;
}

/* What the kernel would return. */
static long map_any(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	bool replaces = (flags & MAP_FIXED) && !(flags & MAP_FIXED_NOREPLACE);
	int type = flags & MAP_TYPE, err;

	if (!(flags & MAP_ANONYMOUS) && (type == MAP_SHARED || type == MAP_SHARED_VALIDATE) && length > 0 && fd >= 0) {
		struct client_wish wish = {
			.fd = fd, .addr = addr, .length_bytes = length, .prot = prot, .flags = flags, .offset = offset
		};
		long mapped = map_shared(&wish);

		if (mapped != -ENOTTY)
			return mapped;
	}
	if (!(flags & MAP_ANONYMOUS) && type == MAP_PRIVATE && fd >= 0 && refuses_private(fd, prot))
		return -ENODEV;
	if (replaces && (uintptr_t)addr % 4096 == 0) {
		err = client_give_up(addr, length);
		if (err)
			return err;
	}
	return client_sys(SYS_mmap, addr, length, prot, flags, fd, offset);
}

/* With a 64-bit off_t there is one mmap with two names, and the headers turn the first into the second: named here by
 * hand. */
PRELOAD_EXPORT void *preload_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset) __asm__("mmap");
PRELOAD_EXPORT void *preload_mmap64(void *addr, size_t length, int prot, int flags, int fd,
				    off_t offset) __asm__("mmap64");

void *preload_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return (void *)preload_result(map_any(addr, length, prot, flags, fd, offset));
}

void *preload_mmap64(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return (void *)preload_result(map_any(addr, length, prot, flags, fd, offset));
}

PRELOAD_EXPORT int munmap(void *addr, size_t length)
{
	if ((uintptr_t)addr % 4096 == 0) {
		int err = client_give_up(addr, length);

		if (err)
			return preload_fail(err);
	}
	return (int)preload_result(client_sys(SYS_munmap, addr, length));
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

PRELOAD_EXPORT void *mremap(void *addr, size_t old_length, size_t new_length, int flags, ...)
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
	return (void *)preload_result(client_sys(SYS_mremap, addr, old_length, new_length, flags, new_addr));
}

/* A daemon that is started again brings a new mount: the VMM's descriptor is of the old one and answers ENOTCONN for
 * good, while its memory has long been taken over. Balloons discard through the descriptor, so what they ask for goes
 * the other way then. */
static int punch(int fd, int mode, off_t offset, off_t length)
{
	long err = client_sys(SYS_fallocate, fd, mode, offset, length);

	if (!err)
		return 0;
	if ((err != -ENOTCONN && err != -ECONNABORTED) || !(mode & FALLOC_FL_PUNCH_HOLE) || offset < 0 || length <= 0 ||
	    offset % 4096 || length % 4096)
		return preload_fail((int)err);
	err = client_discard_file(fd, offset, length);
	return err ? preload_fail(err == -ENXIO ? -ENOTCONN : (int)err) : 0;
}

PRELOAD_EXPORT int preload_fallocate(int fd, int mode, off_t offset, off_t length) __asm__("fallocate");
PRELOAD_EXPORT int preload_fallocate64(int fd, int mode, off_t offset, off_t length) __asm__("fallocate64");

int preload_fallocate(int fd, int mode, off_t offset, off_t length)
{
	return punch(fd, mode, offset, length);
}

int preload_fallocate64(int fd, int mode, off_t offset, off_t length)
{
	return punch(fd, mode, offset, length);
}
