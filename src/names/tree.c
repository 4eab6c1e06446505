/* names/tree.c - see tree.h. */
#include "names/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void tree_init(struct tree *tree)
{
	*tree = (struct tree){ .next_cookie = TREE_COOKIE_FIRST };
}

void tree_fini(struct tree *tree)
{
	struct tree_inode *inode, *next_inode;
	struct tree_entry *entry, *next_entry;

	HASH_ITER(hh, tree->entries, entry, next_entry) {
		HASH_DELETE(hh, tree->entries, entry);
		free(entry);
	}
	HASH_ITER(hh, tree->inodes, inode, next_inode) {
		HASH_DELETE(hh, tree->inodes, inode);
		tree_inode_free(inode);
	}
}

struct tree_inode *tree_inode(const struct tree *tree, uint64_t ino)
{
	struct tree_inode *inode;

	HASH_FIND(hh, tree->inodes, &ino, sizeof(ino), inode);
	return inode;
}

int tree_inode_add(struct tree *tree, uint64_t ino, const struct record_inode *rec, struct tree_inode **ret)
{
	struct tree_inode *inode = calloc(1, sizeof(*inode));

	if (!inode)
		return -ENOMEM;
	inode->ino = ino;
	inode->rec = *rec;
	LIST_INIT(&inode->names);
	HASH_ADD(hh, tree->inodes, ino, sizeof(inode->ino), inode);
	if (!inode->hh.tbl) {
		free(inode);
		return -ENOMEM;
	}
	*ret = inode;
	return 0;
}

void tree_inode_take(struct tree *tree, struct tree_inode *inode)
{
	HASH_DELETE(hh, tree->inodes, inode);
}

void tree_inode_free(struct tree_inode *inode)
{
	if (!inode)
		return;
	free(inode->entries);
	free(inode->share);
	free(inode->tenant);
	free(inode);
}

/* ---- entries ---- */

static size_t key_fill(struct tree_key *key, uint64_t dir, const char *name, size_t name_len)
{
	key->dir = dir;
	memcpy(key->name, name, name_len + 1);
	return sizeof(*key) + name_len;
}

struct tree_entry *tree_entry(const struct tree *tree, const struct tree_inode *dir, const char *name)
{
	_Alignas(struct tree_key) char buf[sizeof(struct tree_key) + NAME_MAX + 1];
	struct tree_entry *entry;
	size_t len = strlen(name);

	if (len > NAME_MAX)
		return NULL;
	len = key_fill((struct tree_key *)buf, dir->ino, name, len);
	HASH_FIND(hh, tree->entries, buf, len, entry);
	return entry && !entry->pending ? entry : NULL;
}

static int dir_make_room(struct tree_inode *dir)
{
	size_t cap = dir->entry_cap ? dir->entry_cap * 2 : 8;
	struct tree_entry **grown;

	if (dir->entry_count < dir->entry_cap)
		return 0;
	grown = reallocarray(dir->entries, cap, sizeof(struct tree_entry *));
	if (!grown)
		return -ENOMEM;
	dir->entries = grown;
	dir->entry_cap = cap;
	return 0;
}

int tree_entry_add(struct tree *tree, struct tree_inode *dir, const char *name, struct tree_inode *child,
		   struct tree_entry **ret)
{
	size_t len = strlen(name);
	struct tree_entry *entry = NULL;

	if (dir_make_room(dir) == 0)
		entry = calloc(1, sizeof(*entry) + len + 1);
	if (!entry)
		return -ENOMEM;
	entry->dir = dir;
	entry->child = child;
	entry->cookie = tree->next_cookie++;
	entry->pending = true;
	entry->key_len = key_fill(&entry->key, dir->ino, name, len);
	HASH_ADD(hh, tree->entries, key, entry->key_len, entry);
	if (!entry->hh.tbl) {
		free(entry);
		return -ENOMEM;
	}
	/* Cookies only grow, so the end of the array is its place. */
	dir->entries[dir->entry_count++] = entry;
	LIST_INSERT_HEAD(&child->names, entry, name_link);
	*ret = entry;
	return 0;
}

void tree_entry_show(struct tree_entry *entry)
{
	entry->pending = false;
}

void tree_entry_remove(struct tree *tree, struct tree_entry *entry)
{
	struct tree_inode *dir;
	size_t i;

	if (!entry)
		return;
	dir = entry->dir;
	i = tree_after(dir, entry->cookie - 1);
	memmove(dir->entries + i, dir->entries + i + 1, (dir->entry_count - i - 1) * sizeof(struct tree_entry *));
	dir->entry_count--;
	LIST_REMOVE(entry, name_link);
	HASH_DELETE(hh, tree->entries, entry);
	free(entry);
}

void tree_entry_set_child(struct tree_entry *entry, struct tree_inode *child)
{
	LIST_REMOVE(entry, name_link);
	entry->child = child;
	LIST_INSERT_HEAD(&child->names, entry, name_link);
}

size_t tree_after(const struct tree_inode *dir, uint64_t cookie)
{
	size_t low = 0, high = dir->entry_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (dir->entries[middle]->cookie > cookie)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* ---- up ---- */

/* A name that can be seen: that of a new inode is pending at first. */
static struct tree_entry *first_name(struct tree_inode *inode)
{
	struct tree_entry *entry;

	LIST_FOREACH(entry, &inode->names, name_link)
		if (!entry->pending)
			return entry;
	return NULL;
}

struct tree_inode *tree_parent(struct tree_inode *dir)
{
	struct tree_entry *name = first_name(dir);

	if (name)
		return name->dir;
	return dir->rec.nlink ? dir : NULL;
}

bool tree_is_below(struct tree_inode *dir, const struct tree_inode *above)
{
	struct tree_inode *parent;

	for (; dir && dir != above; dir = parent) {
		parent = tree_parent(dir);
		if (parent == dir)
			return false;
	}
	return dir == above;
}

int tree_path(struct tree_inode *inode, char *buf, size_t cap)
{
	char path[PATH_MAX];
	size_t at = sizeof(path) - 1;
	struct tree_entry *name;
	const char *text = path + at;

	path[at] = '\0';
	for (; (name = first_name(inode)); inode = name->dir) {
		size_t len = strlen(name->key.name);

		if (len + 1 > at)
			return -ERANGE;
		at -= len + 1;
		path[at] = '/';
		memcpy(path + at + 1, name->key.name, len);
		text = path + at;
	}
	/* Up there is the root, unless the way ended at something that was removed. */
	if (inode->rec.nlink == 0)
		text = "(unlinked)";
	else if (*text == '\0')
		text = "/";
	if (strlen(text) >= cap)
		return -ERANGE;
	memcpy(buf, text, strlen(text) + 1);
	return 0;
}
