/* names/load.c - see names.h and inode.h: the namespace as a whole: loading, listing, closing. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/ramfile.h"
#include "engine/tenant.h"
#include "names/check.h"
#include "names/content.h"
#include "names/days.h"
#include "names/devices.h"
#include "names/inode.h"
#include "names/names.h"
#include "names/outcome.h"
#include "names/placed.h"
#include "names/record.h"
#include "names/tree.h"
#include "policy/demand.h"
#include "policy/tiering.h"

#define NS_PROGRESS_NS NS_PER_S
#define NS_CLOSE_TRIES 5

/* ---- loading ---- */

static int load_super(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct ns *ns = arg;

	(void)key;
	return key_len == 1 ? record_parse_super(value, value_len, &ns->next_ino, &ns->many) : -EBADMSG;
}

static int load_inode(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct ns *ns = arg;
	struct tree_inode *inode;
	struct record_inode rec;
	uint64_t ino;
	int err = record_parse_inode(key, key_len, value, value_len, &ino, &rec);

	if (err == 0 && ino >= ns->next_ino)
		err = -EBADMSG;
	return err < 0 ? err : tree_inode_add(&ns->tree, ino, &rec, &inode);
}

/* A change of which nobody knows whether it was written may leave an entry behind, when what it names or what it is in
 * is removed later. Numbers are not given again, so it stays without a meaning. */
static bool is_left_behind(const struct ns *ns, const struct tree_inode *inode, uint64_t ino)
{
	return inode ? inode->rec.nlink == 0 : ino < ns->next_ino;
}

static int load_entry(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct ns *ns = arg;
	struct tree_inode *dir, *child;
	struct tree_entry *entry;
	char name[NAME_MAX + 1];
	uint64_t parent_ino, child_ino;
	int err = record_parse_entry(key, key_len, value, value_len, &parent_ino, name, &child_ino);

	if (err < 0)
		return err;
	dir = tree_inode(&ns->tree, parent_ino);
	child = tree_inode(&ns->tree, child_ino);
	if (is_left_behind(ns, dir, parent_ino) || is_left_behind(ns, child, child_ino)) {
		log_warn("the name %s of inode %llu is left out: %s is gone", name, (unsigned long long)child_ino,
			 is_left_behind(ns, child, child_ino) ? "the file" : "its directory");
		return 0;
	}
	if (!dir || !child || !S_ISDIR(dir->rec.mode) || child_ino == NS_ROOT_INO)
		return -EBADMSG;
	if (S_ISDIR(child->rec.mode) && !LIST_EMPTY(&child->names))
		return -EBADMSG; /* a directory has one name: with two, a walk up may never end */
	err = tree_entry_add(&ns->tree, dir, name, child, &entry);
	if (err == 0)
		tree_entry_show(entry);
	return err;
}

static int load_share(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct ns *ns = arg;
	struct tree_inode *inode;
	struct share share;
	uint64_t ino;
	int err = record_parse_share(key, key_len, value, value_len, &ino, &share);

	if (err < 0)
		return err;
	inode = tree_inode(&ns->tree, ino);
	if (!inode) { /* a program that knows nothing of shares has removed it; no other one will have the number */
		log_warn("a share of inode %llu, which is gone, is left out", (unsigned long long)ino);
		return 0;
	}
	if (inode->share)
		return -EBADMSG;
	inode->share = malloc(sizeof(*inode->share));
	inode->tenant = calloc(1, sizeof(*inode->tenant));
	if (!inode->share || !inode->tenant)
		return -ENOMEM;
	*inode->share = share;
	ns->share_count++;
	ns->min_count += share.value[SHARE_DRAM_MIN] != SHARE_NONE;
	return 0;
}

/* Of what is gone, or has no share any more, nothing is known. One that is damaged is no reason to have no pool. */
static int load_day(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct ns *ns = arg;
	struct record_day day;
	struct tree_inode *inode;
	uint64_t ino = 0;
	int err = record_parse_day(key, key_len, value, value_len, &ino, &day);

	if (err == -EPROTONOSUPPORT)
		return err;
	inode = ino ? tree_inode(&ns->tree, ino) : NULL;
	if (err < 0)
		log_warn("inode %llu: what was written of it in the last day is damaged in the pool; it counts as all "
			 "that its cold.write_day allows",
			 (unsigned long long)ino);
	if (!inode || !inode->tenant || inode->share->value[SHARE_WRITE_DAY] == SHARE_NONE)
		return 0;
	if (err < 0)
		days_resume_full(ns, inode);
	else
		days_resume(ns, inode, &day);
	return 0;
}

