/* names/inode.h - inodes, for the files of names/ alone: names.c (names), dir.c (reading directories), content.c (RAM
 * files), clone.c (the same content in two) and load.c (load, list, close).
 *
 * Changes are serial: between ns_change_begin() and ns_change_end() a thread owns the right to change records, and
 * everybody else who wants to waits. The lock itself is dropped while the store writes; readers see the old state until
 * the change is applied, after the store has it. So a change that fails leaves nothing to undo but what was added as
 * pending.
 *
 * No function of ramfile.h is called with the lock held or within a change: any of them may report the file dirty, on
 * the calling thread, and that is a change. Instead the inode is marked busy (one such call at a time for what loads,
 * resizes or removes the RAM file) or pinned (for what only needs it to stay).
 *
 * "Caller holds ns->lock" goes for every function here; those that drop it meanwhile say so.
 */
#pragma once

#include "base/lock.h"
#include "names/names.h"
#include "names/outcome.h"
#include "names/bounds.h"
#include "names/record.h"
#include "names/tree.h"

struct ns {
	struct store *store;      /* immutable */
	struct engine *engine;    /* immutable */
	uint32_t block_bytes;     /* immutable */
	struct outcomes outcomes; /* immutable */
	struct share defaults;    /* immutable: of new files */
	uint64_t file_max_bytes;  /* immutable */
	struct bounds bounds;     /* lock, but for its bounds, which are immutable */
	struct lock lock;
	pthread_cond_t cond; /* changing became false, or some inode's busy or keeps fell */
	bool changing;       /* lock, as all below */
	struct tree tree;
	uint64_t next_ino;
	unsigned int survivors; /* inodes that are one */
	size_t share_count;     /* inodes that have a share */
	size_t min_count;       /* of those, that have a dram.min */
	bool placed;            /* files are charged to tenants */
	size_t nameless;        /* inodes that live where their last name was */
	bool many;              /* files may be in other stores than the pool's own, by its record */
	pthread_t days_thread;  /* names/days.h, as all below; start and stop alone use the first two */
	bool days_run;
	pthread_cond_t days_cond;
	bool days_stop;
};

/* A change: begin, one commit or more, end. commit: errors of the store, and nothing was changed then. */
void ns_change_begin(struct ns *ns); /* may drop the lock while it waits: look inodes up afterwards */
int ns_change_commit(struct ns *ns, const struct record_batch *batch, bool durable); /* drops the lock meanwhile */
void ns_change_end(struct ns *ns);

/* Within a change, the inode pinned or open: writes one record, and takes it over into the inode on success. */
int ns_change_record(struct ns *ns, struct tree_inode *inode, const struct record_inode *rec, bool durable);

/* For times of inodes. */
struct timespec ns_now(void);

/* The inode that must be there: -ENOENT. A directory, too: -ENOTDIR. */
int ns_find(struct ns *ns, uint64_t ino, struct tree_inode **ret);
int ns_find_dir(struct ns *ns, uint64_t ino, struct tree_inode **ret);

/* Fills what the record knows; ns_stat_figures() then adds the RAM file's figures, without the lock. */
void ns_stat(const struct ns *ns, const struct tree_inode *inode, struct stat *ret);

/* The inode stays while it is pinned. */
void ns_keep(struct tree_inode *inode);
void ns_release(struct ns *ns, struct tree_inode *inode); /* may drop the lock, and the inode with it */

/* Removes an inode that nothing refers to any more, with its content. Not within a change. Drops the lock meanwhile;
 * the inode may be gone then. */
void ns_reap_if_unused(struct ns *ns, struct tree_inode *inode);

/* Numbers of all inodes for which want() holds, so that a caller may drop the lock between them. The caller frees *ret;
 * NULL: no memory. */
typedef bool ns_want_fn(const struct tree_inode *inode);
size_t ns_list_inodes(struct ns *ns, ns_want_fn *want, uint64_t **ret);

/* Looks again at files without a name whose processes outlived an earlier daemon: nobody tells when such a process ends
 * that never came back. Not within a change; drops the lock meanwhile. */
void ns_reap_survivors(struct ns *ns);

/* Waits until nobody loads or resizes the RAM file; drops the lock meanwhile. Who then sets busy ends it by the other.
 */
void ns_wait_busy(struct ns *ns, struct tree_inode *inode);
void ns_set_idle(struct ns *ns, struct tree_inode *inode);

/* Adds the figures of a RAM file that the caller has pinned. The caller holds no lock. */
void ns_stat_figures(struct ramfile *file, struct stat *ret);
