/* lib/lib_fail.c - one function for each call that the linker sends by here, made from a table of macros.
 *
 * The names are those of the symbols that objects refer to: with 64-bit offsets, and what fortified builds make of them
 * (__read_chk). lib_fail.flags has to list the same ones; a name that is missing there does not link.
 */
#include "lib_fail.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* --- the plan --- */

/* A thread that is late may still look at a plan when the next one is armed. So every plan has a number, in the upper
 * half of points, and who has met two plans counts for neither. */
static struct {
	atomic_uint kinds, nth, count;
	atomic_int error;
	atomic_bool all_threads;
	_Atomic(const char *) names;
	_Atomic pthread_t thread; /* who armed it */
	atomic_bool on;
	_Atomic uint64_t points;
	atomic_uint failed;
	_Atomic(const char *) what;
} armed;

#define PLAN_ONE (UINT64_C(1) << 32)

void fail_arm_plan(const struct fail_plan *plan)
{
	atomic_store(&armed.on, false);
	atomic_store(&armed.points, atomic_load(&armed.points) / PLAN_ONE * PLAN_ONE + PLAN_ONE);
	atomic_store(&armed.kinds, plan->kinds);
	atomic_store(&armed.nth, plan->nth);
	atomic_store(&armed.count, plan->count ? plan->count : 1);
	atomic_store(&armed.error, plan->error);
	atomic_store(&armed.all_threads, plan->all_threads);
	atomic_store(&armed.names, plan->names);
	atomic_store(&armed.thread, pthread_self());
	atomic_store(&armed.failed, 0);
	atomic_store(&armed.what, NULL);
	atomic_store(&armed.on, true);
}

void fail_arm(unsigned int kinds, unsigned int nth)
{
	fail_arm_plan(&(struct fail_plan){ .kinds = kinds, .nth = nth });
}

bool fail_disarm(void)
{
	return atomic_exchange(&armed.on, false) && atomic_load(&armed.failed);
}

unsigned int fail_points(void)
{
	return (uint32_t)atomic_load(&armed.points);
}

const char *fail_what(void)
{
	const char *what = atomic_load(&armed.what);

	return what ? what : "";
}

/* Whether a name is one of a list. No call in it may come by here. */
static bool is_listed(const char *names, const char *name)
{
	size_t len = 0;

	while (name[len])
		len++;
	for (const char *at = names; *at; at++) {
		size_t same = 0;

		while (same < len && at[same] == name[same])
			same++;
		if (same == len && (at[len] == ' ' || !at[len]))
			return true;
		while (at[1] && *at != ' ')
			at++;
	}
	return false;
}

/* Whether the plan that is armed counts this call. */
static bool counts(unsigned int kind, const char *name)
{
	const char *names = atomic_load(&armed.names);

	return atomic_load(&armed.kinds) & kind &&
	       (atomic_load(&armed.all_threads) || pthread_equal(atomic_load(&armed.thread), pthread_self())) &&
	       (!names || is_listed(names, name));
}

/* The error that this call shall end with; 0: the real one goes on. */
static int fails(unsigned int kind, int usual, const char *name)
{
	uint64_t points = atomic_load(&armed.points), plan = points / PLAN_ONE;
	unsigned int point, nth, count;
	const char *none = NULL;
	int error;

	if (!atomic_load(&armed.on) || !counts(kind, name))
		return 0;
	nth = atomic_load(&armed.nth);
	count = atomic_load(&armed.count);
	error = atomic_load(&armed.error);
	do {
		if (points / PLAN_ONE != plan)
			return 0;
	} while (!atomic_compare_exchange_weak(&armed.points, &points, points + 1));
	point = (uint32_t)points + 1;
	if (!nth || point < nth || point - nth >= count)
		return 0;
	atomic_fetch_add(&armed.failed, 1);
	atomic_compare_exchange_strong(&armed.what, &none, name);
	return error ? error : usual;
}

/* --- memory that is remembered --- */

#define PIECES 65536U

static struct piece {
	void *at;
	size_t bytes;
	const void *who;
} pieces[PIECES];

static pthread_mutex_t pieces_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool remembers;
static size_t pieces_count;
extern const char __executable_start[];

static size_t home_of(const void *at)
{
	return (size_t)(((uint64_t)(uintptr_t)at * UINT64_C(0x9e3779b97f4a7c15)) >> 48) % PIECES;
}

