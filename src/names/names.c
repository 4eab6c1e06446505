/* names/names.c - see names.h and inode.h: lookups, attributes, and everything that changes a directory. */
#include "names/names.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cold/stores.h"
#include "names/content.h"
#include "names/devices.h"
#include "names/inode.h"
#include "names/outcome.h"
#include "names/placed.h"
#include "names/record.h"
#include "names/shares.h"
#include "names/tree.h"

/* ---- looking ---- */

/* Drops the lock for the figures of the RAM file. */
static void stat_full(struct ns *ns, struct tree_inode *inode, struct stat *ret)
{
	struct ramfile *file = inode->file;

	ns_stat(ns, inode, ret);
	if (!file)
		return;
	ns_keep(inode);
	lock_put(&ns->lock);
	ns_stat_figures(file, ret);
	lock_get(&ns->lock);
	ns_release(ns, inode);
}

static int check_name(const char *name)
{
	if (strlen(name) > NAME_MAX)
		return -ENAMETOOLONG;
	return *name ? 0 : -ENOENT;
}

static int find_entry(struct ns *ns, uint64_t parent, const char *name, struct tree_inode **ret_dir,
		      struct tree_entry **ret)
{
	int err = check_name(name);

	if (err == 0)
		err = ns_find_dir(ns, parent, ret_dir);
	if (err < 0)
		return err;
	*ret = tree_entry(&ns->tree, *ret_dir, name);
	return *ret ? 0 : -ENOENT;
}

int ns_lookup(struct ns *ns, uint64_t parent, const char *name, struct stat *ret)
{
	struct tree_entry *entry;
	struct tree_inode *dir;
	int err;

	LOCK_SCOPE(&ns->lock);
	err = find_entry(ns, parent, name, &dir, &entry);
	if (err == 0)
		stat_full(ns, entry->child, ret);
	return err;
}

int ns_getattr(struct ns *ns, uint64_t ino, struct stat *ret)
{
	struct tree_inode *inode;
	int err;

	LOCK_SCOPE(&ns->lock);
	err = ns_find(ns, ino, &inode);
	if (err == 0)
		stat_full(ns, inode, ret);
	return err;
}

int ns_remember(struct ns *ns, uint64_t ino)
{
	struct tree_inode *inode;
	int err;

	LOCK_SCOPE(&ns->lock);
	err = ns_find(ns, ino, &inode);
	if (err == 0)
		inode->lookups++;
	return err;
}

void ns_forget(struct ns *ns, uint64_t ino, uint64_t count)
{
	struct tree_inode *inode;

	LOCK_SCOPE(&ns->lock);
	if (ns_find(ns, ino, &inode) < 0)
		return;
	if (inode->inherited && count >= inode->lookups)
		inode = ns_end_inheritance(ns, inode);
	if (!inode)
		return;
	inode->lookups -= count < inode->lookups ? count : inode->lookups;
	ns_reap_if_unused(ns, inode);
}

/* ---- requests ---- */

bool ns_serve(struct ns *ns, uint64_t request, uint64_t *ret_ino)
{
	if (outcomes_find(&ns->outcomes, request, ret_ino))
		return true;
	outcomes_serve(request);
	return false;
}

/* ---- attributes ---- */

static void apply_setattr(struct record_inode *rec, const struct ns_setattr *change)
{
	rec->ctime = change->set_ctime ? change->ctime : ns_now();
	if (change->set_mode)
		rec->mode = (rec->mode & S_IFMT) | (change->mode & 07777);
	if (change->set_uid)
		rec->uid = change->uid;
	if (change->set_gid)
		rec->gid = change->gid;
	if (change->set_atime)
		rec->atime = change->atime;
	if (change->set_mtime)
		rec->mtime = change->mtime;
}

