#include "names/placed.h"

#include "engine/engine.h"
#include "engine/file.h"
#include "engine/room.h"
#include "engine/tenant.h"
#include "names/inode.h"
#include "names/share.h"

struct tree_inode *placed_in(const struct ns *ns, const struct tree_inode *inode)
{
	struct tree_inode *dir = NULL;
	struct tree_entry *entry;

	if (inode->ino == NS_ROOT_INO)
		return NULL;
	LIST_FOREACH(entry, &inode->names, name_link)
		if (!entry->pending && (!dir || entry->dir->ino < dir->ino))
			dir = entry->dir;
	if (!dir && inode->home_ino)
		dir = tree_inode(&ns->tree, inode->home_ino);
	return dir ? dir : tree_inode(&ns->tree, NS_ROOT_INO);
}

struct tenant *placed_tenant(const struct ns *ns, const struct tree_inode *inode)
{
	while (inode && !inode->tenant)
		inode = placed_in(ns, inode);
	return inode ? inode->tenant : NULL;
}

static uint64_t said(const struct share *share, enum share_id id, uint64_t nothing)
{
	return share->value[id] == SHARE_NONE ? nothing : share->value[id];
}

static struct tenant_share share_of(const struct tree_inode *inode)
{
	return (struct tenant_share){
		.min_bytes = said(inode->share, SHARE_DRAM_MIN, 0),
		.max_bytes = said(inode->share, SHARE_DRAM_MAX, UINT64_MAX),
		.weight = (uint32_t)said(inode->share, SHARE_DRAM_WEIGHT, 0),
		.per_s = { [FLOW_READ_OPS] = said(inode->share, SHARE_READ_IOPS, 0),
			   [FLOW_READ_BYTES] = said(inode->share, SHARE_READ_BPS, 0),
			   [FLOW_WRITE_BYTES] = said(inode->share, SHARE_WRITE_BPS, 0) },
		.disk_bytes = said(inode->share, SHARE_DISK_MAX, 0),
		.day_bytes = said(inode->share, SHARE_WRITE_DAY, 0),
	};
}

/* NULL: it is right below the mount. */
static struct tenant *above(const struct ns *ns, const struct tree_inode *inode)
{
	const struct tree_inode *dir = placed_in(ns, inode);

	return dir ? placed_tenant(ns, dir) : NULL;
}

static void put(struct ns *ns, struct tree_inode *inode)
{
	struct tenant_share share = share_of(inode);

	inode->tenant->ino = inode->ino;
	tenants_put(ns->engine, inode->tenant, above(ns, inode), &share);
}

/* Of a file that is not loaded the record knows what is stored: it is clean. */
static void place_away(struct tree_inode *inode, struct tenant *tenant)
{
	inode->away_in = tenant;
	inode->away_bytes = tenant ? inode->rec.stored_bytes : 0;
	tenants_place_stored(tenant, inode->away_bytes);
}

/* The same while the tree stays. */
static void move_away(struct ns *ns, struct tree_inode *inode, struct tenant *tenant)
{
	uint64_t bytes = inode->away_in ? inode->away_bytes : tenant ? inode->rec.stored_bytes : 0;

	if (inode->away_in == tenant)
		return;
	tenant_move_stored(ns->engine, inode->away_in, tenant, bytes);
	inode->away_in = tenant;
	inode->away_bytes = bytes;
}

void placed_all(struct ns *ns)
{
	struct tree_inode *inode, *next, *files = NULL;

	if (!ns->share_count && !ns->placed)
		return;
	/* Nobody is charged between begin and end, so what takes its time is done before. */
	HASH_ITER(hh, ns->tree.inodes, inode, next) {
		if (!S_ISREG(inode->rec.mode))
			continue;
		inode->tenant_to_be = placed_tenant(ns, inode);
		inode->next_placed = files;
		files = inode;
	}
	tenants_begin(ns->engine);
	HASH_ITER(hh, ns->tree.inodes, inode, next)
		if (inode->tenant)
			put(ns, inode);
	for (; files; files = files->next_placed)
		if (files->file)
			tenants_place(files->file, files->tenant_to_be);
		else
			place_away(files, files->tenant_to_be);
	tenants_end(ns->engine);
	room_look_again(ns->engine, true);
	ns->placed = ns->share_count > 0;
}

void placed_one(struct ns *ns, struct tree_inode *inode)
{
	struct tenant_share share = share_of(inode);

	ns->placed = true;
	inode->tenant->ino = inode->ino;
	tenant_add(ns->engine, inode->tenant, above(ns, inode), &share);
	if (inode->file)
		tenant_place(inode->file, inode->tenant);
	else
		move_away(ns, inode, inode->tenant);
	room_look_again(ns->engine, true);
}

void placed_without(struct ns *ns, const struct tree_inode *inode)
{
	if (S_ISDIR(inode->rec.mode)) {
		placed_all(ns);
	} else if (ns->placed) {
		tenant_remove(ns->engine, inode->tenant);
		ns->placed = ns->share_count > 0;
		room_look_again(ns->engine, true);
	}
}

void placed_move(struct ns *ns, struct tree_inode *dir, const struct tree_inode *from)
{
	const struct tree_inode *now = placed_in(ns, dir);

	if (ns->placed && now != from && !placed_alike(ns, now, from))
		placed_all(ns);
}

void placed_again(struct ns *ns, struct tree_inode *inode)
{
	if (!ns->placed)
		return;
	if (inode->tenant) {
		struct tenant_share share = share_of(inode);

		tenant_move(ns->engine, inode->tenant, above(ns, inode), &share);
		room_look_again(ns->engine, true);
	} else if (inode->file && tenant_place(inode->file, placed_tenant(ns, inode))) {
		room_look_again(ns->engine, tenant_missing(inode->file) > 0);
	} else if (!inode->file && S_ISREG(inode->rec.mode)) {
		move_away(ns, inode, placed_tenant(ns, inode));
	}
}

bool placed_alike(const struct ns *ns, const struct tree_inode *a, const struct tree_inode *b)
{
	return !ns->share_count || placed_tenant(ns, a) == placed_tenant(ns, b);
}

void placed_file(struct ns *ns, struct tree_inode *inode)
{
	if (!inode->file)
		return;
	move_away(ns, inode, NULL);
	if (tenant_place(inode->file, placed_tenant(ns, inode)) && tenant_missing(inode->file))
		room_near(ns->engine);
}

void placed_out(struct ns *ns, struct tree_inode *inode)
{
	move_away(ns, inode, NULL);
	if (inode->file)
		tenant_place(inode->file, NULL);
}

void placed_leave(struct ns *ns, struct tree_inode *inode, const struct tree_inode *dir)
{
	inode->home_ino = dir->ino;
	ns->nameless++;
}

void placed_end(struct ns *ns, const struct tree_inode *gone)
{
	struct tree_inode *inode, *next;

	if (gone->home_ino)
		ns->nameless--;
	if (!ns->nameless || !S_ISDIR(gone->rec.mode))
		return;
	HASH_ITER(hh, ns->tree.inodes, inode, next)
		if (inode->home_ino == gone->ino)
			inode->home_ino = gone->home_ino;
}
