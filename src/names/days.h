/* names/days.h - what tenants have written to the store in the last 24 hours (engine/quota.h), kept in the pool.
 *
 * It is written every five minutes if it has changed, when a cold.write_day is set, and at the end of a mount: a daemon
 * that is killed forgets what was written since. While the daemon runs its time is that of a clock that nobody sets.
 * From one daemon to the next it is the time of day: of one that has gone back nothing is forgotten.
 *
 * Thread-safety: all functions, but start and stop.
 */
#pragma once

#include "names/record.h"

struct ns;
struct tree_inode;

/* With a thread that keeps it. -EAGAIN, -ENOMEM. */
int days_start(struct ns *ns);
/* Also of one that was not started. */
void days_stop(struct ns *ns);
/* Writes what has changed. An error is left for the next time. */
void days_save(struct ns *ns);
/* Adds what is to be kept with a share that is set; or drops it, where nothing is to be counted any more. */
void days_batch(struct ns *ns, const struct tree_inode *inode, const struct share *share, struct record_batch *batch);
/* Caller holds ns->lock, or nobody uses the ns yet: takes over what was kept of a tenant. */
void days_resume(struct ns *ns, struct tree_inode *inode, const struct record_day *day);
/* The same where what was kept is damaged: as if all that it may had been written, evenly. So in no day more is written
 * than it may, and after each hour some may be. */
void days_resume_full(struct ns *ns, struct tree_inode *inode);
