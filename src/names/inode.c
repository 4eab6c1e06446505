/* names/inode.c - inodes: found, changed one at a time, kept while they are used, and removed with their content when
 * they are not. */
#include "names/inode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cold/stores.h"
#include "engine/mappers.h"
#include "engine/ramfile.h"
#include "names/devices.h"
#include "names/placed.h"
#include "names/record.h"
#include "names/tree.h"

/* ---- changes ---- */

void ns_change_begin(struct ns *ns)
{
	while (ns->changing)
		lock_wait(&ns->lock, &ns->cond);
	ns->changing = true;
}

int ns_change_commit(struct ns *ns, const struct record_batch *batch, bool durable)
{
	int err;

	lock_put(&ns->lock);
	err = record_batch_put(batch, ns->store, durable);
	lock_get(&ns->lock);
	return err;
}

void ns_change_end(struct ns *ns)
{
	ns->changing = false;
	pthread_cond_broadcast(&ns->cond);
}

int ns_change_record(struct ns *ns, struct tree_inode *inode, const struct record_inode *rec, bool durable)
{
	struct record_batch batch = { .count = 0 };
	struct record_inode copy = *rec;
	bool was_unsaved = inode->unsaved;
	int err;

	record_batch_inode(&batch, inode->ino, &copy);
	inode->unsaved = false;
	err = ns_change_commit(ns, &batch, durable);
	if (err < 0) {
		inode->unsaved |= was_unsaved;
		return err;
	}
	/* A write may have touched the times meanwhile: that is newer, and saved later. */
	if (inode->unsaved) {
		copy.mtime = inode->rec.mtime;
		copy.ctime = inode->rec.ctime;
	}
	inode->rec = copy;
	return 0;
}

struct timespec ns_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now;
}

/* ---- looking ---- */

int ns_find(struct ns *ns, uint64_t ino, struct tree_inode **ret)
{
	*ret = tree_inode(&ns->tree, ino);
	return *ret ? 0 : -ENOENT;
}

int ns_find_dir(struct ns *ns, uint64_t ino, struct tree_inode **ret)
{
	int err = ns_find(ns, ino, ret);

	if (err == 0 && !S_ISDIR((*ret)->rec.mode))
		err = -ENOTDIR;
	return err;
}

void ns_stat(const struct ns *ns, const struct tree_inode *inode, struct stat *ret)
{
	const struct record_inode *rec = &inode->rec;

	*ret = (struct stat){
		.st_ino = inode->ino,
		.st_mode = rec->mode,
		.st_nlink = rec->nlink,
		.st_uid = rec->uid,
		.st_gid = rec->gid,
		.st_size = (off_t)rec->size_bytes,
		.st_blksize = ns->block_bytes,
		.st_blocks = (blkcnt_t)((rec->stored_bytes + 511) / 512),
		.st_atim = rec->atime,
		.st_mtim = rec->mtime,
		.st_ctim = rec->ctime,
	};
}

/* ---- in use ---- */

void ns_wait_busy(struct ns *ns, struct tree_inode *inode)
{
	while (inode->busy)
		lock_wait(&ns->lock, &ns->cond);
}

void ns_set_idle(struct ns *ns, struct tree_inode *inode)
{
	inode->busy = false;
	pthread_cond_broadcast(&ns->cond);
}

void ns_stat_figures(struct ramfile *file, struct stat *ret)
{
	struct ramfile_figures figures;
	uint64_t bytes;

	ramfile_figures(file, &figures);
	bytes = figures.resident_bytes + figures.stored_bytes;
	if (figures.cache_unknown) /* none would say to a tool that there is nothing to read */
		bytes += figures.hole_bytes;
	ret->st_blocks = (blkcnt_t)((bytes + 511) / 512);
}

/* ---- the end of an inode ---- */

/* Without the lock. What was never loaded has blocks in the store, too; to remove them takes no table, so it is loaded
 * as if it had none. */
static int destroy_content(struct ns *ns, struct tree_inode *inode)
{
	int err = 0;

	if (!S_ISREG(inode->rec.mode))
		return 0;
	if (!inode->file)
		err = ramfile_load(ns->engine, inode->ino, 0, true, &inode->file);
	return err < 0 ? err : ramfile_destroy(inode->file);
}

