/* names/content.c - see names.h and inode.h: which RAM file an inode is, its size, and whether it is clean. */
#include "names/content.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "cold/stores.h"
#include "engine/cache.h"
#include "engine/clone.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/ramfile.h"
#include "engine/resize.h"
#include "names/devices.h"
#include "names/inode.h"
#include "names/names.h"
#include "names/placed.h"
#include "names/record.h"
#include "names/tree.h"

/* What the kernel can address, less what overflows when a block is added. */
#define NS_SIZE_MAX (INT64_MAX & ~UINT64_C(0xffffff))

/* ---- dirty and clean ---- */

/* Runs on the thread that is about to change the file, before it does. A change must not reach a file that the store
 * believes to be clean: after a loss of power it would be taken for whole. */
static int on_dirty(void *arg, uint64_t ino)
{
	struct ns *ns = arg;
	struct tree_inode *inode;
	struct record_inode rec;
	int err = 0;

	LOCK_SCOPE(&ns->lock);
	/* Also waits for a fsync() that is just about to call it clean. */
	ns_change_begin(ns);
	if (ns_find(ns, ino, &inode) == 0) {
		inode->dirty_seq++;
		if (!inode->rec.dirty) {
			rec = inode->rec;
			rec.dirty = true;
			err = ns_change_record(ns, inode, &rec, true);
		}
	}
	ns_change_end(ns);
	return err;
}

static void set_kept(struct record_inode *rec)
{
	rec->kept = true;
	rec->fell_back = false;
}

/* After an fsync that has stored what the file held. */
static int save_kept(struct ns *ns, struct tree_inode *inode)
{
	struct record_inode rec;
	int err;

	ns_change_begin(ns);
	rec = inode->rec;
	set_kept(&rec);
	err = ns_change_record(ns, inode, &rec, true);
	ns_change_end(ns);
	return err;
}

static int save_record(struct ns *ns, struct tree_inode *inode, bool durable)
{
	struct record_inode rec;
	int err = 0;

	ns_change_begin(ns);
	if (inode->unsaved || durable) {
		rec = inode->rec;
		err = ns_change_record(ns, inode, &rec, durable);
	}
	ns_change_end(ns);
	return err;
}

/* Writes the record as clean, unless a change was reported since dirty_seq was read. */
static int save_clean(struct ns *ns, struct tree_inode *inode, uint64_t dirty_seq, uint64_t stored_bytes, bool keep)
{
	struct record_inode rec;
	int err = 0;

	ns_change_begin(ns);
	if (inode->dirty_seq == dirty_seq) {
		rec = inode->rec;
		rec.dirty = false;
		rec.stored_bytes = stored_bytes;
		if (keep)
			set_kept(&rec);
		err = ns_change_record(ns, inode, &rec, true);
	} else if (keep) {
		rec = inode->rec;
		set_kept(&rec);
		err = ns_change_record(ns, inode, &rec, true);
	}
	ns_change_end(ns);
	return err;
}

/* Without the lock. From ramfile_mark_clean() on every change is reported again, so what is found clean after it and
 * was not reported since is clean. */
static int sync_file(struct ramfile *file, bool *ret_clean)
{
	int err = ramfile_sync(file);

	if (err == 0)
		err = ramfile_is_clean(file, ret_clean);
	if (err < 0 || !*ret_clean)
		return err;
	ramfile_mark_clean(file);
	return ramfile_is_clean(file, ret_clean);
}

int ns_sync_inode(struct ns *ns, struct tree_inode *inode, bool keep)
{
	struct ramfile_figures figures;
	struct ramfile *file = inode->file;
	uint64_t dirty_seq = inode->dirty_seq;
	bool clean = false;
	int err;

	lock_put(&ns->lock);
	err = keep ? ramfile_store(file) : 0;
	if (err == 0)
		err = sync_file(file, &clean);
	ramfile_figures(file, &figures);
	lock_get(&ns->lock);
	if (err == 0 && clean && inode->rec.dirty)
		return save_clean(ns, inode, dirty_seq, figures.stored_bytes, keep);
	if (err < 0)
		return err;
	return keep ? save_kept(ns, inode) : save_record(ns, inode, true);
}

int ns_fsync(struct ns *ns, uint64_t ino)
{
	struct tree_inode *inode;
	int err;

	LOCK_SCOPE(&ns->lock);
	err = ns_find(ns, ino, &inode);
	if (err < 0)
		return err;
	ns_keep(inode);
	/* A record that is written durably takes all that was written before it along: one log holds them all. */
	err = inode->file ? ns_sync_inode(ns, inode, true) : save_record(ns, inode, true);
	ns_release(ns, inode);
	return err;
}

void ns_touch(struct ns *ns, uint64_t ino, bool modified)
{
	struct tree_inode *inode;

	LOCK_SCOPE(&ns->lock);
	if (ns_find(ns, ino, &inode) < 0)
		return;
	inode->rec.ctime = ns_now();
	if (modified)
		inode->rec.mtime = inode->rec.ctime;
	inode->unsaved = true;
}

/* ---- loading and opening ---- */