int ns_setattr(struct ns *ns, uint64_t ino, const struct ns_setattr *change, struct stat *ret)
{
	struct tree_inode *inode;
	struct record_inode rec;
	int err = 0;

	if (change->set_size)
		err = ns_resize(ns, ino, change->size_bytes, false);
	if (err < 0)
		return err;
	LOCK_SCOPE(&ns->lock);
	ns_change_begin(ns);
	err = ns_find(ns, ino, &inode);
	if (err == 0) {
		ns_keep(inode);
		rec = inode->rec;
		apply_setattr(&rec, change);
		err = bounds_expect(ns, rec.uid);
		if (err == 0)
			err = ns_change_record(ns, inode, &rec, false);
		if (err == 0)
			bounds_pass(ns, inode, rec.uid);
		ns_change_end(ns);
		if (err == 0)
			stat_full(ns, inode, ret);
		ns_release(ns, inode);
	} else {
		ns_change_end(ns);
	}
	return err;
}

/* ---- making ---- */

static void touch_dir(struct record_inode *rec, int nlink_change)
{
	rec->mtime = rec->ctime = ns_now();
	rec->nlink = (uint32_t)((int)rec->nlink + nlink_change);
}

static struct record_inode new_record(const struct tree_inode *dir, mode_t mode, uid_t uid, gid_t gid)
{
	struct timespec now = ns_now();
	struct record_inode rec = {
		.mode = mode,
		.uid = uid,
		.gid = gid,
		.nlink = S_ISDIR(mode) ? 2 : 1,
		.atime = now,
		.mtime = now,
		.ctime = now,
	};

	if (dir->rec.mode & S_ISGID) {
		rec.gid = dir->rec.gid;
		if (S_ISDIR(mode))
			rec.mode |= S_ISGID;
	}
	return rec;
}

/* Within a change: a place for a name in a directory that still is one. */
static int check_place(struct ns *ns, uint64_t parent, const char *name, struct tree_inode **ret_dir)
{
	struct tree_entry *entry;
	int err = find_entry(ns, parent, name, ret_dir, &entry);

	if (err == 0)
		return -EEXIST;
	if (err == -ENOENT && check_name(name) == 0 && *ret_dir && (*ret_dir)->rec.nlink > 0)
		return 0;
	return err;
}

static int create_in(struct ns *ns, struct tree_inode *dir, const char *name, const struct record_inode *rec,
		     struct tree_inode **ret)
{
	struct record_batch batch = { .count = 0 };
	struct record_inode dir_rec = dir->rec;
	struct tree_inode *inode = NULL;
	struct tree_entry *entry = NULL;
	struct shares_given given = { NULL, NULL };
	uint64_t ino = ns->next_ino;
	unsigned int store = S_ISREG(rec->mode) ? devices_begin(ns, dir) : 0;
	int err = tree_inode_add(&ns->tree, ino, rec, &inode);

	if (err == 0 && store)
		err = stores_begun(ns->store, ino, store);
	if (err == 0)
		err = tree_entry_add(&ns->tree, dir, name, inode, &entry);
	if (err == 0)
		err = shares_expect(ns, inode, dir, &batch, &given);
	if (err < 0)
		goto fail;
	inode->lookups = 1;
	touch_dir(&dir_rec, S_ISDIR(rec->mode) ? 1 : 0);
	record_batch_super(&batch, ino + 1, ns->many);
	record_batch_inode(&batch, ino, rec);
	record_batch_inode(&batch, dir->ino, &dir_rec);
	record_batch_entry(&batch, dir->ino, name, ino);
	if (store)
		record_batch_place(&batch, ino, store);
	outcomes_add(&ns->outcomes, &batch, ino);
	ns->next_ino = ino + 1; /* also after an error: a record may be there all the same */
	err = ns_change_commit(ns, &batch, false);
	if (err < 0)
		goto fail;
	dir->rec = dir_rec;
	tree_entry_show(entry);
	if (given.share)
		shares_give(ns, inode, &given);
	bounds_add(ns, inode); /* who makes it is expected, so that it cannot fail */
	devices_again(ns, inode);
	*ret = inode;
	return 0;
fail:
	shares_forget(&given);
	if (store) { /* what was begun ends later: nobody else gets the number */
		ns->next_ino = ino + 1;
		stores_forget(ns->store, ino);
	}
	tree_entry_remove(&ns->tree, entry);
	if (inode)
		tree_inode_take(&ns->tree, inode);
	tree_inode_free(inode);
	return err;
}

