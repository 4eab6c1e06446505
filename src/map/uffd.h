/* map/uffd.h - userfaultfd calls on the descriptor of another process, and its page tables.
 *
 * Each call works on addresses of that process and does all of the range or says why not. Transient refusals of the
 * kernel are retried here. 0 or -errno; -ESRCH: the address space is gone; -ENOENT: (a part of) the range is not mapped
 * any more.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

int uffd_register(int uffd, uint64_t addr, uint64_t length);
/* data lands where pages are missing; pages that exist stay, and their waiters are woken. */
int uffd_copy(int uffd, uint64_t addr, const void *data, uint64_t length);
int uffd_zero(int uffd, uint64_t addr, uint64_t length);
int uffd_protect(int uffd, uint64_t addr, uint64_t length, bool on);
int uffd_wake(int uffd, uint64_t addr, uint64_t length);
int uffd_poison(int uffd, uint64_t addr, uint64_t length); /* -EOPNOTSUPP: the kernel or the descriptor cannot */
/* Takes poison off: maps the pages of the range that the file has and that are not mapped, unprotected. zeros: where it
 * has none, puts one. */
int uffd_heal(int uffd, uint64_t addr, uint64_t length, bool zeros);

enum uffd_event_kind { UFFD_EVENT_MISSING, UFFD_EVENT_PROTECTED };
/* Sets O_NONBLOCK again. True: somebody had cleared it; poll(2) then reports an error and no events. */
bool uffd_unblock(int uffd);
/* tid: the thread that waits, as its process numbers it; 0: not told (UFFD_FEATURE_THREAD_ID). */
struct uffd_event {
	uint64_t addr; /* of the page */
	enum uffd_event_kind kind;
	pid_t tid;
};
#define UFFD_EVENTS_MAX 16U
/* Reads what has come, most at most, UFFD_EVENTS_MAX at most, whatever the other holders of the descriptor made of its
 * flags. Returns how many. -EAGAIN: none; -EINTR. Events that are not page faults are passed over. */
int uffd_read(int uffd, struct uffd_event *ret, unsigned int most);
/* On a kernel where it might sleep, until a signal comes. Known after the first call. */
bool uffd_read_may_sleep(void);

/* Calls fn for each run of pages in [addr, addr + length) that the page tables of the process map now. pagemap: its
 * /proc/PID/pagemap. PAGEMAP_SCAN where the kernel has it (6.7), else by reading. -ESRCH: the address space is gone. */
typedef void uffd_mapped_fn(void *arg, uint64_t addr, uint64_t length);
int uffd_mapped(int pagemap, uint64_t addr, uint64_t length, uffd_mapped_fn *fn, void *arg);