int ns_load_file(struct ns *ns, struct tree_inode *inode)
{
	struct ramfile *file = NULL;
	uint64_t size_bytes;
	bool lost, kept, inherited, here, plain = false;
	int err;

	ns_wait_busy(ns, inode);
	if (inode->file)
		return 0;
	inode->busy = true;
	size_bytes = inode->rec.size_bytes;
	lost = inode->rec.lost;
	kept = inode->rec.kept;
	inherited = inode->inherited;
	/* Without its store it is as one that is lost: nobody knows what blocks it has. What is in DRAM stays. */
	here = devices_here(ns, inode);
	err = here || !inode->rec.dirty ? 0 : -EIO;
	lock_put(&ns->lock);
	if (err == 0)
		err = ramfile_load(ns->engine, inode->ino, size_bytes, lost || !here, &file);
	if (err == 0) {
		file_on_dirty(file, on_dirty, ns);
		ramfile_set_kept(file, kept);
		plain = cache_inherit(file, inherited);
	} else if (here) {
		log_error("file %llu: cannot load: %s", (unsigned long long)inode->ino, strerror(-err));
	}
	lock_get(&ns->lock);
	inode->file = file;
	inode->plain = plain;
	placed_file(ns, inode);
	ns_set_idle(ns, inode);
	return err;
}

static int find_regular(struct ns *ns, uint64_t ino, struct tree_inode **ret)
{
	int err = ns_find(ns, ino, ret);

	if (err == 0 && S_ISDIR((*ret)->rec.mode))
		err = -EISDIR;
	return err;
}

int ns_open(struct ns *ns, uint64_t ino, struct ramfile **ret)
{
	struct tree_inode *inode;
	int err;

	LOCK_SCOPE(&ns->lock);
	err = find_regular(ns, ino, &inode);
	if (err < 0)
		return err;
	inode->opens++;
	/* A resize that is going on does not matter: the RAM file is there. */
	if (!inode->file)
		err = ns_load_file(ns, inode);
	if (err < 0) {
		inode->opens--;
		ns_reap_if_unused(ns, inode);
		return err;
	}
	*ret = inode->file;
	return 0;
}

static void save_times(struct ns *ns, struct tree_inode *inode)
{
	if (inode->unsaved && inode->rec.nlink > 0 && save_record(ns, inode, false) < 0)
		log_warn("file %llu: its times could not be saved yet; they will be at the next change",
			 (unsigned long long)inode->ino);
}

void ns_put(struct ns *ns, uint64_t ino)
{
	struct tree_inode *inode;

	LOCK_SCOPE(&ns->lock);
	if (ns_find(ns, ino, &inode) < 0)
		return;
	inode->opens--;
	if (inode->opens > 0 || inode->inherited)
		return;
	ns_keep(inode);
	save_times(ns, inode);
	ns_release(ns, inode);
	ns_reap_survivors(ns);
}

struct tree_inode *ns_end_inheritance(struct ns *ns, struct tree_inode *inode)
{
	uint64_t ino = inode->ino;
	bool plain;

	ns_keep(inode);
	ns_wait_busy(ns, inode); /* what is being loaded now may turn out to be plain */
	plain = inode->plain;
	inode->inherited = inode->plain = false;
	if (plain) {
		lock_put(&ns->lock);
		cache_close_file(inode->file);
		lock_get(&ns->lock);
	}
	if (inode->opens == 0)
		save_times(ns, inode);
	ns_release(ns, inode);
	return tree_inode(&ns->tree, ino);
}

/* ---- by arena ---- */

/* Numbers of the regular files that are loaded, or of those that are not. */
static int list_regular(struct ns *ns, bool loaded, uint64_t **ret, size_t *ret_count)
{
	struct tree_inode *inode, *next;
	size_t count = 0;
	uint64_t *list;

	LOCK_SCOPE(&ns->lock);
	list = calloc(HASH_COUNT(ns->tree.inodes) + 1, sizeof(*list));
	if (!list)
		return -ENOMEM;
	HASH_ITER(hh, ns->tree.inodes, inode, next) {
		if (S_ISREG(inode->rec.mode) && (inode->file != NULL) == loaded)
			list[count++] = inode->ino;
	}
	*ret = list;
	*ret_count = count;
	return 0;
}

/* -ENOENT: no file has that arena. If one of them could not be looked at, it is that error. */
static int find_arena(struct ns *ns, int arena_fd, bool loaded, uint64_t *ret_ino, struct ramfile **ret)
{
	uint64_t *list = NULL;
	size_t count = 0;
	struct ramfile *file;
	int err = list_regular(ns, loaded, &list, &count), failed = -ENOENT;

	if (err < 0)
		return err;
	err = -ENOENT;
	for (size_t i = 0; i < count && err != 0; i++) {
		int open_rc = ns_open(ns, list[i], &file);

		if (open_rc < 0 && open_rc != -ENOENT)
			failed = open_rc;
		if (open_rc < 0)
			continue;
		if (mappers_owns_arena(file, arena_fd)) {
			*ret_ino = list[i];
			*ret = file;
			err = 0;
		} else {
			ns_put(ns, list[i]);
		}
	}
	free(list);
	return err == 0 ? 0 : failed;
}

