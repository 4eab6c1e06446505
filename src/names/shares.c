/* What is promised. A directory's dram.min is for what is below it, so what is promised within it counts once: the
 * promise of a directory is its own minimum, or the sum of the promises in it if that is more. */
#include "names/shares.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/tenant.h"
#include "names/days.h"
#include "names/devices.h"
#include "names/inode.h"
#include "names/placed.h"

static uint64_t add(uint64_t a, uint64_t b)
{
	return a > SHARE_NONE - 1 - b ? SHARE_NONE - 1 : a + b;
}

/* --- what is promised -------------------------------------------------------------------------------------------- */

/* A node of the tree of those that have a share, made anew for each sum: there are few, and it is asked for rarely. */
struct promise {
	uint64_t own, below;
	uint64_t most; /* dram.max */
	size_t depth;
	const struct tree_inode *inode;
	struct promise *up; /* the nearest one above it */
};

struct promises {
	struct promise *list;
	size_t count;
	uint64_t sum;  /* to all */
	uint64_t over; /* of it, what is beyond what a dram.max holds */
};

/* What if. */
struct supposed {
	const struct tree_inode *changed; /* that has another share */
	const struct share *share;
	const struct tree_inode *moved[2]; /* that live elsewhere */
	struct tree_inode *to[2];
};

static struct tree_inode *above(struct ns *ns, const struct supposed *supposed, const struct tree_inode *inode)
{
	for (int i = 0; i < 2; i++)
		if (inode == supposed->moved[i])
			return supposed->to[i];
	return placed_in(ns, inode);
}

static int deeper_first(const void *a, const void *b)
{
	const struct promise *x = a, *y = b;

	return (x->depth < y->depth) - (x->depth > y->depth);
}

static struct promise *find_promise(const struct promises *promises, const struct tree_inode *inode)
{
	for (size_t i = 0; i < promises->count; i++)
		if (promises->list[i].inode == inode)
			return &promises->list[i];
	return NULL;
}

