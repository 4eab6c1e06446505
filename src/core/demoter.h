/* core/demoter.h - the thread that scans what is due, and keeps a part of the budget free.
 *
 * Both for one thread at a time, without a lock.
 */
#pragma once

struct tier;

/* One turn of the demoter: scan what is due, demote what the budget asks for. */
void tier_step(struct tier *tier);
/* The demoter's thread; arg: the tier. */
void *demoter_run(void *arg);
