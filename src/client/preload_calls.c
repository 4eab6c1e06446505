/* client/preload_calls.c - system calls that have to do with attached memory in other ways than mapping it.
 *
 *   seccomp(2), prctl(2)   A filter is looked at before it is installed, and the library's threads are started before
 *                          the first one: they are free of it.
 *   chroot(2)              The same: their root directory stays.
 *   pivot_root(2)          The same: they stand where the daemons' sockets are.
 *   userfaultfd(2)         Refused while anything is attached. A second userfaultfd can have none of that memory, and
 *                          a VMM that asks for its own post-copy or background snapshot had better be told when it
 *                          asks what there is than when the guest is half gone.
 *   syscall(2)             The way to all of them, and to mmap(2), without libc's function.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "client/client.h"
#include "client/client_agent.h"
#include "client/client_filter.h"
#include "client/client_sys.h"
#include "client/preload.h"

/* What is in the way of the call is not said by its error: the program is told once. */
static long refuse_userfaultfd(void)
{
	static atomic_bool said;

	if (!atomic_exchange(&said, true))
		preload_say(-1, "no userfaultfd for this process while a RAM file is attached",
			    "its own post-copy and background snapshots cannot work; see tierctl migrate --post-copy");
	return -ENOSYS;
}

static bool has_attached(void)
{
	return client_is_attached(NULL, SIZE_MAX);
}

/* Threads that are made later would have the filter. If they cannot be made, nothing is lost yet. */
static void prepare_for_filter(const struct sock_fprog *filter, bool all_threads)
{
	int saved = errno;

	client_agent_start();
	client_filter_add(filter, all_threads);
	errno = saved;
}

static long do_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	if (option == PR_SET_SECCOMP && a == SECCOMP_MODE_FILTER)
		prepare_for_filter((const struct sock_fprog *)b, false);
	return client_sys(SYS_prctl, option, a, b, c, d);
}

static long do_seccomp(unsigned long operation, unsigned long flags, const struct sock_fprog *filter)
{
	if (operation == SECCOMP_SET_MODE_FILTER && filter)
		prepare_for_filter(filter, flags & SECCOMP_FILTER_FLAG_TSYNC);
	return client_sys(SYS_seccomp, operation, flags, filter);
}

static long do_ioctl(int fd, unsigned long request, void *arg)
{
	if (request == USERFAULTFD_IOC_NEW && has_attached())
		return refuse_userfaultfd();
	return client_sys(SYS_ioctl, fd, request, arg);
}

PRELOAD_EXPORT int prctl(int option, ...)
{
	unsigned long a, b, c, d;
	va_list args;

	va_start(args, option);
	a = va_arg(args, unsigned long);
	b = va_arg(args, unsigned long);
	c = va_arg(args, unsigned long);
	d = va_arg(args, unsigned long);
	va_end(args);
	return (int)preload_result(do_prctl(option, a, b, c, d));
}

/* Not as the headers have it: two libcs differ in the type of the request. */
PRELOAD_EXPORT int preload_ioctl(int fd, unsigned long request, ...) __asm__("ioctl");

int preload_ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	return (int)preload_result(do_ioctl(fd, (unsigned int)request, arg));
}

PRELOAD_EXPORT int chroot(const char *path)
{
	int saved = errno;

	client_agent_start();
	errno = saved;
	return (int)preload_result(client_sys(SYS_chroot, path));
}

/* glibc has none; musl does, and so programs that bring their own declaration. */
PRELOAD_EXPORT int pivot_root(const char *new_root, const char *put_old);

int pivot_root(const char *new_root, const char *put_old)
{
	int saved = errno;

	client_agent_start();
	errno = saved;
	return (int)preload_result(client_sys(SYS_pivot_root, new_root, put_old));
}

PRELOAD_EXPORT long syscall(long number, ...)
{
	long a, b, c, d, e, f;
	va_list args;

	va_start(args, number);
	a = va_arg(args, long);
	b = va_arg(args, long);
	c = va_arg(args, long);
	d = va_arg(args, long);
	e = va_arg(args, long);
	f = va_arg(args, long);
	va_end(args);
	switch (number) {
	case SYS_mmap:
		return (long)mmap((void *)a, (size_t)b, (int)c, (int)d, (int)e, f);
	case SYS_munmap:
		return munmap((void *)a, (size_t)b);
	case SYS_mremap:
		return (long)mremap((void *)a, (size_t)b, (size_t)c, (int)d, (void *)e);
	case SYS_madvise:
		return madvise((void *)a, (size_t)b, (int)c);
	case SYS_mlock:
		return mlock((const void *)a, (size_t)b);
	case SYS_mlock2:
		return preload_mlock2((const void *)a, (size_t)b, (unsigned int)c);
	case SYS_munlock:
		return munlock((const void *)a, (size_t)b);
	case SYS_mlockall:
		return mlockall((int)a);
	case SYS_munlockall:
		return munlockall();
	case SYS_userfaultfd:
		return preload_result(has_attached() ? refuse_userfaultfd() : client_sys(number, a));
	case SYS_ioctl:
		return preload_result(do_ioctl((int)a, (unsigned int)b, (void *)c));
	case SYS_prctl:
		return preload_result(
			do_prctl((int)a, (unsigned long)b, (unsigned long)c, (unsigned long)d, (unsigned long)e));
	case SYS_seccomp:
		return preload_result(do_seccomp((unsigned long)a, (unsigned long)b, (const struct sock_fprog *)c));
	case SYS_chroot:
		return chroot((const char *)a);
	case SYS_pivot_root:
		return pivot_root((const char *)a, (const char *)b);
	}
	return preload_result(client_sys(number, a, b, c, d, e, f));
}