int ns_create(struct ns *ns, uint64_t parent, const char *name, mode_t mode, uid_t uid, gid_t gid, struct stat *ret)
{
	struct tree_inode *dir = NULL, *inode;
	struct record_inode rec;
	int err;

	if (!S_ISREG(mode) && !S_ISDIR(mode))
		return -EPERM;
	LOCK_SCOPE(&ns->lock);
	ns_change_begin(ns);
	err = check_place(ns, parent, name, &dir);
	if (err == 0)
		err = bounds_may_add(ns, uid);
	if (err == 0) {
		rec = new_record(dir, mode, uid, gid);
		err = create_in(ns, dir, name, &rec, &inode);
	}
	if (err == 0)
		ns_stat(ns, inode, ret);
	ns_change_end(ns);
	return err;
}

static bool has_more_names(const struct tree_inode *inode)
{
	return S_ISREG(inode->rec.mode) && inode->rec.nlink > 1;
}

static int link_in(struct ns *ns, struct tree_inode *inode, struct tree_inode *dir, const char *name)
{
	struct record_batch batch = { .count = 0 };
	struct record_inode rec = inode->rec, dir_rec = dir->rec;
	struct tree_entry *entry;
	int err = tree_entry_add(&ns->tree, dir, name, inode, &entry);

	if (err < 0)
		return err;
	rec.nlink++;
	rec.ctime = ns_now();
	touch_dir(&dir_rec, 0);
	record_batch_inode(&batch, inode->ino, &rec);
	record_batch_inode(&batch, dir->ino, &dir_rec);
	record_batch_entry(&batch, dir->ino, name, inode->ino);
	outcomes_add(&ns->outcomes, &batch, inode->ino);
	err = ns_change_commit(ns, &batch, false);
	if (err < 0) {
		tree_entry_remove(&ns->tree, entry);
		return err;
	}
	inode->rec.nlink = rec.nlink;
	inode->rec.ctime = rec.ctime;
	dir->rec = dir_rec;
	tree_entry_show(entry);
	return 0;
}

int ns_link(struct ns *ns, uint64_t ino, uint64_t parent, const char *name, struct stat *ret)
{
	struct tree_inode *dir = NULL, *inode;
	int err;

	LOCK_SCOPE(&ns->lock);
	ns_change_begin(ns);
	err = ns_find(ns, ino, &inode);
	if (err == 0 && S_ISDIR(inode->rec.mode))
		err = -EPERM;
	if (err == 0 && inode->rec.nlink == 0)
		err = -ENOENT; /* its removal is promised to the store already */
	if (err == 0 && inode->rec.nlink == UINT32_MAX)
		err = -EMLINK;
	if (err == 0)
		err = check_place(ns, parent, name, &dir);
	if (err == 0 && !placed_alike(ns, dir, placed_in(ns, inode)))
		err = -EXDEV; /* all its names are in one tenant */
	if (err == 0)
		err = link_in(ns, inode, dir, name);
	if (err == 0)
		ns_keep(inode);
	ns_change_end(ns);
	if (err == 0) {
		stat_full(ns, inode, ret);
		ns_release(ns, inode);
	}
	return err;
}

/* ---- removing ---- */

/* What becomes of an inode that loses a name. */
static void drop_link(struct record_inode *rec)
{
	rec->nlink = S_ISDIR(rec->mode) ? 0 : rec->nlink - 1;
	rec->ctime = ns_now();
}