static int load_tree(struct ns *ns)
{
	static const struct {
		char prefix;
		meta_fn *fn;
	} step[] = {
		{ RECORD_PREFIX_SUPER, load_super }, { RECORD_PREFIX_INODE, load_inode },
		{ RECORD_PREFIX_ENTRY, load_entry }, { RECORD_PREFIX_SHARE, load_share },
		{ RECORD_PREFIX_DAY, load_day },
	};
	int err = 0;

	for (size_t i = 0; i < sizeof(step) / sizeof(step[0]) && err == 0; i++)
		err = ns->store->meta->walk(ns->store, &step[i].prefix, 1, step[i].fn, ns);
	return err;
}

static int make_root(struct ns *ns, const struct ns_config *config)
{
	struct record_batch batch = { .count = 0 };
	struct tree_inode *root;
	struct record_inode rec = {
		.mode = S_IFDIR | (config->root_mode & 07777),
		.uid = config->uid,
		.gid = config->gid,
		.nlink = 2,
		.atime = ns_now(),
	};
	int err;

	rec.mtime = rec.ctime = rec.atime;
	err = tree_inode_add(&ns->tree, NS_ROOT_INO, &rec, &root);
	if (err < 0)
		return err;
	ns->next_ino = NS_ROOT_INO + 1;
	record_batch_super(&batch, ns->next_ino, false);
	record_batch_inode(&batch, NS_ROOT_INO, &rec);
	return record_batch_put(&batch, ns->store, true);
}

static int add_length(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	(void)key;
	(void)value;
	*(uint64_t *)arg += length_bytes;
	return 0;
}

/* The record says what was stored when the file was clean: more may be by now. */
static int count_stored(struct ns *ns, struct tree_inode *inode)
{
	const struct store_ops *ops = ns->store->ops;
	uint64_t bytes = 0;
	int err = ops->heads(ns->store, inode->ino, 0, UINT64_MAX, add_length, &bytes);

	if (err == 0)
		inode->rec.stored_bytes = bytes;
	return err;
}

/* What an fsync has made durable is there: every stored copy is as new as that, or newer. */
static int fall_back(struct ns *ns, struct tree_inode *inode)
{
	struct record_batch batch = { .count = 0 };
	char path[PATH_MAX] = "?";
	int err;

	inode->rec.fell_back = true;
	record_batch_inode(&batch, inode->ino, &inode->rec);
	err = record_batch_put(&batch, ns->store, true);
	if (err < 0)
		return err;
	tree_path(inode, path, sizeof(path));
	log_warn("%s: has what its last fsync made durable; what was written later was in DRAM when the host went "
		 "down, and may be gone",
		 path);
	return 0;
}

/* The arenas are gone: what was dirty has lost blocks. Written down before anything else, so that it stays known. */
static int mark_lost(struct ns *ns)
{
	struct tree_inode *inode, *next;
	int err = 0;

	HASH_ITER(hh, ns->tree.inodes, inode, next) {
		struct record_batch batch = { .count = 0 };
		char path[PATH_MAX] = "?";

		if (err < 0 || !inode->rec.dirty || inode->rec.nlink == 0)
			continue;
		err = S_ISREG(inode->rec.mode) ? count_stored(ns, inode) : 0;
		if (err < 0)
			continue;
		inode->rec.dirty = false;
		if (inode->rec.kept) {
			err = fall_back(ns, inode);
			continue;
		}
		/* Also when it is empty by its record: a new size may not have reached the disk before the power went.
		 */
		inode->rec.lost = true;
		record_batch_inode(&batch, inode->ino, &inode->rec);
		err = record_batch_put(&batch, ns->store, true);
		if (err < 0)
			continue;
		tree_path(inode, path, sizeof(path));
		log_warn("%s: lost: it had blocks in DRAM when the host went down; reads give EIO until it is "
			 "truncated to 0",
			 path);
	}
	return err;
}

static bool is_orphan(const struct tree_inode *inode)
{
	return inode->rec.nlink == 0;
}

