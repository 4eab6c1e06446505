/* Who owns how much. bounds.h has the rules. */
#include "names/bounds.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/size.h"
#include "names/inode.h"

struct owner {
	uid_t uid;
	uint64_t inodes, bytes;
	bool told_inodes, told_bytes; /* it was said that he may have no more */
	UT_hash_handle hh;
};

static struct owner *find(const struct bounds *bounds, uid_t uid)
{
	struct owner *owner;

	HASH_FIND(hh, bounds->list, &uid, sizeof(uid), owner);
	return owner;
}

int bounds_expect(struct ns *ns, uid_t uid)
{
	struct owner *owner = find(&ns->bounds, uid);

	if (owner)
		return 0;
	owner = calloc(1, sizeof(*owner));
	if (!owner)
		return -ENOMEM;
	owner->uid = uid;
	HASH_ADD(hh, ns->bounds.list, uid, sizeof(owner->uid), owner);
	if (owner->hh.tbl)
		return 0;
	free(owner);
	return -ENOMEM;
}

void bounds_fini(struct bounds *bounds)
{
	struct owner *owner, *next;

	HASH_ITER(hh, bounds->list, owner, next) {
		HASH_DEL(bounds->list, owner);
		free(owner);
	}
}

int bounds_add(struct ns *ns, struct tree_inode *inode)
{
	int err = bounds_expect(ns, inode->rec.uid);

	if (err)
		return err;
	inode->owner = find(&ns->bounds, inode->rec.uid);
	inode->owned_bytes = inode->rec.size_bytes;
	inode->owner->inodes++;
	inode->owner->bytes += inode->owned_bytes;
	return 0;
}

int bounds_may_add(struct ns *ns, uid_t uid)
{
	int err = bounds_expect(ns, uid);
	struct owner *owner = err ? NULL : find(&ns->bounds, uid);

	if (err || !uid || owner->inodes < ns->bounds.most_inodes)
		return err;
	if (!owner->told_inodes)
		log_warn("user %u: may make no more files: uid_files allows %llu, none is left", (unsigned int)uid,
			 (unsigned long long)ns->bounds.most_inodes);
	owner->told_inodes = true;
	return -EDQUOT;
}

static void look_relieved(const struct bounds *bounds, struct owner *owner)
{
	if (owner->inodes < bounds->most_inodes - bounds->most_inodes / 16)
		owner->told_inodes = false;
	if (owner->bytes < bounds->most_bytes - bounds->most_bytes / 16)
		owner->told_bytes = false;
}

void bounds_drop(struct ns *ns, struct tree_inode *inode)
{
	if (!inode->owner)
		return;
	inode->owner->inodes--;
	inode->owner->bytes -= inode->owned_bytes;
	look_relieved(&ns->bounds, inode->owner);
	inode->owner = NULL;
}

static void tell_bytes(const struct ns *ns, const struct tree_inode *inode)
{
	const struct owner *owner = inode->owner;
	uint64_t most = ns->bounds.most_bytes, left = owner->bytes < most ? most - owner->bytes : 0;
	char text[2][SIZE_TEXT_LEN];

	log_warn("user %u: inode %llu may not grow: uid_space allows %s for all his files, %s are left",
		 (unsigned int)owner->uid, (unsigned long long)inode->ino, size_format(most, text[0]),
		 size_format(left, text[1]));
}

int bounds_resize(struct ns *ns, struct tree_inode *inode, uint64_t size_bytes)
{
	struct owner *owner = inode->owner;
	uint64_t others;

	if (!owner)
		return 0;
	others = owner->bytes - inode->owned_bytes;
	if (size_bytes > inode->owned_bytes && owner->uid &&
	    (others > ns->bounds.most_bytes || size_bytes > ns->bounds.most_bytes - others)) {
		if (!owner->told_bytes)
			tell_bytes(ns, inode);
		owner->told_bytes = true;
		return -EDQUOT;
	}
	owner->bytes = others + size_bytes;
	inode->owned_bytes = size_bytes;
	look_relieved(&ns->bounds, owner);
	return 0;
}

void bounds_pass(struct ns *ns, struct tree_inode *inode, uid_t uid)
{
	struct owner *to = find(&ns->bounds, uid);

	if (!inode->owner || !to || inode->owner == to)
		return;
	bounds_drop(ns, inode);
	inode->owner = to;
	to->inodes++;
	to->bytes += inode->owned_bytes;
}
