/* lib/lib_fail.h - fail the Nth call of a kind: allocations and system calls of this tree's own objects.
 *
 * A test that uses it is linked with a comment "link: @tests/lib/lib_fail.flags" in the first column, which
 * has the linker send every call of the kinds below through here. That holds for all objects of the program; shared
 * libraries are not touched. What is not armed goes on to the real call.
 *
 * The usual test of a function:
 *
 *	for (unsigned int nth = 1;; nth++) {
 *		prepare();
 *		fail_arm(FAIL_ANY, nth);
 *		r = function_under_test();
 *		hit = fail_disarm();
 *		check(r, hit);       fail_what() names the call that failed
 *		if (!hit)
 *			break;       nth - 1 points are covered
 *	}
 *
 * One plan at a time in the process. Armed for a thread, only calls of that thread count and fail; armed for all, those
 * of every thread. A failure is what the kernel says when it has done nothing: the call is not made. Not failed are
 * calls that cannot fail in a way a program could answer: close, munmap, free, mutexes. Check is a static library, so
 * its calls count as well: no ck_assert() while a plan is armed.
 *
 * Thread-safety: arm and disarm by one thread at a time; everything else from any.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum fail_kind {
	FAIL_ALLOC = 1 << 0,   /* malloc and its kin: ENOMEM */
	FAIL_OPEN = 1 << 1,    /* open, opendir, memfd, eventfd, pipe, socket, dup: EMFILE */
	FAIL_READ = 1 << 2,    /* read, pread: EIO */
	FAIL_WRITE = 1 << 3,   /* write, pwrite, pwritev: EIO */
	FAIL_SYNC = 1 << 4,    /* fsync, fdatasync, sync_file_range: EIO */
	FAIL_SPACE = 1 << 5,   /* ftruncate, fallocate: ENOSPC */
	FAIL_NAME = 1 << 6,    /* unlink, rename, mkdir, rmdir, mount, chmod: EIO */
	FAIL_LOOK = 1 << 7,    /* stat and statfs of all kinds, lseek, mincore: EIO */
	FAIL_MAP = 1 << 8,     /* mmap, mremap, madvise, mprotect: ENOMEM */
	FAIL_THREAD = 1 << 9,  /* pthread_create, fork: EAGAIN */
	FAIL_SOCKET = 1 << 10, /* bind, listen, accept, connect, send, receive: ENOBUFS */
	FAIL_OTHER = 1 << 11,  /* ioctl, fcntl, io_uring, syscall(): EIO */
};
#define FAIL_CALLS (FAIL_OTHER * 2 - 1 - FAIL_ALLOC)
#define FAIL_ANY (FAIL_CALLS | FAIL_ALLOC)

/* The point that the nth turn of a loop over all points fails. ThreadSanitizer makes a turn several times as long and
 * looks for what the order of threads does, not for what is left behind: every fourth is enough there. */
static inline unsigned int fail_point(unsigned int nth)
{
#ifdef __SANITIZE_THREAD__
	return 4 * nth - 3;
#else
	return nth;
#endif
}

struct fail_plan {
	unsigned int kinds;
	unsigned int nth;   /* counted from 1 on; 0: only count */
	unsigned int count; /* so many in a row fail; 0: one */
	int error;          /* 0: the usual one */
	bool all_threads;
	/* May be NULL. Only calls by these names (as fail_what() has them: "fdatasync"), separated by spaces, count. */
	const char *names;
};

void fail_arm(unsigned int kinds, unsigned int nth); /* one call of this thread, with its usual error */
void fail_arm_plan(const struct fail_plan *plan);
/* True: something was failed since it was armed. Without a plan it is false. */
bool fail_disarm(void);
/* Calls since the plan was armed that it counts; stays readable after the end of the plan. */
unsigned int fail_points(void);
/* The call that was failed first under the last plan, "" if none was. */
const char *fail_what(void);

/* Descriptors that this process has open now. */
unsigned int fail_descriptors(void);

/* Memory of this tree's objects. From fail_memory_begin() on, what they allocate is remembered until it is freed.
 * fail_memory_left() is the number of pieces that are still there; it prints them, with the address of who called, if
 * there are more than expected. It ends with the next begin or with fail_memory_end(). All threads count. */
void fail_memory_begin(void);
size_t fail_memory_left(size_t expected);
void fail_memory_end(void);