static bool is_dirty_file(const struct tree_inode *inode)
{
	return inode->rec.dirty && S_ISREG(inode->rec.mode);
}

static bool is_loaded(const struct tree_inode *inode)
{
	return inode->file != NULL;
}

/* The kernel's references end with the mount. */
static int reap_orphans(struct ns *ns)
{
	CLEANUP_FREE uint64_t *list = NULL;
	size_t count;

	LOCK_SCOPE(&ns->lock);
	count = ns_list_inodes(ns, is_orphan, &list);
	for (size_t i = 0; i < count; i++) {
		struct tree_inode *inode = tree_inode(&ns->tree, list[i]);

		inode->lookups = 0;
		inode->inherited = false;
		ns_reap_if_unused(ns, inode);
	}
	return list ? 0 : -ENOMEM;
}

/* What survived in the arenas counts towards the budget, and can be demoted, only when it is loaded. A file without a
 * name stays if a process maps it, which comes back: QEMU removes its file as soon as it has it open. */
static int load_survivors(struct ns *ns)
{
	CLEANUP_FREE uint64_t *list = NULL;
	size_t count;
	int err = 0;

	LOCK_SCOPE(&ns->lock);
	count = ns_list_inodes(ns, is_dirty_file, &list);
	for (size_t i = 0; i < count && err == 0; i++) {
		struct tree_inode *inode = tree_inode(&ns->tree, list[i]);

		ns_keep(inode);
		err = ns_load_file(ns, inode);
		if (err < 0 && !devices_here(ns, inode))
			err = 0; /* its arena stays as it is, until its store is here */
		else if (err == 0 && inode->rec.nlink == 0 && mappers_have_arena(inode->file)) {
			inode->survivor = true;
			ns->survivors++;
		}
		ns_release(ns, inode);
	}
	return list ? err : -ENOMEM;
}

/* Nobody knows what the kernel has in its tables; it will say when it drops an inode (ns_end_inheritance()). */
static void inherit_all(struct ns *ns)
{
	struct tree_inode *inode, *next;

	HASH_ITER(hh, ns->tree.inodes, inode, next) {
		inode->inherited = true;
	}
}

/* The store is told what an earlier daemon's fsync has promised, before anything is stored. */
static void keep_promises(struct ns *ns)
{
	const struct store_ops *ops = ns->store->ops;
	struct tree_inode *inode, *next;

	if (!ops->keep)
		return;
	HASH_ITER(hh, ns->tree.inodes, inode, next) {
		if (inode->rec.kept)
			ops->keep(ns->store, inode->ino, true);
	}
	ops->keep(ns->store, 0, false);
}

static int count_owners(struct ns *ns)
{
	struct tree_inode *inode, *next;
	int err = 0;

	HASH_ITER(hh, ns->tree.inodes, inode, next) {
		if (err == 0)
			err = bounds_add(ns, inode);
	}
	return err;
}

static int load_all(struct ns *ns, const struct ns_config *config)
{
	int err = load_tree(ns);

	if (err == 0 && ns->next_ino == 0)
		err = make_root(ns, config);
	if (err == 0)
		err = check_tree(ns);
	if (err == 0)
		err = count_owners(ns);
	if (err == 0)
		err = outcomes_load(&ns->outcomes, ns->store, config->takes_over ? config->session : 0);
	if (err == -EPROTONOSUPPORT)
		log_error("the pool's namespace is of another format version");
	else if (err == -EBADMSG)
		log_error("the pool's namespace is damaged");
	else if (err < 0)
		log_error("cannot load the pool's namespace: %s", strerror(-err));
	if (err < 0)
		return err;
	if (config->takes_over)
		inherit_all(ns);
	keep_promises(ns);
	err = devices_load(ns);
	if (err < 0) {
		log_error("cannot find out in which stores files are: %s", strerror(-err));
		return err;
	}
	/* Before files are placed: it finds out what is stored of them. */
	err = config->arenas_survived ? 0 : mark_lost(ns);
	lock_get(&ns->lock);
	placed_all(ns);
	lock_put(&ns->lock);
	if (err == 0 && config->arenas_survived)
		err = load_survivors(ns);
	if (err == 0 && !config->takes_over)
		err = reap_orphans(ns);
	if (err < 0)
		log_error("cannot make the namespace ready: %s", strerror(-err));
	return err;
}