static void *remember(void *at, size_t bytes, const void *who)
{
	size_t slot = home_of(at);

	if (!at || !atomic_load(&remembers))
		return at;
	pthread_mutex_lock(&pieces_lock);
	assert(pieces_count < PIECES / 2);
	while (pieces[slot].at)
		slot = (slot + 1) % PIECES;
	pieces[slot] = (struct piece){ at, bytes, who };
	pieces_count++;
	pthread_mutex_unlock(&pieces_lock);
	return at;
}

/* Removes an entry; those behind it that would not be found any more move up. */
static void drop_slot(size_t hole)
{
	for (size_t slot = (hole + 1) % PIECES; pieces[slot].at; slot = (slot + 1) % PIECES) {
		if ((slot - home_of(pieces[slot].at)) % PIECES < (slot - hole) % PIECES)
			continue;
		pieces[hole] = pieces[slot];
		hole = slot;
	}
	pieces[hole].at = NULL;
	pieces_count--;
}

static void forget(const void *at)
{
	if (!at || !atomic_load(&remembers))
		return;
	pthread_mutex_lock(&pieces_lock);
	for (size_t slot = home_of(at); pieces[slot].at; slot = (slot + 1) % PIECES) {
		if (pieces[slot].at != at)
			continue;
		drop_slot(slot);
		break;
	}
	pthread_mutex_unlock(&pieces_lock);
}

void fail_memory_begin(void)
{
	pthread_mutex_lock(&pieces_lock);
	for (size_t i = 0; i < PIECES; i++)
		pieces[i].at = NULL;
	pieces_count = 0;
	pthread_mutex_unlock(&pieces_lock);
	atomic_store(&remembers, true);
}

size_t fail_memory_left(size_t expected)
{
	size_t left;

	pthread_mutex_lock(&pieces_lock);
	left = pieces_count;
	for (size_t i = 0; left > expected && i < PIECES; i++) {
		if (pieces[i].at)
			fprintf(stderr, "left: %zu bytes, allocated at +0x%tx\n", pieces[i].bytes,
				(const char *)pieces[i].who - __executable_start);
	}
	pthread_mutex_unlock(&pieces_lock);
	return left;
}

void fail_memory_end(void)
{
	atomic_store(&remembers, false);
}

/* --- allocations --- */