static int remove_entry(struct ns *ns, struct tree_inode *dir, struct tree_entry *entry)
{
	struct record_batch batch = { .count = 0 };
	struct tree_inode *inode = entry->child;
	struct record_inode rec = inode->rec, dir_rec = dir->rec;
	int err;

	drop_link(&rec);
	touch_dir(&dir_rec, S_ISDIR(rec.mode) ? -1 : 0);
	record_batch_drop_entry(&batch, dir->ino, entry->key.name);
	record_batch_inode(&batch, inode->ino, &rec);
	record_batch_inode(&batch, dir->ino, &dir_rec);
	outcomes_add(&ns->outcomes, &batch, inode->ino);
	err = ns_change_commit(ns, &batch, false);
	if (err < 0)
		return err;
	if (!rec.nlink)
		placed_leave(ns, inode, dir);
	tree_entry_remove(&ns->tree, entry);
	inode->rec.nlink = rec.nlink;
	inode->rec.ctime = rec.ctime;
	dir->rec = dir_rec;
	if (rec.nlink) {
		placed_again(ns, inode);
		devices_again(ns, inode);
	}
	return 0;
}

static int check_removable(const struct tree_inode *inode, bool is_rmdir)
{
	if (S_ISDIR(inode->rec.mode) != is_rmdir)
		return is_rmdir ? -ENOTDIR : -EISDIR;
	return is_rmdir && inode->entry_count > 0 ? -ENOTEMPTY : 0;
}

static int ns_remove(struct ns *ns, uint64_t parent, const char *name, bool is_rmdir)
{
	struct tree_inode *dir, *inode = NULL;
	struct tree_entry *entry;
	int err;

	LOCK_SCOPE(&ns->lock);
	ns_change_begin(ns);
	err = find_entry(ns, parent, name, &dir, &entry);
	if (err == 0)
		err = check_removable(entry->child, is_rmdir);
	if (err == 0) {
		inode = entry->child;
		ns_keep(inode);
		err = remove_entry(ns, dir, entry);
	}
	ns_change_end(ns);
	if (inode)
		ns_release(ns, inode);
	return err;
}

int ns_unlink(struct ns *ns, uint64_t parent, const char *name)
{
	return ns_remove(ns, parent, name, false);
}

int ns_rmdir(struct ns *ns, uint64_t parent, const char *name)
{
	return ns_remove(ns, parent, name, true);
}

/* ---- renaming ---- */

struct rename {
	struct tree_inode *dir, *new_dir;
	struct tree_entry *from, *to; /* to: NULL if the new name is free */
	const char *name, *new_name;
};

static int rename_find(struct ns *ns, struct rename *r, uint64_t parent, uint64_t new_parent, unsigned int flags)
{
	int err = find_entry(ns, parent, r->name, &r->dir, &r->from);

	if (err < 0)
		return err;
	err = find_entry(ns, new_parent, r->new_name, &r->new_dir, &r->to);
	if (err == -ENOENT && check_name(r->new_name) == 0 && r->new_dir && r->new_dir->rec.nlink > 0) {
		r->to = NULL;
		return flags & RENAME_EXCHANGE ? -ENOENT : 0;
	}
	if (err == 0 && (flags & RENAME_NOREPLACE))
		err = -EEXIST;
	return err;
}

static int rename_check(const struct rename *r, unsigned int flags)
{
	bool from_dir = S_ISDIR(r->from->child->rec.mode), to_dir;

	/* A directory may not come to lie below itself. */
	if (from_dir && tree_is_below(r->new_dir, r->from->child))
		return -EINVAL;
	if (!r->to)
		return 0;
	to_dir = S_ISDIR(r->to->child->rec.mode);
	if (flags & RENAME_EXCHANGE)
		return to_dir && tree_is_below(r->dir, r->to->child) ? -EINVAL : 0;
	if (from_dir && !to_dir)
		return -ENOTDIR;
	if (!from_dir && to_dir)
		return -EISDIR;
	return to_dir && r->to->child->entry_count > 0 ? -ENOTEMPTY : 0;
}