int ns_load(const struct ns_config *config, struct ns **ret)
{
	struct ns *ns = calloc(1, sizeof(*ns));
	int err;

	if (!ns)
		return -ENOMEM;
	ns->store = config->store;
	ns->engine = config->engine;
	ns->block_bytes = engine_block_bytes(config->engine);
	ns->defaults = config->defaults ? *config->defaults : share_nothing();
	ns->file_max_bytes = config->file_max_bytes ? config->file_max_bytes : UINT64_MAX;
	ns->bounds.most_inodes = config->uid_files ? config->uid_files : UINT64_MAX;
	ns->bounds.most_bytes = config->uid_bytes ? config->uid_bytes : UINT64_MAX;
	lock_init(&ns->lock, LOCK_RANK_NAMESPACE);
	lock_cond_init(&ns->cond);
	lock_cond_init(&ns->days_cond);
	tree_init(&ns->tree);
	err = load_all(ns, config);
	if (err < 0) {
		ns_free(ns);
		return err;
	}
	*ret = ns;
	return 0;
}

void ns_free(struct ns *ns)
{
	struct tree_inode *inode, *next;

	if (!ns)
		return;
	days_stop(ns);
	HASH_ITER(hh, ns->tree.inodes, inode, next)
		placed_out(ns, inode);
	tenants_begin(ns->engine);
	tenants_end(ns->engine);
	HASH_ITER(hh, ns->tree.inodes, inode, next) {
		ramfile_unload(inode->file);
	}
	tree_fini(&ns->tree);
	bounds_fini(&ns->bounds);
	outcomes_fini(&ns->outcomes);
	pthread_cond_destroy(&ns->cond);
	pthread_cond_destroy(&ns->days_cond);
	lock_fini(&ns->lock);
	free(ns);
}

/* ---- listing ---- */

int ns_path(struct ns *ns, uint64_t ino, char *buf, size_t cap)
{
	struct tree_inode *inode;
	int err;

	LOCK_SCOPE(&ns->lock);
	err = ns_find(ns, ino, &inode);
	return err < 0 ? err : tree_path(inode, buf, cap);
}

struct listed {
	struct tree_inode *inode; /* pinned */
	struct ramfile *file;
	struct ns_file out;
	char *path;
};

static int listed_compare(const void *a, const void *b)
{
	return strcmp(((const struct listed *)a)->path, ((const struct listed *)b)->path);
}

static int list_add(struct ns *ns, struct tree_inode *inode, struct listed *at)
{
	char path[PATH_MAX];
	int err = tree_path(inode, path, sizeof(path));

	/* The kernel bounds paths that it is given, not those that renames made longer. */
	at->path = strdup(err < 0 ? "(too long)" : path);
	if (!at->path)
		return -ENOMEM;
	at->inode = inode;
	at->file = inode->file;
	at->out = (struct ns_file){
		.ino = inode->ino,
		.path = at->path,
		.lost = inode->rec.lost,
		.fell_back = inode->rec.fell_back,
		.opens = inode->opens,
	};
	ns_stat(ns, inode, &at->out.attr);
	ns_keep(inode);
	return 0;
}

static int list_files(struct ns *ns, struct listed **ret, size_t *ret_count)
{
	struct tree_inode *inode, *next;
	struct listed *list;
	int err = 0;

	LOCK_SCOPE(&ns->lock);
	list = calloc(HASH_COUNT(ns->tree.inodes) + 1, sizeof(*list));
	*ret = list;
	*ret_count = 0;
	if (!list)
		return -ENOMEM;
	HASH_ITER(hh, ns->tree.inodes, inode, next) {
		if (err == 0 && S_ISREG(inode->rec.mode) &&
		    !(inode->rec.nlink == 1 && LIST_FIRST(&inode->names)->pending))
			err = list_add(ns, inode, &list[*ret_count]);
		if (err == 0 && list[*ret_count].inode == inode)
			++*ret_count;
	}
	return err;
}

