/* names/bounds.h - bounds of what a user may own: inodes, and bytes of size of all his RAM files together.
 *
 * Counted by the owner of the inode, from when it is made until it and its content are removed; root has no bounds. Who
 * gets a file by chown(2) gets it whatever it makes of his sum. A bound that is lowered takes nothing away.
 *
 * For the files of names/ alone. The caller holds ns->lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct ns;
struct owner;
struct tree_inode;

struct bounds {
	struct owner *list; /* a hash, by user; who had a file once stays in it */
	uint64_t most_inodes, most_bytes;
};

void bounds_fini(struct bounds *bounds);
/* The inode counts from here on, with its size. -ENOMEM. */
int bounds_add(struct ns *ns, struct tree_inode *inode);
/* Before one is made. -EDQUOT, and a line in the log when it begins. */
int bounds_may_add(struct ns *ns, uid_t uid);
void bounds_drop(struct ns *ns, struct tree_inode *inode);
/* The inode counts with that size from here on: before it grows, and with what it is after it did not. -EDQUOT:
 * nothing changed, he would have more than he may; never for one that does not grow. */
int bounds_resize(struct ns *ns, struct tree_inode *inode, uint64_t size_bytes);
/* Before another user gets it: -ENOMEM. Afterwards bounds_pass() cannot fail. */
int bounds_expect(struct ns *ns, uid_t uid);
void bounds_pass(struct ns *ns, struct tree_inode *inode, uid_t uid);
