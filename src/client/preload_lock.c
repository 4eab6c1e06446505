/* client/preload_lock.c - what locks attached memory, has all of it brought at once, or gives other advice on it.
 *
 * The kernel would wait without an end for what the mount's budget cannot hold. What locks is refused then, with
 * ENOMEM; what only fills is cut down, since pages that it brought could be demoted again before it returned.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#include "client/client.h"
#include "client/client_lock.h"
#include "client/client_sys.h"
#include "client/preload.h"

/* Newer than the headers of older systems. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Has the lock counted around a system call. */
static int lock_by(long number, const void *addr, size_t length, long a, long b, long c)
{
	struct client_refusal why;
	struct client_claim claim;
	char text[200];
	long err;

	if (client_lock_begin(addr, length, &claim, &why) < 0) {
		snprintf(text, sizeof(text), CLIENT_LOCK_WHY, why.wanted_bytes, why.limit_bytes);
		preload_say_of(why.file, "cannot be locked", why.no_room ? CLIENT_LOCK_PIECES : text);
		return preload_fail(-ENOMEM);
	}
	err = client_sys(number, a, b, c);
	client_lock_end(addr, length, &claim, err == 0);
	return (int)preload_result(err);
}

PRELOAD_EXPORT int mlock(const void *addr, size_t length)
{
	return lock_by(SYS_mlock, addr, length, (long)addr, (long)length, 0);
}

PRELOAD_EXPORT int preload_mlock2(const void *addr, size_t length, unsigned int flags)
{
	return lock_by(SYS_mlock2, addr, length, (long)addr, (long)length, (long)flags);
}

PRELOAD_EXPORT int munlock(const void *addr, size_t length)
{
	long err = client_sys(SYS_munlock, addr, length);

	client_lock_drop(addr, length, err == 0);
	return (int)preload_result(err);
}

PRELOAD_EXPORT int mlockall(int flags)
{
	int done = lock_by(SYS_mlockall, NULL, flags & MCL_CURRENT ? SIZE_MAX : 0, flags, 0, 0);

	if (!done)
		client_lock_set_future(flags & MCL_FUTURE ? flags & ~MCL_CURRENT : 0);
	return done;
}

PRELOAD_EXPORT int munlockall(void)
{
	long err = client_sys(SYS_munlockall);

	if (!err) {
		client_lock_drop(NULL, SIZE_MAX, true);
		client_lock_set_future(0);
	}
	return (int)preload_result(err);
}

/* As much as the budget takes. What the kernel would return. */
static long populate(void *addr, size_t length, int advice)
{
	static atomic_bool said;
	struct client_claim claim;
	size_t some = client_populate_begin(addr, length, &claim);
	long err = some ? client_sys(SYS_madvise, addr, some, advice) : 0;

	client_populate_end(&claim);
	if (some < length && !atomic_exchange(&said, true))
		preload_say(-1, "memory is not filled beyond what the mount's dram= holds",
			    "the rest comes when it is used");
	return err;
}

/* MADV_REMOVE would punch the arena behind the daemon's back and leave the block in the cold store. */
PRELOAD_EXPORT int madvise(void *addr, size_t length, int advice)
{
	if ((advice == MADV_REMOVE || advice == MADV_DOFORK) && client_is_attached(addr, length)) {
		size_t pages = (length + 4095) & ~(size_t)4095;
		int err;

		if (advice == MADV_DOFORK || (uintptr_t)addr % 4096)
			return preload_fail(-EINVAL);
		if (!client_is_all_attached(addr, pages))
			return preload_fail(-ENOMEM);
		err = client_discard(addr, pages);
		return err ? preload_fail(err) : 0;
	}
	if (advice == MADV_COLLAPSE && client_is_attached(addr, length))
		return preload_fail(-EINVAL); /* the daemon decides which pages are huge: it may be demoting some */
	if ((advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE) && client_is_attached(addr, length))
		return (int)preload_result(populate(addr, length, advice));
	if (preload_result(client_sys(SYS_madvise, addr, length, advice)) < 0)
		return -1;
	if ((advice == MADV_HUGEPAGE || advice == MADV_NOHUGEPAGE) && client_is_attached(addr, length)) {
		int saved = errno;

		client_advise_huge(addr, length, advice == MADV_HUGEPAGE);
		errno = saved;
	}
	return 0;
}
