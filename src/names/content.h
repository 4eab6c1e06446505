/* names/content.h - the RAM files of inodes, for the files of names/ alone: loaded, made durable, resized.
 *
 * Thread-safety: all functions. "Caller holds ns->lock" goes for those that do not say otherwise; all drop it
 * meanwhile. 0 or -errno: those of ramfile.h, and of the store.
 */
#pragma once

#include "names/inode.h"

/* The kernel has dropped the inode: it gives all its references back at once, so when they are at least those that were
 * counted, none is left of an earlier daemon, and no open. Drops the lock meanwhile; NULL: the inode is gone. */
struct tree_inode *ns_end_inheritance(struct ns *ns, struct tree_inode *inode);
/* inode->file becomes non-NULL, and the inode is not busy on return. Drops the lock meanwhile; the caller has the inode
 * pinned or open. */
int ns_load_file(struct ns *ns, struct tree_inode *inode);
/* As fsync(2), of a loaded file that is pinned. keep: also what is resident; else that is left as it is. Clean
 * afterwards if nothing is resident. Drops the lock meanwhile. */
int ns_sync_inode(struct ns *ns, struct tree_inode *inode, bool keep);
/* Truncates, or only lets grow. The caller holds no lock. -EISDIR, -EFBIG. */
int ns_resize(struct ns *ns, uint64_t ino, uint64_t size_bytes, bool grow_only);