int ns_files(struct ns *ns, ns_file_fn *fn, void *arg)
{
	struct listed *list = NULL;
	size_t count;
	int err = list_files(ns, &list, &count);

	if (err == 0)
		qsort(list, count, sizeof(*list), listed_compare);
	for (size_t i = 0; i < count; i++) {
		if (list[i].file)
			ns_stat_figures(list[i].file, &list[i].out.attr);
		if (err == 0)
			err = fn(arg, &list[i].out);
		free(list[i].path);
	}
	lock_get(&ns->lock);
	for (size_t i = 0; i < count; i++)
		ns_release(ns, list[i].inode);
	lock_put(&ns->lock);
	free(list);
	return err;
}

/* ---- closing ---- */

struct closing {
	struct ns *ns;
	ns_progress_fn *progress;
	void *arg;
	uint64_t told_ns; /* when progress was last called */
};

static bool close_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
	struct closing *closing = arg;
	struct tiering_figures figures;

	(void)done_bytes;
	(void)total_bytes;
	if (!closing->progress || clock_ns() - closing->told_ns < NS_PROGRESS_NS)
		return true;
	tiering_figures(closing->ns->engine, &figures);
	closing->progress(closing->arg, figures.resident_bytes);
	closing->told_ns = clock_ns();
	return true;
}

/* Without the lock. Nobody maps or opens the file any more, so what stays in the arena could not be written; the
 * kernel's cache went with the mount, and all of it had been written back. */
static int demote_all(struct ramfile *file, struct closing *closing)
{
	struct ramfile_figures figures;
	struct file_done done;
	int err;

	ramfile_figures(file, &figures);
	if (figures.lost || figures.arena_bytes == 0)
		return 0;
	err = ramfile_pin(file, 0, UINT64_MAX, false);
	for (int i = 0; i < NS_CLOSE_TRIES && err == 0; i++) {
		err = demand_demote(file, 0, UINT64_MAX, close_progress, closing, &done);
		ramfile_figures(file, &figures);
		if (figures.arena_bytes == 0)
			return 0;
	}
	return err < 0 ? err : -ENOSPC;
}

static int close_inode(struct ns *ns, struct tree_inode *inode, struct closing *closing)
{
	char path[PATH_MAX] = "?";
	int err = 0;

	/* Without its store nothing of it has changed (ns_load_file()), and none of it can be synced. */
	if (devices_here(ns, inode)) {
		lock_put(&ns->lock);
		err = demote_all(inode->file, closing);
		lock_get(&ns->lock);
		if (err == 0)
			err = ns_sync_inode(ns, inode, false);
	}
	if (err == 0 && inode->rec.dirty)
		err = -EBUSY;
	if (err < 0) {
		tree_path(inode, path, sizeof(path));
		log_error("%s: cannot be demoted (%s); its memory stays in the arenas, mount the pool again before the "
			  "host goes down",
			  path, strerror(-err));
		return err;
	}
	placed_out(ns, inode);
	ramfile_unload(inode->file);
	inode->file = NULL;
	return 0;
}

/* Under the lock. A file that could not be loaded, as its store is not here, has blocks in its arena alone. */
static int check_left(struct ns *ns)
{
	struct tree_inode *inode, *next;

	HASH_ITER(hh, ns->tree.inodes, inode, next)
		if (S_ISREG(inode->rec.mode) && inode->rec.dirty && !inode->file) {
			log_error("file %llu: its memory stays in the arenas, as its store is not here; mount the pool "
				  "with all stores before the host goes down",
				  (unsigned long long)inode->ino);
			return -EIO;
		}
	return 0;
}

static int close_all(struct ns *ns, ns_progress_fn *progress, void *arg)
{
	CLEANUP_FREE uint64_t *list = NULL;
	struct closing closing = { .ns = ns, .progress = progress, .arg = arg, .told_ns = clock_ns() };
	size_t count;
	int err = reap_orphans(ns), first = err;

	LOCK_SCOPE(&ns->lock);
	count = ns_list_inodes(ns, is_loaded, &list);
	for (size_t i = 0; i < count; i++) {
		struct tree_inode *inode = tree_inode(&ns->tree, list[i]);

		ns_keep(inode);
		err = close_inode(ns, inode, &closing);
		if (err < 0 && first == 0)
			first = err;
		ns_release(ns, inode);
	}
	if (first == 0)
		first = check_left(ns);
	return list ? first : -ENOMEM;
}

int ns_close(struct ns *ns, ns_progress_fn *progress, void *arg)
{
	int err = close_all(ns, progress, arg);

	days_save(ns); /* with what was written just now */
	return err;
}