static uint64_t promise_of(const struct promise *promise)
{
	return promise->own > promise->below ? promise->own : promise->below;
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* Of its dram.max a part is kept free. */
static uint64_t held_by(const struct promise *promise)
{
	return promise->most == SHARE_NONE ? SHARE_NONE : less(promise->most, tenant_kept_of(promise->most));
}

/* Under the lock. */
static void list_promises(struct ns *ns, const struct supposed *supposed, struct promises *promises)
{
	struct tree_inode *inode, *next;

	HASH_ITER(hh, ns->tree.inodes, inode, next) {
		const struct share *share = inode == supposed->changed ? supposed->share : inode->share;
		struct promise *promise = &promises->list[promises->count];

		/* Of a file without a minimum nothing is promised, to it or below it. */
		if (!share || (S_ISREG(inode->rec.mode) && inode != supposed->changed &&
			       share->value[SHARE_DRAM_MIN] == SHARE_NONE))
			continue;
		*promise = (struct promise){ .inode = inode, .most = share->value[SHARE_DRAM_MAX] };
		if (share->value[SHARE_DRAM_MIN] != SHARE_NONE)
			promise->own = share->value[SHARE_DRAM_MIN];
		for (struct tree_inode *up = above(ns, supposed, inode); up; up = above(ns, supposed, up))
			promise->depth++;
		promises->count++;
	}
	qsort(promises->list, promises->count, sizeof(*promises->list), deeper_first);
}

/* Under the lock: what would be promised. ret->list is to be freed. */
static int sum_promises(struct ns *ns, const struct supposed *supposed, struct promises *ret)
{
	struct promises promises = { .list = calloc(ns->share_count + 1, sizeof(*promises.list)) };

	if (!promises.list)
		return -ENOMEM;
	list_promises(ns, supposed, &promises);
	for (size_t i = 0; i < promises.count; i++) {
		struct promise *promise = &promises.list[i];

		for (struct tree_inode *dir = above(ns, supposed, promise->inode); dir && !promise->up;
		     dir = above(ns, supposed, dir))
			promise->up = find_promise(&promises, dir);
		if (promise->up)
			promise->up->below = add(promise->up->below, promise_of(promise));
		else
			promises.sum = add(promises.sum, promise_of(promise));
		if (promise->below > held_by(promise))
			promises.over = add(promises.over, promise->below - held_by(promise));
	}
	*ret = promises;
	return 0;
}

/* What may be promised to that one, the others having what they have: what is above it leaves so much to it, or its
 * dram.max allows so much. */
static uint64_t left_for(const struct promises *promises, const struct promise *promise, uint64_t promisable)
{
	uint64_t left = promisable, others = less(promises->sum, promise_of(promise));

	if (promise->up) {
		left = left_for(promises, promise->up, promisable);
		left = left < held_by(promise->up) ? left : held_by(promise->up);
		others = less(promise->up->below, promise_of(promise));
	}
	left = less(left, others);
	return left < promise->most ? left : promise->most;
}

uint64_t shares_promised(struct ns *ns)
{
	struct promises promises;

	LOCK_SCOPE(&ns->lock);
	if (sum_promises(ns, &(struct supposed){ 0 }, &promises))
		return SHARE_NONE - 1;
	free(promises.list);
	return promises.sum;
}

/* --- setting ----------------------------------------------------------------------------------------------------- */

static uint64_t minimum(const struct share *share)
{
	return share && share->value[SHARE_DRAM_MIN] != SHARE_NONE ? share->value[SHARE_DRAM_MIN] : 0;
}

/* Under the lock. What was promised under a larger budget, or came by a rename, stays and may become less. */
static int check(struct ns *ns, struct tree_inode *inode, const struct share *share, uint64_t promisable,
		 uint64_t *ret_left)
{
	uint64_t max_before = inode->share ? inode->share->value[SHARE_DRAM_MAX] : SHARE_NONE;
	struct share without = *share;
	struct promises promises;
	const struct promise *own;
	int err;

	if (!share_makes_sense(share))
		return -EINVAL;
	without.value[SHARE_DRAM_MIN] = SHARE_NONE;
	err = sum_promises(ns, &(struct supposed){ .changed = inode, .share = &without }, &promises);
	if (err)
		return err;
	own = find_promise(&promises, inode);
	*ret_left = left_for(&promises, own, promisable);
	if (own->below > held_by(own) && own->most < max_before)
		err = -EINVAL;
	else if (minimum(share) > *ret_left && minimum(share) > own->below && minimum(share) > minimum(inode->share))
		err = -EDQUOT;
	free(promises.list);
	return err;
}

/* Within a change. */
static int put(struct ns *ns, struct tree_inode *inode, const struct share *share)
{
	struct record_batch batch = { .count = 0 };
	struct share *kept = NULL, *old = inode->share;
	struct tenant *tenant = NULL, *old_tenant = inode->tenant;
	int err = 0;

	if (!share_is_nothing(share)) {
		kept = malloc(sizeof(*kept));
		tenant = calloc(1, sizeof(*tenant));
		err = kept && tenant ? 0 : -ENOMEM;
	}
	if (!err) {
		record_batch_share(&batch, inode->ino, share);
		if (share->value[SHARE_STORE] != SHARE_NONE)
			record_batch_super(&batch, ns->next_ino, true);
		days_batch(ns, inode, share, &batch);
		err = ns_change_commit(ns, &batch, true);
	}
	if (err) {
		free(kept);
		free(tenant);
		return err;
	}
	if (kept)
		*kept = *share;
	if (tenant)
		tenant->before = old_tenant;
	ns->share_count += kept != NULL;
	ns->share_count -= old != NULL;
	ns->min_count += kept && kept->value[SHARE_DRAM_MIN] != SHARE_NONE;
	ns->min_count -= old && old->value[SHARE_DRAM_MIN] != SHARE_NONE;
	inode->share = kept;
	inode->tenant = tenant;
	ns->many |= kept && kept->value[SHARE_STORE] != SHARE_NONE;
	placed_all(ns);
	devices_all(ns);
	free(old);
	free(old_tenant);
	return 0;
}

int shares_set(struct ns *ns, uint64_t ino, const struct shares_change *change, size_t count, uint64_t promisable,
	       uint64_t *ret_left)
{
	struct tree_inode *inode;
	struct share share;
	int err;

	*ret_left = 0;
	LOCK_SCOPE(&ns->lock);
	ns_change_begin(ns);
	err = ns_find(ns, ino, &inode);
	if (err) {
		ns_change_end(ns);
		return err;
	}
	share = inode->share ? *inode->share : share_nothing();
	for (size_t i = 0; i < count; i++)
		share_say(&share, change[i].id, change[i].value);
	err = check(ns, inode, &share, promisable, ret_left);
	if (!err) {
		ns_keep(inode);
		err = put(ns, inode, &share);
		ns_change_end(ns);
		ns_release(ns, inode);
		return err;
	}
	ns_change_end(ns);
	return err;
}

/* --- moving ------------------------------------------------------------------------------------------------------ */

int shares_may_move(struct ns *ns, const struct tree_inode *inode, struct tree_inode *dir,
		    const struct tree_inode *other, struct tree_inode *other_dir)
{
	const struct supposed moved = { .moved = { inode, other }, .to = { dir, other_dir } };
	uint64_t promisable = tenant_promisable(ns->engine);
	struct promises before, after;
	int err;

	if (!ns->min_count) /* nothing is promised to anybody */
		return 0;
	err = sum_promises(ns, &(struct supposed){ 0 }, &before);
	if (err)
		return err;
	free(before.list);
	err = sum_promises(ns, &moved, &after);
	if (err)
		return err;
	free(after.list);
	return (after.sum > promisable && after.sum > before.sum) || after.over > before.over ? -EDQUOT : 0;
}

/* --- defaults ---------------------------------------------------------------------------------------------------- */

struct share shares_of_new(const struct ns *ns, const struct tree_inode *dir)
{
	struct share share = ns->defaults;

	for (; dir; dir = placed_in(ns, dir))
		for (unsigned int i = 0; i < SHARE_COUNT && dir->share; i++)
			if (dir->share->value[i] != SHARE_NONE)
				share.value[i] = SHARE_NONE;
	for (unsigned int i = 0; i < SHARE_COUNT; i++)
		share.by_default[i] = share.value[i] != SHARE_NONE;
	return share;
}

int shares_expect(struct ns *ns, const struct tree_inode *inode, const struct tree_inode *dir,
		  struct record_batch *batch, struct shares_given *ret)
{
	struct share given = shares_of_new(ns, dir), share = inode->share ? *inode->share : share_nothing();
	bool more = false;

	*ret = (struct shares_given){ NULL, NULL };
	if (!S_ISREG(inode->rec.mode))
		return 0;
	if (minimum(&share) > given.value[SHARE_DRAM_MAX])
		given.value[SHARE_DRAM_MAX] = SHARE_NONE; /* what was promised to it goes first */
	for (unsigned int i = 0; i < SHARE_COUNT; i++) {
		if (given.value[i] == SHARE_NONE || share.value[i] != SHARE_NONE)
			continue;
		share.value[i] = given.value[i];
		share.by_default[i] = true;
		more = true;
	}
	if (!more)
		return 0;
	ret->share = malloc(sizeof(*ret->share));
	ret->tenant = inode->tenant ? NULL : calloc(1, sizeof(*ret->tenant));
	if (!ret->share || (!ret->tenant && !inode->tenant)) {
		shares_forget(ret);
		return -ENOMEM;
	}
	*ret->share = share;
	record_batch_share(batch, inode->ino, &share);
	return 0;
}

void shares_give(struct ns *ns, struct tree_inode *inode, struct shares_given *given)
{
	free(inode->share);
	ns->share_count += !inode->share;
	inode->share = given->share;
	if (given->tenant) {
		inode->tenant = given->tenant;
		placed_one(ns, inode);
	} else {
		placed_again(ns, inode);
	}
	*given = (struct shares_given){ NULL, NULL };
}

void shares_forget(struct shares_given *given)
{
	free(given->share);
	free(given->tenant);
	*given = (struct shares_given){ NULL, NULL };
}

bool shares_leave_behind(const struct ns *ns, const struct tree_inode *moved, const struct tree_inode *from,
			 const struct tree_inode *to)
{
	struct share before = shares_of_new(ns, from), after = shares_of_new(ns, to);

	if (!S_ISDIR(moved->rec.mode) || !moved->entry_count)
		return false;
	for (unsigned int i = 0; i < SHARE_COUNT; i++)
		if (before.value[i] == SHARE_NONE && after.value[i] != SHARE_NONE &&
		    (!moved->share || moved->share->value[i] == SHARE_NONE))
			return true;
	return false;
}

/* --- asking ------------------------------------------------------------------------------------------------------ */

int shares_get(struct ns *ns, uint64_t ino, struct share *ret)
{
	struct tree_inode *inode;
	int err;

	LOCK_SCOPE(&ns->lock);
	err = ns_find(ns, ino, &inode);
	if (!err)
		*ret = inode->share ? *inode->share : share_nothing();
	return err;
}

static bool is_bound(enum share_id id)
{
	return id != SHARE_DRAM_MIN && id != SHARE_DRAM_WEIGHT && id != SHARE_STORE;
}

int shares_usage(struct ns *ns, uint64_t ino, struct quota_figures *ret)
{
	struct tree_inode *inode, *at;
	int err;

	LOCK_SCOPE(&ns->lock);
	err = ns_find(ns, ino, &inode);
	for (at = err ? NULL : inode; at && !at->tenant; at = placed_in(ns, at))
		;
	if (!err)
		quota_figures(ns->engine, at ? at->tenant : NULL, ret);
	return err;
}

int shares_effective(struct ns *ns, uint64_t ino, struct share *ret)
{
	struct tree_inode *inode;
	int err;

	LOCK_SCOPE(&ns->lock);
	err = ns_find(ns, ino, &inode);
	if (err)
		return err;
	*ret = inode->share ? *inode->share : share_nothing();
	for (struct tree_inode *up = placed_in(ns, inode); up; up = placed_in(ns, up))
		for (unsigned int i = 0; i < SHARE_COUNT && up->share; i++)
			if (is_bound((enum share_id)i) && up->share->value[i] < ret->value[i])
				ret->value[i] = up->share->value[i];
	ret->value[SHARE_STORE] = devices_wanted(ns, inode);
	return 0;
}