static int rename_check_shares(struct ns *ns, const struct rename *r, unsigned int flags)
{
	struct tree_inode *other = flags & RENAME_EXCHANGE ? r->to->child : NULL;

	if (r->dir == r->new_dir || (r->to && r->to->child == r->from->child) || placed_alike(ns, r->dir, r->new_dir))
		return 0;
	if (has_more_names(r->from->child) || (other && has_more_names(other)))
		return -EXDEV;
	/* As for project quotas: a tool copies it then, and what it makes is new. */
	if (shares_leave_behind(ns, r->from->child, r->dir, r->new_dir) ||
	    (other && shares_leave_behind(ns, other, r->new_dir, r->dir)))
		return -EXDEV;
	return shares_may_move(ns, r->from->child, r->new_dir, other, r->dir);
}

/* What an inode gets that comes from one directory into another. */
static int expect_renamed(struct ns *ns, const struct tree_inode *inode, const struct tree_inode *from,
			  const struct tree_inode *to, struct record_batch *batch, struct shares_given *ret)
{
	*ret = (struct shares_given){ NULL, NULL };
	return from == to || placed_alike(ns, from, to) ? 0 : shares_expect(ns, inode, to, batch, ret);
}

static void place_renamed(struct ns *ns, struct tree_inode *inode, const struct tree_inode *from,
			  struct shares_given *given)
{
	if (given->share)
		shares_give(ns, inode, given); /* which places it */
	if (S_ISDIR(inode->rec.mode)) {
		placed_move(ns, inode, from);
		devices_move(ns, inode, from);
	} else {
		placed_again(ns, inode);
		devices_again(ns, inode);
	}
}

/* Records of both directories; the same one is written once. */
static void rename_batch_dirs(struct record_batch *batch, const struct rename *r, struct record_inode *dir_rec,
			      struct record_inode *new_dir_rec, int dir_links, int new_dir_links)
{
	*dir_rec = r->dir->rec;
	*new_dir_rec = r->new_dir->rec;
	if (r->dir == r->new_dir) {
		touch_dir(dir_rec, dir_links + new_dir_links);
		*new_dir_rec = *dir_rec;
		record_batch_inode(batch, r->dir->ino, dir_rec);
		return;
	}
	touch_dir(dir_rec, dir_links);
	touch_dir(new_dir_rec, new_dir_links);
	record_batch_inode(batch, r->dir->ino, dir_rec);
	record_batch_inode(batch, r->new_dir->ino, new_dir_rec);
}

static int rename_exchange(struct ns *ns, const struct rename *r)
{
	struct tree_inode *a = r->from->child, *b = r->to->child;
	int a_dir = S_ISDIR(a->rec.mode), b_dir = S_ISDIR(b->rec.mode);
	struct record_inode dir_rec, new_dir_rec;
	struct record_batch batch = { .count = 0 };
	struct shares_given given_a, given_b = { NULL, NULL };
	int err;

	err = expect_renamed(ns, a, r->dir, r->new_dir, &batch, &given_a);
	if (err == 0)
		err = expect_renamed(ns, b, r->new_dir, r->dir, &batch, &given_b);
	if (err < 0)
		goto fail;
	record_batch_entry(&batch, r->dir->ino, r->name, b->ino);
	record_batch_entry(&batch, r->new_dir->ino, r->new_name, a->ino);
	rename_batch_dirs(&batch, r, &dir_rec, &new_dir_rec, b_dir - a_dir, a_dir - b_dir);
	outcomes_add(&ns->outcomes, &batch, a->ino);
	err = ns_change_commit(ns, &batch, false);
	if (err < 0)
		goto fail;
	r->dir->rec = dir_rec;
	r->new_dir->rec = new_dir_rec;
	tree_entry_set_child(r->from, b);
	tree_entry_set_child(r->to, a);
	place_renamed(ns, a, r->dir, &given_a);
	place_renamed(ns, b, r->new_dir, &given_b);
	return 0;
fail:
	shares_forget(&given_a);
	shares_forget(&given_b);
	return err;
}