/* Content in another store than the record goes by another log. What removes the last name is durable before it: else
 * the name may be there after a loss of power, and the content not. */
static int settle_end(struct ns *ns, struct tree_inode *inode)
{
	int err;

	if (!S_ISREG(inode->rec.mode) || !devices_apart(ns, inode))
		return 0;
	ns_change_begin(ns);
	err = ns_change_record(ns, inode, &inode->rec, true);
	ns_change_end(ns);
	return err;
}

/* It is not found in the tree any more. */
static void leave_shares(struct ns *ns, struct tree_inode *inode)
{
	placed_out(ns, inode);
	placed_end(ns, inode);
	bounds_drop(ns, inode);
	if (!inode->share)
		return;
	ns->share_count--;
	ns->min_count -= inode->share->value[SHARE_DRAM_MIN] != SHARE_NONE;
	placed_without(ns, inode);
}

static void drop_share(struct tree_inode *inode, struct record_batch *batch)
{
	struct share nothing = share_nothing();

	if (!inode->share)
		return;
	record_batch_share(batch, inode->ino, &nothing);
	record_batch_day(batch, inode->ino, NULL);
}

void ns_reap_if_unused(struct ns *ns, struct tree_inode *inode)
{
	struct record_batch batch = { .count = 0 };
	int err;

	if (inode->rec.nlink || inode->opens || inode->keeps || inode->lookups || inode->busy || inode->inherited)
		return;
	if (inode->survivor && mappers_have_arena(inode->file))
		return;
	/* A process may map it, which cannot be known: it was not loaded. The mount that has all stores reaps it. */
	if (!inode->file && !devices_here(ns, inode))
		return;
	ns->survivors -= inode->survivor ? 1 : 0;
	tree_inode_take(&ns->tree, inode);
	leave_shares(ns, inode);
	err = settle_end(ns, inode);
	lock_put(&ns->lock);
	if (err == 0)
		err = destroy_content(ns, inode);
	else
		ramfile_abandon(inode->file);
	lock_get(&ns->lock);
	/* The record goes last: as long as it is there, the next load removes what is left. */
	if (err == 0) {
		record_batch_drop_inode(&batch, inode->ino);
		drop_share(inode, &batch);
		ns_change_begin(ns);
		err = ns_change_commit(ns, &batch, false);
		ns_change_end(ns);
	}
	if (err == 0)
		stores_forget(ns->store, inode->ino);
	else
		log_warn("removed file %llu: its blocks could not be freed (%s); the next mount does it",
			 (unsigned long long)inode->ino, strerror(-err));
	tree_inode_free(inode);
}

void ns_keep(struct tree_inode *inode)
{
	inode->keeps++;
}

void ns_release(struct ns *ns, struct tree_inode *inode)
{
	inode->keeps--;
	pthread_cond_broadcast(&ns->cond);
	ns_reap_if_unused(ns, inode);
}

size_t ns_list_inodes(struct ns *ns, ns_want_fn *want, uint64_t **ret)
{
	struct tree_inode *inode, *next;
	uint64_t *list = calloc(HASH_COUNT(ns->tree.inodes) + 1, sizeof(*list));
	size_t count = 0;

	*ret = list;
	if (!list)
		return 0;
	HASH_ITER(hh, ns->tree.inodes, inode, next) {
		if (want(inode))
			list[count++] = inode->ino;
	}
	return count;
}

static bool is_survivor(const struct tree_inode *inode)
{
	return inode->survivor;
}

void ns_reap_survivors(struct ns *ns)
{
	CLEANUP_FREE uint64_t *list = NULL;
	size_t count;

	if (ns->survivors == 0)
		return;
	count = ns_list_inodes(ns, is_survivor, &list);
	for (size_t i = 0; i < count; i++) {
		struct tree_inode *inode = tree_inode(&ns->tree, list[i]);

		/* The lock was dropped for the one before. */
		if (inode && inode->survivor)
			ns_reap_if_unused(ns, inode);
	}
}
