/* names/devices.h - which store of the pool (cold/stores.h) is to have the cold memory of each file: the one that its
 * own share says, else that of the nearest directory above it, else the pool's own.
 *
 * For the files of names/ alone. The caller holds ns->lock unless it is said. None does I/O.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct ns;
struct tree_inode;

unsigned int devices_wanted(const struct ns *ns, const struct tree_inode *inode);
/* Where a file that is made in the directory begins: that one if it is here. */
unsigned int devices_begin(const struct ns *ns, const struct tree_inode *dir);
/* Shares have changed. */
void devices_all(struct ns *ns);
/* The names of a file have changed. */
void devices_again(struct ns *ns, struct tree_inode *inode);
/* A directory has come from that one to where it is now. */
void devices_move(struct ns *ns, const struct tree_inode *dir, const struct tree_inode *from);
/* False: what the file needs is in a store that this mount lacks. */
bool devices_here(const struct ns *ns, const struct tree_inode *inode);
/* True: some of what is stored of it may be in another store than the names, so that neither log says what comes first.
 * False: none is, and what comes to be there later does so after what is in the log of the names now. */
bool devices_apart(const struct ns *ns, const struct tree_inode *inode);
/* Without the lock: all names are loaded. Files that are gone are forgotten. -ENOMEM. */
int devices_load(struct ns *ns);