/* replaced is r->to's inode, or NULL. */
static int rename_move(struct ns *ns, const struct rename *r, struct tree_inode *replaced)
{
	struct tree_inode *inode = r->from->child;
	int moves_dir = S_ISDIR(inode->rec.mode), drops_dir = replaced && S_ISDIR(replaced->rec.mode);
	struct record_inode dir_rec, new_dir_rec, rec = inode->rec, replaced_rec;
	struct record_batch batch = { .count = 0 };
	struct tree_entry *entry = NULL;
	struct shares_given given;
	int err = expect_renamed(ns, inode, r->dir, r->new_dir, &batch, &given);

	if (err == 0 && !replaced)
		err = tree_entry_add(&ns->tree, r->new_dir, r->new_name, inode, &entry);
	if (err < 0) {
		shares_forget(&given);
		return err;
	}
	rec.ctime = ns_now();
	record_batch_drop_entry(&batch, r->dir->ino, r->name);
	record_batch_entry(&batch, r->new_dir->ino, r->new_name, inode->ino);
	record_batch_inode(&batch, inode->ino, &rec);
	rename_batch_dirs(&batch, r, &dir_rec, &new_dir_rec, -moves_dir, moves_dir - drops_dir);
	if (replaced) {
		replaced_rec = replaced->rec;
		drop_link(&replaced_rec);
		record_batch_inode(&batch, replaced->ino, &replaced_rec);
	}
	outcomes_add(&ns->outcomes, &batch, inode->ino);
	err = ns_change_commit(ns, &batch, false);
	if (err < 0) {
		tree_entry_remove(&ns->tree, entry);
		shares_forget(&given);
		return err;
	}
	r->dir->rec = dir_rec;
	r->new_dir->rec = new_dir_rec;
	inode->rec.ctime = rec.ctime;
	tree_entry_remove(&ns->tree, r->from);
	if (replaced) {
		replaced->rec.nlink = replaced_rec.nlink;
		replaced->rec.ctime = replaced_rec.ctime;
		if (!replaced_rec.nlink)
			placed_leave(ns, replaced, r->new_dir);
		tree_entry_set_child(r->to, inode);
	} else {
		tree_entry_show(entry);
	}
	place_renamed(ns, inode, r->dir, &given);
	if (replaced && replaced->rec.nlink) {
		placed_again(ns, replaced);
		devices_again(ns, replaced);
	}
	return 0;
}

int ns_rename(struct ns *ns, uint64_t parent, const char *name, uint64_t new_parent, const char *new_name,
	      unsigned int flags)
{
	struct rename r = { .name = name, .new_name = new_name };
	struct tree_inode *replaced = NULL;
	int err;

	if (flags & ~(unsigned int)(RENAME_NOREPLACE | RENAME_EXCHANGE) ||
	    flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	LOCK_SCOPE(&ns->lock);
	ns_change_begin(ns);
	err = rename_find(ns, &r, parent, new_parent, flags);
	if (err == 0)
		err = rename_check(&r, flags);
	if (err == 0)
		err = rename_check_shares(ns, &r, flags);
	/* Two names of one file: nothing to do, says POSIX. */
	if (err == 0 && !(r.to && r.to->child == r.from->child)) {
		if (flags & RENAME_EXCHANGE) {
			err = rename_exchange(ns, &r);
		} else {
			replaced = r.to ? r.to->child : NULL;
			if (replaced)
				ns_keep(replaced);
			err = rename_move(ns, &r, replaced);
		}
	}
	ns_change_end(ns);
	if (replaced)
		ns_release(ns, replaced);
	return err;
}
