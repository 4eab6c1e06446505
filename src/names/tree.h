/* names/tree.h - inodes and directory entries in memory. Pure: no store, no RAM files, no locks of its own.
 *
 * Two hash tables (inodes by number, entries by directory and name), for each directory an array of its entries in the
 * order of their cookies, for each inode a list of its names. Callers serialize (names/names.c: under its lock).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

/* Without memory for its buckets uthash would end the process; tree.c turns it into -ENOMEM. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "names/record.h"

struct ramfile;
struct tenant;
struct owner;

struct tree_entry {
	struct tree_inode *dir; /* immutable, as is key */
	struct tree_inode *child;
	uint64_t cookie;                  /* position in the directory; never reused */
	bool pending;                     /* its change is not in the store yet: nobody sees it */
	LIST_ENTRY(tree_entry) name_link; /* of child->names */
	UT_hash_handle hh;
	size_t key_len;
	struct tree_key {
		uint64_t dir;
		char name[];
	} key;
};

struct tree_inode {
	uint64_t ino;            /* immutable */
	struct record_inode rec; /* the record; newer than the store's if unsaved */
	bool unsaved;
	bool inherited;              /* the kernel may have references and opens of it from an earlier daemon */
	bool plain;                  /* ... and one of those opens counts as cached */
	bool survivor;               /* had no name left when it was loaded, and a process still maps it */
	bool busy;                   /* its RAM file is being loaded, resized or removed, without the lock */
	uint64_t lookups;            /* references of the kernel */
	struct share *share;         /* NULL: nothing is said */
	struct tenant *tenant;       /* has it in the engine; NULL as well then */
	struct tenant *tenant_to_be; /* for placed_all() alone, as next_placed is */
	struct tree_inode *next_placed;
	struct tenant *away_in; /* of a RAM file that is not loaded: who is charged for what is stored of it */
	uint64_t away_bytes;    /* ... which is so much */
	struct owner *owner;    /* names/bounds.h: whose bounds it counts in; NULL: not yet, or not any more */
	uint64_t owned_bytes;   /* ... with that size */
	uint64_t home_ino;      /* of the directory of its last name; 0: it has a name */
	unsigned int opens;
	unsigned int keeps;   /* short uses without the lock */
	uint64_t dirty_seq;   /* counts reports of changes */
	struct ramfile *file; /* NULL: not loaded */
	LIST_HEAD(, tree_entry) names;
	struct tree_entry **entries; /* directories */
	size_t entry_count, entry_cap;
	UT_hash_handle hh;
};

struct tree {
	struct tree_inode *inodes; /* hash heads */
	struct tree_entry *entries;
	uint64_t next_cookie;
};

#define TREE_COOKIE_FIRST UINT64_C(3) /* 1 and 2 follow "." and ".." */

void tree_init(struct tree *tree);
void tree_fini(struct tree *tree); /* frees what is left */

struct tree_inode *tree_inode(const struct tree *tree, uint64_t ino); /* NULL: there is none */
int tree_inode_add(struct tree *tree, uint64_t ino, const struct record_inode *rec, struct tree_inode **ret);
/* Not found by its number any more; it has no names and no entries. The caller frees it. */
void tree_inode_take(struct tree *tree, struct tree_inode *inode);
void tree_inode_free(struct tree_inode *inode); /* takes NULL */

/* NULL: there is none. Pending entries are not found. */
struct tree_entry *tree_entry(const struct tree *tree, const struct tree_inode *dir, const char *name);
/* The name must be free. Adds it pending: tree_entry_show() lets it be found. */
int tree_entry_add(struct tree *tree, struct tree_inode *dir, const char *name, struct tree_inode *child,
		   struct tree_entry **ret);
void tree_entry_show(struct tree_entry *entry);
void tree_entry_remove(struct tree *tree, struct tree_entry *entry); /* takes NULL */
void tree_entry_set_child(struct tree_entry *entry, struct tree_inode *child);

/* Index of the first entry of dir whose cookie is greater; dir->entry_count if none. */
size_t tree_after(const struct tree_inode *dir, uint64_t cookie);
/* The directory that a directory is in; the root is in itself, a removed one nowhere (NULL). */
struct tree_inode *tree_parent(struct tree_inode *dir);
bool tree_is_below(struct tree_inode *dir, const struct tree_inode *above);
/* "/a/b", "/" for the root, "(unlinked)" for what has no name. -ERANGE: cap is too small. */
int tree_path(struct tree_inode *inode, char *buf, size_t cap);
