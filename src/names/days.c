/* What was written in the last day, kept in the pool. days.h has the rules. */
#include "names/days.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/quota.h"
#include "engine/tenant.h"
#include "names/inode.h"

#define SAVE_NS (300 * NS_PER_S)

/* Under the lock. */
static bool day_of(struct ns *ns, struct tenant *tenant, bool all, struct record_day *ret)
{
	struct wear wear;
	uint64_t into_hour_ns;

	if (!quota_wear(ns->engine, tenant, all, &wear, &into_hour_ns))
		return false;
	*ret = (struct record_day){ .saved_s = ns_now().tv_sec, .into_hour_ns = into_hour_ns };
	memcpy(ret->bytes, wear.bytes, sizeof(ret->bytes));
	return true;
}

static bool has_day(const struct tree_inode *inode)
{
	return inode->share && inode->share->value[SHARE_WRITE_DAY] != SHARE_NONE;
}

/* Within a change, which drops the lock. Afterwards the tenant may be another one: what is not there counts as saved
 * only if it was. */
static int save_one(struct ns *ns, uint64_t ino)
{
	struct record_batch batch = { .count = 0 };
	struct tree_inode *inode = tree_inode(&ns->tree, ino);
	struct record_day day;
	int err;

	if (!inode || !inode->tenant || !day_of(ns, inode->tenant, false, &day))
		return 0;
	record_batch_day(&batch, ino, &day);
	err = ns_change_commit(ns, &batch, false);
	inode = tree_inode(&ns->tree, ino);
	if (err && inode && inode->tenant)
		quota_wear_unsaved(ns->engine, inode->tenant);
	return err;
}

void days_save(struct ns *ns)
{
	CLEANUP_FREE uint64_t *list = NULL;
	size_t count;
	int err = 0;

	LOCK_SCOPE(&ns->lock);
	if (!ns->share_count)
		return;
	count = ns_list_inodes(ns, has_day, &list);
	for (size_t i = 0; i < count && !err; i++) {
		ns_change_begin(ns); /* for each: whoever changes a name waits for one write */
		err = save_one(ns, list[i]);
		ns_change_end(ns);
	}
	if (err)
		log_warn("what was written in the last hours could not be saved yet (%s); it will be tried again",
			 strerror(-err));
}

void days_batch(struct ns *ns, const struct tree_inode *inode, const struct share *share, struct record_batch *batch)
{
	struct record_day day;

	if (share->value[SHARE_WRITE_DAY] == SHARE_NONE)
		record_batch_day(batch, inode->ino, NULL);
	else if (inode->tenant && day_of(ns, inode->tenant, true, &day))
		record_batch_day(batch, inode->ino, &day);
}

/* Of a time of day that has gone back nothing is known: as if no time had passed. */
static uint64_t passed_ns(int64_t from_s, int64_t to_s)
{
	const int64_t most_s = 2 * WEAR_HOURS * 3600;
	int64_t passed_s = to_s > from_s ? to_s - from_s : 0;

	return (uint64_t)(passed_s < most_s ? passed_s : most_s) * NS_PER_S;
}

void days_resume(struct ns *ns, struct tree_inode *inode, const struct record_day *day)
{
	struct wear wear = { 0 };

	memcpy(wear.bytes, day->bytes, sizeof(wear.bytes));
	quota_set_wear(ns->engine, inode->tenant, &wear, day->into_hour_ns + passed_ns(day->saved_s, ns_now().tv_sec));
}

void days_resume_full(struct ns *ns, struct tree_inode *inode)
{
	struct wear wear = { 0 };

	for (size_t i = 0; i < sizeof(wear.bytes) / sizeof(wear.bytes[0]); i++)
		wear.bytes[i] = inode->share->value[SHARE_WRITE_DAY] / WEAR_HOURS + 1;
	quota_set_wear(ns->engine, inode->tenant, &wear, 0);
}

/* --- the thread -------------------------------------------------------------------------------------------------- */

static void *keep(void *arg)
{
	struct ns *ns = arg;

	lock_get(&ns->lock);
	while (!ns->days_stop) {
		uint64_t next_ns = clock_ns() + SAVE_NS;

		while (!ns->days_stop && !lock_wait_until(&ns->lock, &ns->days_cond, next_ns))
			;
		lock_put(&ns->lock);
		days_save(ns);
		lock_get(&ns->lock);
	}
	lock_put(&ns->lock);
	return NULL;
}

int days_start(struct ns *ns)
{
	int err = -pthread_create(&ns->days_thread, NULL, keep, ns);

	ns->days_run = !err;
	if (!err)
		pthread_setname_np(ns->days_thread, "tierfs-days");
	return err;
}

void days_stop(struct ns *ns)
{
	if (!ns->days_run)
		return;
	lock_get(&ns->lock);
	ns->days_stop = true;
	pthread_cond_signal(&ns->days_cond);
	lock_put(&ns->lock);
	pthread_join(ns->days_thread, NULL);
	ns->days_run = false;
}
