#include "names/check.h"

#include <errno.h>
#include <limits.h>
#include <sys/stat.h>

#include "base/log.h"
#include "names/inode.h"
#include "names/names.h"
#include "names/tree.h"

static uint32_t count_links(const struct ns *ns, const struct tree_inode *inode)
{
	uint32_t links = S_ISDIR(inode->rec.mode) ? 2 : 0;
	const struct tree_entry *name;

	if (S_ISDIR(inode->rec.mode)) {
		for (size_t i = 0; i < inode->entry_count; i++)
			links += S_ISDIR(inode->entries[i]->child->rec.mode) ? 1 : 0;
		return inode != tree_inode(&ns->tree, NS_ROOT_INO) && LIST_EMPTY(&inode->names) ? 0 : links;
	}
	LIST_FOREACH(name, &inode->names, name_link)
		links++;
	return links;
}

/* The way up from everything ends at the root. */
static bool ends_at_root(const struct ns *ns, struct tree_inode *inode)
{
	struct tree_inode *root = tree_inode(&ns->tree, NS_ROOT_INO);
	size_t steps = 0;

	for (struct tree_inode *up = inode; up && up != root; up = tree_parent(up))
		if (++steps > HASH_COUNT(ns->tree.inodes))
			return false;
	return true;
}

/* Link counts are what the names say. A record may differ after a change that failed, and was written all the same.
 * What has no name is removed, as what such a creation leaves, unless there is something in it: then it is damage. */
static int check_inode(const struct ns *ns, struct tree_inode *inode)
{
	bool is_dir = S_ISDIR(inode->rec.mode);
	uint32_t links = count_links(ns, inode);
	char path[PATH_MAX] = "?";

	if (is_dir && links && !ends_at_root(ns, inode))
		return -EBADMSG;
	if (links == inode->rec.nlink)
		return 0;
	if (!links && (is_dir ? inode->entry_count : inode->rec.size_bytes))
		return -EBADMSG;
	tree_path(inode, path, sizeof(path));
	if (links)
		log_warn("%s: has %u links, and not %u as its record says; that is put right", path, links,
			 inode->rec.nlink);
	else
		log_warn("inode %llu has no name, and nothing in it: it is removed", (unsigned long long)inode->ino);
	inode->rec.nlink = links;
	inode->unsaved = true;
	return 0;
}

int check_tree(const struct ns *ns)
{
	struct tree_inode *inode, *next;
	int err = 0;

	inode = tree_inode(&ns->tree, NS_ROOT_INO);
	if (!inode || !S_ISDIR(inode->rec.mode))
		return -EBADMSG;
	HASH_ITER(hh, ns->tree.inodes, inode, next) {
		if (err == 0)
			err = check_inode(ns, inode);
	}
	return err;
}
