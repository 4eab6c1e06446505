/* names/clone.c - see names.h and inode.h: the content of one RAM file for another one.
 *
 * The order is what a crash may leave: first keys beyond the end of the new file, which mean nothing; then all of them
 * durable; then the size, in one durable record.
 */
#include <errno.h>

#include "cold/stores.h"
#include "engine/clone.h"
#include "engine/file.h"
#include "engine/quota.h"
#include "engine/ramfile.h"
#include "engine/resize.h"
#include "names/inode.h"
#include "names/names.h"
#include "names/record.h"
#include "names/tree.h"

/* Marks the file busy, so that its size stays what it is. */
static int claim_empty(struct ns *ns, uint64_t ino, struct tree_inode **ret)
{
	struct tree_inode *inode;
	int err;

	LOCK_SCOPE(&ns->lock);
	err = ns_find(ns, ino, &inode);
	if (err < 0)
		return err;
	ns_wait_busy(ns, inode);
	if (inode->rec.size_bytes || inode->rec.lost)
		return -ENOTEMPTY;
	inode->busy = true;
	*ret = inode;
	return 0;
}

/* After an error the old record is there, or will be with the next change: what was written of the new one does not
 * count. */
static int save_size(struct ns *ns, struct tree_inode *inode, const struct ramfile_cloned *cloned)
{
	struct record_inode rec, old;
	int err;

	LOCK_SCOPE(&ns->lock);
	ns_change_begin(ns);
	rec = old = inode->rec;
	rec.size_bytes = cloned->size_bytes;
	rec.stored_bytes = cloned->shared_bytes;
	rec.mtime = rec.ctime = ns_now();
	err = ns_change_record(ns, inode, &rec, true);
	if (err < 0)
		ns_change_record(ns, inode, &old, true);
	ns_change_end(ns);
	return err;
}

/* What is resident comes on top of it: that is known, and asked for, when it is stored. */
static int check_room(struct ramfile *from, struct ramfile *to)
{
	struct ramfile_figures figures;

	ramfile_figures(from, &figures);
	if (figures.stored_bytes <= quota_left(to))
		return 0;
	quota_refuse(to, figures.stored_bytes);
	return -EDQUOT;
}

/* From here on the table of the new file says what is stored of it. */
static void end_taking(struct ramfile *to, uint64_t taken)
{
	LOCK_SCOPE(&to->lock);

	quota_settle(to, taken);
}

/* It stays empty until its size is saved, and counts with it from now on. */
static int expect_size(struct ns *ns, struct tree_inode *inode, uint64_t size_bytes)
{
	if (size_bytes > ns->file_max_bytes)
		return -EFBIG;
	LOCK_SCOPE(&ns->lock);
	return bounds_resize(ns, inode, size_bytes);
}

/* Without the lock; both files are open, the inode of the new one is busy. */
static int clone_content(struct ns *ns, struct ramfile *from, struct tree_inode *inode, file_progress_fn *progress,
			 void *arg, struct ramfile_cloned *ret)
{
	struct store *store = ns->store;
	struct ramfile *to = inode->file;
	uint64_t taken = 0;
	int err = ramfile_truncate(to, 0); /* of one that failed half way, and so is the next */

	if (err == 0)
		err = store->ops->remove(store, inode->ino, 0, UINT64_MAX);
	if (err == 0)
		err = ramfile_sync(from); /* what is near goes down while nobody waits for a block */
	if (err == 0)
		err = check_room(from, to);
	if (err == 0)
		err = stores_clone_begin(store, from->ino, inode->ino);
	if (err == 0) {
		err = ramfile_clone(from, inode->ino, progress, arg, ret);
		stores_clone_end(store, from->ino, inode->ino);
	}
	if (err == 0)
		err = expect_size(ns, inode, ret->size_bytes); /* it may have grown, or become shorter, meanwhile */
	if (err == 0)
		err = ramfile_sync(to);
	if (err == 0)
		err = quota_take(to, QUOTA_CALL, ret->shared_bytes, 0, &taken);
	if (err == 0)
		err = ramfile_adopt(to, ret->size_bytes);
	end_taking(to, taken);
	if (err == 0)
		err = save_size(ns, inode, ret);
	if (err < 0 && ramfile_truncate(to, 0) == 0)
		store->ops->remove(store, inode->ino, 0, UINT64_MAX);
	return err;
}

/* Both are open. */
static int clone_open(struct ns *ns, struct ramfile *from, uint64_t to, file_progress_fn *progress, void *arg,
		      struct ramfile_cloned *ret)
{
	struct tree_inode *inode;
	int err = claim_empty(ns, to, &inode);

	if (err < 0)
		return err;
	err = expect_size(ns, inode, file_size(from));
	if (err == 0)
		err = clone_content(ns, from, inode, progress, arg, ret);
	lock_get(&ns->lock);
	bounds_resize(ns, inode, inode->rec.size_bytes);
	ns_set_idle(ns, inode);
	lock_put(&ns->lock);
	return err;
}

int ns_clone(struct ns *ns, uint64_t from, uint64_t to, file_progress_fn *progress, void *arg,
	     struct ramfile_cloned *ret)
{
	struct ramfile *source, *target;
	int err;

	if (from == to)
		return -EINVAL;
	err = ns_open(ns, from, &source);
	if (err < 0)
		return err;
	err = ns_open(ns, to, &target);
	if (err == 0) {
		err = clone_open(ns, source, to, progress, arg, ret);
		ns_put(ns, to);
	}
	ns_put(ns, from);
	return err;
}
