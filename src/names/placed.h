/* names/placed.h - which tenant each RAM file is charged to: itself, or the nearest directory that has a share.
 *
 * All names of a file are in one tenant: links and renames out of it are refused for a file with several names, as
 * project quotas do it. Where a share was set later on one of its directories, the one with the least number counts. A
 * file that has lost its last name goes on living where that was, so that nobody gets out of a share by removing the
 * name of what he maps; a daemon that is restarted knows no more than that it was in the mount.
 *
 * For the files of names/ alone. The caller holds ns->lock. None can fail.
 */
#pragma once

#include <stdbool.h>

struct ns;
struct tenant;
struct tree_inode;

/* The directory that it lives in; NULL for the root. */
struct tree_inode *placed_in(const struct ns *ns, const struct tree_inode *inode);
/* Whom it is charged to; NULL: nobody. Valid under the lock. */
struct tenant *placed_tenant(const struct ns *ns, const struct tree_inode *inode);
/* Shares have changed: all files are placed anew. Goes through all inodes; costs nothing while there are no shares. */
void placed_all(struct ns *ns);
/* A RAM file has a share now and had none, or does not have its any more and was taken out (placed_out()): nobody else
 * is placed anew. A directory that has lost its: all are. */
void placed_one(struct ns *ns, struct tree_inode *inode);
void placed_without(struct ns *ns, const struct tree_inode *inode);
/* A directory has come from that one to where it is now. All files are placed anew if it lives in another tenant. */
void placed_move(struct ns *ns, struct tree_inode *dir, const struct tree_inode *from);
/* The names of a file have changed, or the share that it had. */
void placed_again(struct ns *ns, struct tree_inode *inode);
/* Both are in the same tenant. */
bool placed_alike(const struct ns *ns, const struct tree_inode *a, const struct tree_inode *b);
/* Its file was loaded. */
void placed_file(struct ns *ns, struct tree_inode *inode);
/* Its file is about to go. */
void placed_out(struct ns *ns, struct tree_inode *inode);
/* Before its last name, which is in that directory, is removed. */
void placed_leave(struct ns *ns, struct tree_inode *inode, const struct tree_inode *dir);
/* It was taken out of the tree. What lived in it lives where it did. */
void placed_end(struct ns *ns, const struct tree_inode *inode);