#define WHO __builtin_return_address(0)

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__real_realloc(void *at, size_t bytes);
void *__wrap_realloc(void *at, size_t bytes);
void *__real_reallocarray(void *at, size_t count, size_t bytes);
void *__wrap_reallocarray(void *at, size_t count, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
int __real_posix_memalign(void **ret, size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **ret, size_t alignment, size_t bytes);
char *__real_strdup(const char *text);
char *__wrap_strdup(const char *text);
char *__real_strndup(const char *text, size_t len);
char *__wrap_strndup(const char *text, size_t len);
int __real_vasprintf(char **ret, const char *format, va_list args);
int __wrap_vasprintf(char **ret, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
int __wrap_asprintf(char **ret, const char *format, ...) __attribute__((format(printf, 2, 3)));
int __wrap___asprintf_chk(char **ret, int flag, const char *format, ...) __attribute__((format(printf, 3, 4)));
void __real_free(void *at);
void __wrap_free(void *at);

static bool no_memory(const char *name)
{
	int error = fails(FAIL_ALLOC, ENOMEM, name);

	if (error)
		errno = error;
	return error;
}

void *__wrap_malloc(size_t bytes)
{
	return no_memory("malloc") ? NULL : remember(__real_malloc(bytes), bytes, WHO);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	return no_memory("calloc") ? NULL : remember(__real_calloc(count, bytes), count * bytes, WHO);
}

void *__wrap_realloc(void *at, size_t bytes)
{
	void *moved;

	if (no_memory("realloc"))
		return NULL;
	forget(at);
	moved = __real_realloc(at, bytes);
	return remember(moved ? moved : at, bytes, WHO) ? moved : NULL;
}

void *__wrap_reallocarray(void *at, size_t count, size_t bytes)
{
	void *moved;

	if (no_memory("reallocarray"))
		return NULL;
	forget(at);
	moved = __real_reallocarray(at, count, bytes);
	return remember(moved ? moved : at, count * bytes, WHO) ? moved : NULL;
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
	return no_memory("aligned_alloc") ? NULL : remember(__real_aligned_alloc(alignment, bytes), bytes, WHO);
}

int __wrap_posix_memalign(void **ret, size_t alignment, size_t bytes)
{
	int r = no_memory("posix_memalign") ? ENOMEM : __real_posix_memalign(ret, alignment, bytes);

	if (r == 0)
		remember(*ret, bytes, WHO);
	return r;
}

char *__wrap_strdup(const char *text)
{
	return no_memory("strdup") ? NULL : remember(__real_strdup(text), strlen(text) + 1, WHO);
}

char *__wrap_strndup(const char *text, size_t len)
{
	return no_memory("strndup") ? NULL : remember(__real_strndup(text, len), len + 1, WHO);
}

/* On a failure *ret may be anything: that is what the C library says. */
static int print(char **ret, const char *format, va_list args, const void *who)
{
	int r;

	*ret = (char *)(uintptr_t)1;
	if (no_memory("asprintf"))
		return -1;
	r = __real_vasprintf(ret, format, args);
	if (r >= 0)
		remember(*ret, (size_t)r + 1, who);
	return r;
}

int __wrap_vasprintf(char **ret, const char *format, va_list args)
{
	return print(ret, format, args, WHO);
}

int __wrap_asprintf(char **ret, const char *format, ...)
{
	va_list args;
	int r;

	va_start(args, format);
	r = print(ret, format, args, WHO);
	va_end(args);
	return r;
}

int __wrap___asprintf_chk(char **ret, int flag, const char *format, ...)
{
	va_list args;
	int r;

	(void)flag;
	va_start(args, format);
	r = print(ret, format, args, WHO);
	va_end(args);
	return r;
}

void __wrap_free(void *at)
{
	forget(at);
	__real_free(at);
}

/* --- system calls --- */

/* A call that says -1 and errno, or something else of its type. */
#define WRAP(kind, usual, type, failed, name, params, args) \
	type __real_##name params; \
	type __wrap_##name params; \
	type __wrap_##name params \
	{ \
		int fail_error = fails(kind, usual, #name); \
\
		if (fail_error) { \
			errno = fail_error; \
			return failed; \
		} \
		return __real_##name args; \
	}
#define WRAP_INT(kind, usual, name, params, args) WRAP(kind, usual, int, -1, name, params, args)
#define WRAP_SIZE(kind, usual, name, params, args) WRAP(kind, usual, ssize_t, -1, name, params, args)

/* One that returns the error: negative or not. */
#define WRAP_ERROR(kind, usual, sign, name, params, args) \
	int __real_##name params; \
	int __wrap_##name params; \
	int __wrap_##name params \
	{ \
		int fail_error = fails(kind, usual, #name); \
\
		return fail_error ? sign fail_error : __real_##name args; \
	}

/* One with a last argument that may be left out. */
#define WRAP_MODE(kind, usual, name, params, last, args) \
	int __real_##name params; \
	int __wrap_##name params; \
	int __wrap_##name params \
	{ \
		int fail_error = fails(kind, usual, #name); \
		va_list fail_args; \
		unsigned long more; \
\
		if (fail_error) { \
			errno = fail_error; \
			return -1; \
		} \
		va_start(fail_args, last); \
		more = va_arg(fail_args, unsigned long); \
		va_end(fail_args); \
		return __real_##name args; \
	}

WRAP_MODE(FAIL_OPEN, EMFILE, open64, (const char *path, int flags, ...), flags, (path, flags, (mode_t)more))
WRAP_MODE(FAIL_OPEN, EMFILE, openat64, (int dir, const char *path, int flags, ...), flags,
	  (dir, path, flags, (mode_t)more))
WRAP_INT(FAIL_OPEN, EMFILE, __open64_2, (const char *path, int flags), (path, flags))
WRAP_INT(FAIL_OPEN, EMFILE, __openat64_2, (int dir, const char *path, int flags), (dir, path, flags))
WRAP(FAIL_OPEN, EMFILE, DIR *, NULL, opendir, (const char *path), (path))
WRAP(FAIL_OPEN, EMFILE, DIR *, NULL, fdopendir, (int fd), (fd))
WRAP(FAIL_OPEN, EMFILE, FILE *, NULL, fopen64, (const char *path, const char *mode), (path, mode))
WRAP(FAIL_OPEN, EMFILE, FILE *, NULL, fdopen, (int fd, const char *mode), (fd, mode))
WRAP_INT(FAIL_OPEN, EMFILE, memfd_create, (const char *name, unsigned int flags), (name, flags))
WRAP_INT(FAIL_OPEN, EMFILE, eventfd, (unsigned int count, int flags), (count, flags))
WRAP_INT(FAIL_OPEN, EMFILE, pipe2, (int fds[2], int flags), (fds, flags))
WRAP_INT(FAIL_OPEN, EMFILE, dup, (int fd), (fd))
WRAP_INT(FAIL_OPEN, EMFILE, socket, (int domain, int type, int protocol), (domain, type, protocol))
WRAP_INT(FAIL_OPEN, EMFILE, socketpair, (int domain, int type, int protocol, int fds[2]), (domain, type, protocol, fds))
WRAP(FAIL_OPEN, EMFILE, char *, NULL, mkdtemp, (char *path), (path))

WRAP_SIZE(FAIL_READ, EIO, read, (int fd, void *buf, size_t len), (fd, buf, len))
WRAP_SIZE(FAIL_READ, EIO, __read_chk, (int fd, void *buf, size_t len, size_t size), (fd, buf, len, size))
WRAP_SIZE(FAIL_READ, EIO, pread64, (int fd, void *buf, size_t len, off_t offset), (fd, buf, len, offset))
WRAP_SIZE(FAIL_READ, EIO, __pread64_chk, (int fd, void *buf, size_t len, off_t offset, size_t size),
	  (fd, buf, len, offset, size))
WRAP_SIZE(FAIL_READ, EIO, preadv64, (int fd, const struct iovec *piece, int count, off_t offset),
	  (fd, piece, count, offset))
WRAP_SIZE(FAIL_READ, EIO, preadv64v2, (int fd, const struct iovec *piece, int count, off_t offset, int flags),
	  (fd, piece, count, offset, flags))
WRAP_SIZE(FAIL_READ, EIO, readlinkat, (int dir, const char *path, char *buf, size_t len), (dir, path, buf, len))
WRAP_SIZE(FAIL_WRITE, EIO, write, (int fd, const void *buf, size_t len), (fd, buf, len))
WRAP_SIZE(FAIL_WRITE, EIO, writev, (int fd, const struct iovec *piece, int count), (fd, piece, count))
WRAP_SIZE(FAIL_WRITE, EIO, pwrite64, (int fd, const void *buf, size_t len, off_t offset), (fd, buf, len, offset))
WRAP_SIZE(FAIL_WRITE, EIO, pwritev64, (int fd, const struct iovec *piece, int count, off_t offset),
	  (fd, piece, count, offset))
WRAP_INT(FAIL_SYNC, EIO, fsync, (int fd), (fd))
WRAP_INT(FAIL_SYNC, EIO, fdatasync, (int fd), (fd))
WRAP_INT(FAIL_SYNC, EIO, sync_file_range, (int fd, off_t offset, off_t len, unsigned int flags),
	 (fd, offset, len, flags))
WRAP_INT(FAIL_SPACE, ENOSPC, ftruncate64, (int fd, off_t length), (fd, length))
WRAP_INT(FAIL_SPACE, ENOSPC, fallocate64, (int fd, int mode, off_t offset, off_t len), (fd, mode, offset, len))

WRAP_INT(FAIL_NAME, EIO, unlink, (const char *path), (path))
WRAP_INT(FAIL_NAME, EIO, unlinkat, (int dir, const char *path, int flags), (dir, path, flags))
WRAP_INT(FAIL_NAME, EIO, rename, (const char *from, const char *to), (from, to))
WRAP_INT(FAIL_NAME, EIO, renameat, (int from_dir, const char *from, int to_dir, const char *to),
	 (from_dir, from, to_dir, to))
WRAP_INT(FAIL_NAME, EIO, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP_INT(FAIL_NAME, EIO, rmdir, (const char *path), (path))
WRAP_INT(FAIL_NAME, EIO, chmod, (const char *path, mode_t mode), (path, mode))
WRAP_INT(FAIL_NAME, EIO, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP_INT(FAIL_NAME, EIO, mount,
	 (const char *source, const char *target, const char *type, unsigned long flags, const void *data),
	 (source, target, type, flags, data))
WRAP_INT(FAIL_NAME, EIO, umount2, (const char *target, int flags), (target, flags))

WRAP_INT(FAIL_LOOK, EIO, stat64, (const char *path, struct stat64 *ret), (path, ret))
WRAP_INT(FAIL_LOOK, EIO, lstat64, (const char *path, struct stat64 *ret), (path, ret))
WRAP_INT(FAIL_LOOK, EIO, fstat64, (int fd, struct stat64 *ret), (fd, ret))
WRAP_INT(FAIL_LOOK, EIO, fstatat64, (int dir, const char *path, struct stat64 *ret, int flags), (dir, path, ret, flags))
WRAP_INT(FAIL_LOOK, EIO, statfs64, (const char *path, struct statfs64 *ret), (path, ret))
WRAP_INT(FAIL_LOOK, EIO, fstatfs64, (int fd, struct statfs64 *ret), (fd, ret))
WRAP_INT(FAIL_LOOK, EIO, statvfs64, (const char *path, struct statvfs64 *ret), (path, ret))
WRAP_INT(FAIL_LOOK, EIO, fstatvfs64, (int fd, struct statvfs64 *ret), (fd, ret))
WRAP(FAIL_LOOK, EIO, off_t, -1, lseek64, (int fd, off_t offset, int whence), (fd, offset, whence))
WRAP_INT(FAIL_LOOK, EAGAIN, mincore, (void *at, size_t len, unsigned char *ret), (at, len, ret))

WRAP(FAIL_MAP, ENOMEM, void *, MAP_FAILED, mmap64,
     (void *at, size_t len, int protection, int flags, int fd, off_t offset), (at, len, protection, flags, fd, offset))

/* What was mapped can be unmapped: one that fails was given something else. */
int __real_munmap(void *at, size_t len);
int __wrap_munmap(void *at, size_t len);
int __wrap_munmap(void *at, size_t len)
{
	if (__real_munmap(at, len) < 0)
		abort();
	return 0;
}
WRAP_INT(FAIL_MAP, ENOMEM, mprotect, (void *at, size_t len, int protection), (at, len, protection))
WRAP_INT(FAIL_MAP, ENOMEM, madvise, (void *at, size_t len, int advice), (at, len, advice))

WRAP_ERROR(FAIL_THREAD, EAGAIN, +, pthread_create,
	   (pthread_t * ret, const pthread_attr_t *attr, void *(*run)(void *), void *arg), (ret, attr, run, arg))
WRAP(FAIL_THREAD, EAGAIN, pid_t, -1, fork, (void), ())

WRAP_INT(FAIL_SOCKET, ENOBUFS, bind, (int fd, const struct sockaddr *address, socklen_t len), (fd, address, len))
WRAP_INT(FAIL_SOCKET, ENOBUFS, listen, (int fd, int backlog), (fd, backlog))
WRAP_INT(FAIL_SOCKET, ENOBUFS, accept4, (int fd, struct sockaddr *address, socklen_t *len, int flags),
	 (fd, address, len, flags))
WRAP_INT(FAIL_SOCKET, ENOBUFS, connect, (int fd, const struct sockaddr *address, socklen_t len), (fd, address, len))
WRAP_INT(FAIL_SOCKET, ENOBUFS, getsockopt, (int fd, int level, int option, void *value, socklen_t *len),
	 (fd, level, option, value, len))
WRAP_INT(FAIL_SOCKET, ENOBUFS, setsockopt, (int fd, int level, int option, const void *value, socklen_t len),
	 (fd, level, option, value, len))
WRAP_SIZE(FAIL_SOCKET, ENOBUFS, send, (int fd, const void *buf, size_t len, int flags), (fd, buf, len, flags))
WRAP_SIZE(FAIL_SOCKET, ENOBUFS, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
WRAP_SIZE(FAIL_SOCKET, ENOBUFS, recv, (int fd, void *buf, size_t len, int flags), (fd, buf, len, flags))
WRAP_SIZE(FAIL_SOCKET, ENOBUFS, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
WRAP_INT(FAIL_SOCKET, ENOMEM, poll, (struct pollfd * fd, nfds_t count, int timeout_ms), (fd, count, timeout_ms))

WRAP_INT(FAIL_OTHER, EIO, ioctl, (int fd, unsigned long request, void *arg), (fd, request, arg))
WRAP_MODE(FAIL_OTHER, EIO, fcntl64, (int fd, int command, ...), command, (fd, command, more))
WRAP_ERROR(FAIL_OTHER, ENOMEM, -, io_uring_queue_init,
	   (unsigned int entries, struct io_uring *ring, unsigned int flags), (entries, ring, flags))
WRAP_ERROR(FAIL_OTHER, EAGAIN, -, io_uring_submit, (struct io_uring * ring), (ring))
WRAP_ERROR(FAIL_OTHER, EAGAIN, -, io_uring_submit_and_wait, (struct io_uring * ring, unsigned int count), (ring, count))

long __real_syscall(long number, ...);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);

/* Waiting for reads that were submitted does not fail: the kernel still has their buffers. */
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	int error = number == SYS_io_getevents || number == SYS_io_destroy ? 0 : fails(FAIL_OTHER, EIO, "syscall");

	if (error) {
		errno = error;
		return -1;
	}
	return __real_syscall(number, a, b, c, d, e, f);
}

/* --- descriptors --- */

unsigned int fail_descriptors(void)
{
	DIR *dir = __real_opendir("/proc/self/fd");
	unsigned int count = 0;

	assert(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count - 3; /* the two dots, and that of dir itself */
}
