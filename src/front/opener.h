/* front/opener.h - who opens a RAM file: whether that process is going to attach, and the line in the log when it may
 * not map.
 *
 * A process announces itself by having libtierfs in it, as the preload library or as the shared one: its memory map
 * says so. Who links libtierfs statically opens RAM files with O_DIRECT, which says the same (front/door.c).
 *
 * Thread-safety: all functions but new and free.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct opener;

/* proc: where processes are, "/proc" but in tests. */
int opener_new(const char *proc, struct opener **ret);
void opener_free(struct opener *opener); /* takes NULL */

/* tid: the thread, as FUSE names it; 0 (of a foreign pid namespace) announces nothing. uid: whose it is. -EBUSY: it
 * could not be found out in time, or too many threads of that user are being looked at. */
int opener_announced(struct opener *opener, pid_t tid, uid_t uid, bool *ret);

/* Says once for each process and file that the one cannot map the other, and what to do. why: a clause. */
void opener_refused(struct opener *opener, pid_t tid, uint64_t ino, const char *path, const char *why);

/* A thread with a fatal signal has SIGKILL pending. False also where that cannot be told: of another pid namespace. */
bool opener_is_killed(pid_t tid);
