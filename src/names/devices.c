#include "names/devices.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "cold/stores.h"
#include "engine/flow.h"
#include "names/inode.h"
#include "names/names.h"
#include "names/placed.h"
#include "names/share.h"

unsigned int devices_wanted(const struct ns *ns, const struct tree_inode *inode)
{
	uint64_t index = SHARE_NONE;

	for (; inode && index == SHARE_NONE; inode = placed_in(ns, inode))
		if (inode->share)
			index = inode->share->value[SHARE_STORE];
	return index < stores_count(ns->store) ? (unsigned int)index : 0;
}

unsigned int devices_begin(const struct ns *ns, const struct tree_inode *dir)
{
	unsigned int index = devices_wanted(ns, dir);

	return stores_here(ns->store, index) ? index : 0;
}

static void want(struct ns *ns, const struct tree_inode *inode)
{
	unsigned int index = devices_wanted(ns, inode);

	if (stores_want(ns->store, inode->ino, index) < 0)
		log_warn("file %llu: does not move to store %s: no memory; set its store again",
			 (unsigned long long)inode->ino, stores_name(ns->store, index));
}

void devices_all(struct ns *ns)
{
	struct tree_inode *inode, *next;

	if (stores_count(ns->store) == 1)
		return;
	HASH_ITER(hh, ns->tree.inodes, inode, next)
		if (S_ISREG(inode->rec.mode))
			want(ns, inode);
}

void devices_again(struct ns *ns, struct tree_inode *inode)
{
	if (stores_count(ns->store) > 1 && S_ISREG(inode->rec.mode))
		want(ns, inode);
}

void devices_move(struct ns *ns, const struct tree_inode *dir, const struct tree_inode *from)
{
	const struct tree_inode *now = placed_in(ns, dir);

	if (stores_count(ns->store) > 1 && now && devices_wanted(ns, now) != devices_wanted(ns, from))
		devices_all(ns);
}

bool devices_here(const struct ns *ns, const struct tree_inode *inode)
{
	struct stores_where where;

	stores_where(ns->store, inode->ino, &where);
	return where.here;
}

bool devices_apart(const struct ns *ns, const struct tree_inode *inode)
{
	struct stores_where where;

	stores_where(ns->store, inode->ino, &where);
	return where.at || where.from;
}

static int forget_gone(void *arg, uint64_t ino)
{
	struct ns *ns = arg;

	LOCK_SCOPE(&ns->lock);
	if (!tree_inode(&ns->tree, ino))
		stores_forget(ns->store, ino);
	return 0;
}

int devices_load(struct ns *ns)
{
	int err = stores_each(ns->store, forget_gone, ns);

	LOCK_SCOPE(&ns->lock);
	devices_all(ns);
	return err;
}

uint64_t ns_pace(void *arg, uint64_t ino, uint64_t values, uint64_t bytes)
{
	struct ns *ns = arg;
	struct tree_inode *inode;

	LOCK_SCOPE(&ns->lock);
	inode = tree_inode(&ns->tree, ino);
	return inode ? flow_take_move(ns->engine, placed_tenant(ns, inode), values, bytes) : 0;
}