int ns_open_by_arena(struct ns *ns, int arena_fd, uint64_t *ret_ino, struct ramfile **ret)
{
	struct stat attr, dir;
	int err;

	/* Anybody may send anything: nothing is loaded for what cannot be an arena of this mount. */
	if (fstat(arena_fd, &attr) < 0 || fstat(engine_arena_dir(ns->engine), &dir) < 0)
		return -errno;
	if (attr.st_dev != dir.st_dev || !S_ISREG(attr.st_mode))
		return -ENOENT;
	/* What has resident blocks was loaded at the start; a file that was mapped and never written may not have been.
	 */
	err = find_arena(ns, arena_fd, true, ret_ino, ret);

	return err == -ENOENT ? find_arena(ns, arena_fd, false, ret_ino, ret) : err;
}

/* ---- sizes ---- */

/* The RAM file has that size already. If the record cannot follow, it does with the next change of the inode. */
static int save_size(struct ns *ns, struct tree_inode *inode, uint64_t size_bytes)
{
	struct record_inode rec;
	int err;

	ns_change_begin(ns);
	rec = inode->rec;
	rec.size_bytes = size_bytes;
	rec.mtime = rec.ctime = ns_now();
	if (size_bytes == 0)
		rec.lost = rec.fell_back = false;
	err = ns_change_record(ns, inode, &rec, false);
	if (err < 0) {
		inode->rec = rec;
		inode->unsaved = true;
	}
	ns_change_end(ns);
	return err;
}

/* Before the content goes: in the log this comes before the removal of any key, so that a file without its keys is
 * never taken for one that has them. Keys in another store have another log, so there it is durable first. */
static int drop_kept(struct ns *ns, struct tree_inode *inode)
{
	struct record_inode rec;
	int err = 0;

	ns_change_begin(ns);
	if (inode->rec.kept) {
		rec = inode->rec;
		rec.kept = false;
		err = ns_change_record(ns, inode, &rec, stores_count(ns->store) > 1);
	}
	ns_change_end(ns);
	return err;
}

/* As drop_kept(), for a file that stays kept with less: what goes is in another store. The size is durable first, so
 * that the old one is never found without its content. */
static int shrink_kept(struct ns *ns, struct tree_inode *inode, uint64_t size_bytes)
{
	struct record_inode rec;
	int err = 0;

	ns_change_begin(ns);
	if (inode->rec.kept && size_bytes < inode->rec.size_bytes && devices_apart(ns, inode)) {
		rec = inode->rec;
		rec.size_bytes = size_bytes;
		err = ns_change_record(ns, inode, &rec, true);
	}
	ns_change_end(ns);
	return err;
}

/* The file is as large as it was. If the record cannot say so now, it does with the next change of the inode. */
static void size_again(struct ns *ns, struct tree_inode *inode, uint64_t size_bytes)
{
	struct record_inode rec;

	ns_change_begin(ns);
	if (inode->rec.size_bytes != size_bytes) {
		rec = inode->rec;
		rec.size_bytes = size_bytes;
		if (ns_change_record(ns, inode, &rec, false) < 0) {
			inode->rec = rec;
			inode->unsaved = true;
		}
	}
	ns_change_end(ns);
}

static int resize_pinned(struct ns *ns, struct tree_inode *inode, uint64_t size_bytes, bool grow_only)
{
	struct ramfile *file;
	uint64_t old_bytes;
	int err = ns_load_file(ns, inode);

	if (err < 0 || (grow_only && size_bytes <= inode->rec.size_bytes))
		return err;
	if (size_bytes > ns->file_max_bytes && size_bytes > inode->rec.size_bytes)
		return -EFBIG;
	err = bounds_resize(ns, inode, size_bytes > inode->rec.size_bytes ? size_bytes : inode->rec.size_bytes);
	if (err < 0)
		return err;
	inode->busy = true;
	file = inode->file;
	old_bytes = inode->rec.size_bytes;
	err = size_bytes ? shrink_kept(ns, inode, size_bytes) : drop_kept(ns, inode);
	lock_put(&ns->lock);
	if (err == 0)
		err = ramfile_truncate(file, size_bytes);
	lock_get(&ns->lock);
	if (err == 0)
		err = save_size(ns, inode, size_bytes);
	else
		size_again(ns, inode, old_bytes);
	bounds_resize(ns, inode, inode->rec.size_bytes);
	ns_set_idle(ns, inode);
	return err;
}

int ns_resize(struct ns *ns, uint64_t ino, uint64_t size_bytes, bool grow_only)
{
	struct tree_inode *inode;
	int err;

	if (size_bytes > NS_SIZE_MAX)
		return -EFBIG;
	LOCK_SCOPE(&ns->lock);
	err = find_regular(ns, ino, &inode);
	if (err < 0)
		return err;
	ns_keep(inode);
	err = resize_pinned(ns, inode, size_bytes, grow_only);
	ns_release(ns, inode);
	return err;
}

int ns_extend(struct ns *ns, uint64_t ino, uint64_t size_bytes)
{
	return ns_resize(ns, ino, size_bytes, true);
}
