/* names/dir.c - see names.h and inode.h: reading a directory. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "names/inode.h"
#include "names/names.h"
#include "names/tree.h"

#define READDIR_BATCH 64

struct found {
	uint64_t next_cookie;
	struct tree_inode *inode; /* pinned */
	struct ramfile *file;
	struct stat attr;
	char name[NAME_MAX + 1];
};

static void found_add(struct ns *ns, struct found *found, struct tree_inode *inode, const char *name,
		      uint64_t next_cookie)
{
	ns_keep(inode);
	found->inode = inode;
	found->file = inode->file;
	found->next_cookie = next_cookie;
	ns_stat(ns, inode, &found->attr);
	memcpy(found->name, name, strlen(name) + 1);
}

/* Takes the next entries, pinned, so that they can be reported without the lock. */
static size_t collect(struct ns *ns, struct tree_inode *dir, uint64_t cookie, struct found *found)
{
	struct tree_inode *parent = tree_parent(dir);
	size_t count = 0;

	if (cookie < 1)
		found_add(ns, &found[count++], dir, ".", 1);
	if (cookie < 2)
		found_add(ns, &found[count++], parent ? parent : dir, "..", 2);
	for (size_t i = tree_after(dir, cookie); i < dir->entry_count && count < READDIR_BATCH; i++) {
		struct tree_entry *entry = dir->entries[i];

		if (!entry->pending)
			found_add(ns, &found[count++], entry->child, entry->key.name, entry->cookie);
	}
	return count;
}

int ns_readdir(struct ns *ns, uint64_t ino, uint64_t cookie, ns_entry_fn *fn, void *arg)
{
	struct found *found = calloc(READDIR_BATCH, sizeof(*found));
	struct tree_inode *dir;
	size_t count;
	int err, stop = 0;

	if (!found)
		return -ENOMEM;
	do {
		lock_get(&ns->lock);
		err = ns_find_dir(ns, ino, &dir);
		count = err == 0 ? collect(ns, dir, cookie, found) : 0;
		lock_put(&ns->lock);
		for (size_t i = 0; i < count && !stop; i++) {
			if (found[i].file)
				ns_stat_figures(found[i].file, &found[i].attr);
			cookie = found[i].next_cookie;
			stop = fn(arg, found[i].name, &found[i].attr, cookie);
		}
		lock_get(&ns->lock);
		for (size_t i = 0; i < count; i++)
			ns_release(ns, found[i].inode);
		lock_put(&ns->lock);
	} while (err == 0 && !stop && count > 0);
	free(found);
	return err;
}
