/* names/shares.h - shares of a pool's files and directories: set, asked for, and added up.
 *
 * Thread-safety: all functions. 0 or -errno; those of the store are -EIO and -ENOSPC.
 */
#pragma once

#include "engine/quota.h"
#include "names/share.h"

struct ns;
struct record_batch;
struct tenant;
struct tree_inode;

struct shares_change {
	enum share_id id;
	uint64_t value; /* SHARE_NONE: nothing is said any more */
};

/* All of it or nothing, durably. promisable: bytes that all dram.min of the pool together may promise
 * (tenant_promisable()).
 * -EINVAL: dram.max would be below dram.min, or below what is promised to what lives there and is kept free.
 * -EDQUOT: more would be promised than there is, or than a dram.max above it allows. *ret_left has how much may be
 * promised here. -ENOENT. */
int shares_set(struct ns *ns, uint64_t ino, const struct shares_change *change, size_t count, uint64_t promisable,
	       uint64_t *ret_left);
/* Caller holds ns->lock: what is promised to the inode and what is below it can be promised below that directory as
 * well, while `other` (NULL: none) goes to other_dir. -EDQUOT: it cannot; -ENOMEM. */
int shares_may_move(struct ns *ns, const struct tree_inode *inode, struct tree_inode *dir,
		    const struct tree_inode *other, struct tree_inode *other_dir);
/* Caller holds ns->lock: what a new file in that directory gets, of the defaults of the mount those that no share above
 * it says anything of. */
struct share shares_of_new(const struct ns *ns, const struct tree_inode *dir);

/* What of the defaults a RAM file gets that comes to live in a directory: those that neither it nor anything above it
 * there says anything of. So nobody gets rid of what held for it by a rename. */
struct shares_given {
	struct share *share; /* all that it has then; NULL: it gets nothing */
	struct tenant *tenant;
};
/* Within a change, as the next two: adds it to the batch. -ENOMEM. */
int shares_expect(struct ns *ns, const struct tree_inode *inode, const struct tree_inode *dir,
		  struct record_batch *batch, struct shares_given *ret);
/* It lives there now: it is placed. */
void shares_give(struct ns *ns, struct tree_inode *inode, struct shares_given *given);
void shares_forget(struct shares_given *given);
/* A directory that comes from one directory into the other leaves something behind that holds for what lies in it, and
 * of which the mount has a default. */
bool shares_leave_behind(const struct ns *ns, const struct tree_inode *moved, const struct tree_inode *from,
			 const struct tree_inode *to);

/* What was set for it. -ENOENT: there is no such inode. */
int shares_get(struct ns *ns, uint64_t ino, struct share *ret);
/* What holds for it: of its own and of what is set for the directories above it the least of what bounds. dram.min and
 * dram.weight are its own; store is what the nearest one says, else the pool's own. */
int shares_effective(struct ns *ns, uint64_t ino, struct share *ret);
/* What it has of the store, and what is left of it there: of a directory what is below it. -ENOENT. */
int shares_usage(struct ns *ns, uint64_t ino, struct quota_figures *ret);
/* Bytes that are promised to all. */
uint64_t shares_promised(struct ns *ns);
