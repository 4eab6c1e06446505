/* front/fuse_operations.c - the operations. Each x() below answers its request exactly once, last, with
 * no lock held; what the request does is in door.c, names/ and engine/.
 *
 * An open is of one of two kinds (door_open()). FOPEN_DIRECT_IO: the kernel caches no content, read and write come here
 * as they are, and mapping the file shared behind the daemon's back fails with ENODEV. (It still fills its cache for
 * private mappings, sendfile and splice: engine/cache.c has what follows.) Or cached, which is what a plain
 * mapping needs. A reply to an open of either kind keeps the inode's cache (else the kernel drops all of it, mapped or
 * not), and lets a close pass without write back. Attributes of files (their blocks move) are asked for every time, and
 * no change of theirs may make the kernel drop content; names only change through this mount, so the kernel may keep
 * them.
 *
 * Requests that the kernel sends in the background (write back, asynchronous direct I/O) are fewer than the threads
 * that answer, and reads of absent pages are not among them: a thread that touches one waits behind no write back.
 *
 * Beside the inodes of the namespace there are the doors to arenas (through.h). They can be looked up and opened once,
 * and everything else that is asked of one finds no such inode. Their directory can be looked up. It cannot be opened,
 * so that nobody lists it, and its name cannot be taken, given or removed.
 *
 * fh holds the kind and the rights of the descriptor: inode numbers and fh stay good without any memory of the opens.
 */
#include "front/fuse.h"

#include "front/fuse_operations.h"
#include "names/names.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/interrupt.h"
#include "front/opener.h"
#include "front/resent.h"

#define ENTRY_TIMEOUT_S 3600.0
#define DIR_ATTR_TIMEOUT_S 1.0
#define FILE_ATTR_TIMEOUT_S 0.0
#define DOOR_ATTR_TIMEOUT_S 1e9
#define IO_MAX (1U << 20) /* what the kernel sends in one request */
#define BACKGROUND_MAX 64

static const struct fusedoor *door_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static void reply_rc(fuse_req_t req, int err)
{
	fuse_reply_err(req, -err);
}

/* ---- buffers: one for each worker thread, page aligned ---- */

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void buffer_init(void)
{
	if (pthread_key_create(&buffer_key, free) != 0)
		abort(); /* no keys left in a process that uses a handful */
}

static void *buffer_get(void)
{
	void *buffer;

	pthread_once(&buffer_once, buffer_init);
	buffer = pthread_getspecific(buffer_key);
	if (buffer)
		return buffer;
	if (posix_memalign(&buffer, DOOR_PAGE_BYTES, IO_MAX) != 0)
		return NULL;
	if (pthread_setspecific(buffer_key, buffer) != 0) {
		free(buffer);
		return NULL;
	}
	return buffer;
}

/* ---- names ---- */

static double attr_timeout(const struct stat *attr)
{
	return S_ISDIR(attr->st_mode) ? DIR_ATTR_TIMEOUT_S : FILE_ATTR_TIMEOUT_S;
}

static struct fuse_entry_param entry_of(const struct stat *attr)
{
	return (struct fuse_entry_param){
		.ino = attr->st_ino,
		.attr = *attr,
		.attr_timeout = attr_timeout(attr),
		.entry_timeout = ENTRY_TIMEOUT_S,
	};
}

/* Answers with an inode that one lookup reference was taken for. */
static void reply_entry(fuse_req_t req, const struct stat *attr)
{
	struct fuse_entry_param entry = entry_of(attr);
	struct ns *ns = door_of(req)->door.ns;

	/* An interrupted request never reaches the kernel's tables, so nobody would forget the inode. */
	if (fuse_reply_entry(req, &entry) != 0)
		ns_forget(ns, attr->st_ino, 1);
}

/* What a door to an arena looks like (through.h), and the directory of them: nothing that changes. */
static struct stat attr_of_door(uint64_t node)
{
	mode_t mode = node == THROUGH_DIRECTORY_NODE ? S_IFDIR | 0700 : S_IFREG | 0600;

	return (struct stat){ .st_ino = node, .st_mode = mode, .st_nlink = 1, .st_blksize = DOOR_PAGE_BYTES };
}

static bool is_reserved(fuse_ino_t parent, const char *name)
{
	return through_is(parent) || (parent == FUSE_ROOT_ID && strcmp(name, THROUGH_DIRECTORY) == 0);
}

/* True: the request was answered. */
static bool looked_up_door(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct through *through = door_of(req)->through;
	struct fuse_entry_param entry = { .attr_timeout = DOOR_ATTR_TIMEOUT_S };
	int err = 0;

	if (!is_reserved(parent, name))
		return false;
	if (!through || !through_can(through)) {
		err = -ENOENT;
	} else if (parent == FUSE_ROOT_ID) {
		entry.ino = THROUGH_DIRECTORY_NODE;
		entry.entry_timeout = DOOR_ATTR_TIMEOUT_S;
	} else {
		err = through_lookup(through, name, &entry.ino);
	}
	if (err) {
		reply_rc(req, err);
		return true;
	}
	entry.attr = attr_of_door(entry.ino);
	fuse_reply_entry(req, &entry);
	return true;
}

static void tfs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct ns *ns = door_of(req)->door.ns;
	struct stat attr;
	int err;

	if (looked_up_door(req, parent, name))
		return;
	err = ns_lookup(ns, parent, name, &attr);
	if (!err)
		err = ns_remember(ns, attr.st_ino);
	if (!err)
		reply_entry(req, &attr);
	else
		reply_rc(req, err);
}

static void forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	if (!through_is(ino))
		ns_forget(door_of(req)->door.ns, ino, nlookup);
}

static void tfs_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	forget(req, ino, nlookup);
	fuse_reply_none(req);
}

static void tfs_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		forget(req, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static void tfs_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat attr = attr_of_door(ino);
	int err;

	(void)fi;
	if (through_is(ino)) {
		fuse_reply_attr(req, &attr, DOOR_ATTR_TIMEOUT_S);
		return;
	}
	err = ns_getattr(door_of(req)->door.ns, ino, &attr);
	if (!err)
		fuse_reply_attr(req, &attr, attr_timeout(&attr));
	else
		reply_rc(req, err);
}

static struct ns_setattr change_of(const struct stat *attr, int to_set)
{
	struct ns_setattr change = {
		.set_mode = to_set & FUSE_SET_ATTR_MODE,
		.set_uid = to_set & FUSE_SET_ATTR_UID,
		.set_gid = to_set & FUSE_SET_ATTR_GID,
		.set_size = to_set & FUSE_SET_ATTR_SIZE,
		.set_atime = to_set & FUSE_SET_ATTR_ATIME,
		.set_mtime = to_set & FUSE_SET_ATTR_MTIME,
		.set_ctime = to_set & FUSE_SET_ATTR_CTIME,
		.mode = attr->st_mode,
		.uid = attr->st_uid,
		.gid = attr->st_gid,
		.size_bytes = (uint64_t)attr->st_size,
		.atime = attr->st_atim,
		.mtime = attr->st_mtim,
		.ctime = attr->st_ctim,
	};

	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		clock_gettime(CLOCK_REALTIME, &change.atime);
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		clock_gettime(CLOCK_REALTIME, &change.mtime);
	return change;
}

static void tfs_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct ns_setattr change = change_of(attr, to_set);
	struct stat now;
	int err = ns_setattr(door_of(req)->door.ns, ino, &change, &now);

	(void)fi;
	if (!err)
		fuse_reply_attr(req, &now, attr_timeout(&now));
	else
		reply_rc(req, err);
}

/* What an earlier daemon made, for who was not told. */
static int find_made(struct ns *ns, uint64_t ino, struct stat *ret)
{
	int err = ns_getattr(ns, ino, ret);

	return err < 0 ? err : ns_remember(ns, ino);
}

static int do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct stat *ret)
{
	const struct fuse_ctx *caller = fuse_req_ctx(req);
	const struct door *door = &door_of(req)->door;
	uint64_t ino;

	if (is_reserved(parent, name))
		return -EPERM;
	if (resent_is_done(door->ns, &ino))
		return find_made(door->ns, ino, ret);
	return door_create(door, parent, name, mode, caller->uid, caller->gid, ret);
}

static void tfs_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct stat attr;
	int err = do_create(req, parent, name, mode, &attr);

	(void)rdev;
	if (!err)
		reply_entry(req, &attr);
	else
		reply_rc(req, err);
}

static void tfs_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	tfs_mknod(req, parent, name, S_IFDIR | (mode & 07777), 0);
}

static void tfs_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	(void)target;
	(void)parent;
	(void)name;
	fuse_reply_err(req, EPERM);
}

static void tfs_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct ns *ns = door_of(req)->door.ns;
	struct stat attr;
	uint64_t done;
	int err;

	if (is_reserved(parent, name)) {
		reply_rc(req, -EPERM);
		return;
	}
	err = resent_is_done(ns, &done) ? ns_getattr(ns, done, &attr) : ns_link(ns, ino, parent, name, &attr);
	if (!err)
		err = ns_remember(ns, ino);
	if (!err)
		reply_entry(req, &attr);
	else
		reply_rc(req, err);
}

static void tfs_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct ns *ns = door_of(req)->door.ns;
	uint64_t done;

	if (is_reserved(parent, name))
		reply_rc(req, -EPERM);
	else
		reply_rc(req, resent_is_done(ns, &done) ? 0 : ns_unlink(ns, parent, name));
}

static void tfs_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct ns *ns = door_of(req)->door.ns;
	uint64_t done;

	if (is_reserved(parent, name))
		reply_rc(req, -EPERM);
	else
		reply_rc(req, resent_is_done(ns, &done) ? 0 : ns_rmdir(ns, parent, name));
}

static void tfs_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
		       unsigned int flags)
{
	struct ns *ns = door_of(req)->door.ns;
	uint64_t done;

	if (is_reserved(parent, name) || is_reserved(new_parent, new_name))
		reply_rc(req, -EPERM);
	else
		reply_rc(req, resent_is_done(ns, &done) ? 0 : ns_rename(ns, parent, name, new_parent, new_name, flags));
}

/* ---- directories ---- */

static void tfs_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (through_is(ino))
		reply_rc(req, -EACCES);
	else
		fuse_reply_open(req, fi);
}

struct listing {
	fuse_req_t req;
	struct ns *ns;
	bool plus;
	char *buf;
	size_t cap, used;
};

static int listing_add(void *arg, const char *name, const struct stat *attr, uint64_t next_cookie)
{
	struct listing *listing = arg;
	struct fuse_entry_param entry = entry_of(attr);
	char *at = listing->buf + listing->used;
	size_t room = listing->cap - listing->used, need;
	bool dots = strcmp(name, ".") == 0 || strcmp(name, "..") == 0;

	if (!listing->plus) {
		need = fuse_add_direntry(listing->req, at, room, name, attr, (off_t)next_cookie);
	} else {
		/* The kernel counts a lookup for each but the dots. What was removed meanwhile is left out. */
		if (!dots && ns_remember(listing->ns, attr->st_ino) < 0)
			return 0;
		need = fuse_add_direntry_plus(listing->req, at, room, name, &entry, (off_t)next_cookie);
		if (need > room && !dots)
			ns_forget(listing->ns, attr->st_ino, 1);
	}
	if (need > room)
		return 1;
	listing->used += need;
	return 0;
}

static void list_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, bool plus)
{
	struct listing listing = {
		.req = req,
		.ns = door_of(req)->door.ns,
		.plus = plus,
		.buf = buffer_get(),
		.cap = size < IO_MAX ? size : IO_MAX,
	};
	int err = listing.buf ? ns_readdir(listing.ns, ino, (uint64_t)offset, listing_add, &listing) : -ENOMEM;

	if (!err)
		fuse_reply_buf(req, listing.buf, listing.used);
	else
		reply_rc(req, err);
}

static void tfs_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	(void)fi;
	list_dir(req, ino, size, offset, false);
}

static void tfs_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	(void)fi;
	list_dir(req, ino, size, offset, true);
}

/* ---- files ---- */

static void set_open(struct fuse_file_info *fi, const struct door_opened *opened)
{
	fi->fh = opened->fh;
	fi->direct_io = !opened->cached;
	fi->keep_cache = !opened->fresh;
	fi->noflush = 1;
}

static struct door_caller caller_of(fuse_req_t req)
{
	const struct fuse_ctx *caller = fuse_req_ctx(req);

	return (struct door_caller){ .tid = caller->pid, .uid = caller->uid };
}

static void open_door(fuse_req_t req, fuse_ino_t node)
{
	struct through *through = door_of(req)->through;
	struct through_opened opened;
	int err = through ? through_answer_open(through, node, &opened) : -EACCES;

	if (err < 0) {
		reply_rc(req, err);
		return;
	}
	/* libfuse 3.14 has no field for the number. */
	fuse_reply_buf(req, (const char *)&opened, sizeof(opened));
}

static void tfs_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct door *door = &door_of(req)->door;
	struct door_opened opened;
	int err;

	if (through_is(ino)) {
		open_door(req, ino);
		return;
	}
	err = door_open(door, ino, fi->flags, caller_of(req), &opened);
	if (err < 0) {
		reply_rc(req, err);
		return;
	}
	set_open(fi, &opened);
	if (fuse_reply_open(req, fi) != 0)
		door_release(door, ino, opened.fh);
}

static void tfs_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	const struct door *door = &door_of(req)->door;
	struct fuse_entry_param entry;
	struct door_opened opened;
	struct stat attr;
	int err = do_create(req, parent, name, S_IFREG | (mode & 07777), &attr);

	if (err < 0) {
		reply_rc(req, err);
		return;
	}
	err = door_open(door, attr.st_ino, fi->flags, caller_of(req), &opened);
	if (err < 0) {
		ns_forget(door->ns, attr.st_ino, 1);
		reply_rc(req, err);
		return;
	}
	set_open(fi, &opened);
	entry = entry_of(&attr);
	if (fuse_reply_create(req, &entry, fi) != 0) {
		door_release(door, attr.st_ino, opened.fh);
		ns_forget(door->ns, attr.st_ino, 1);
	}
}

static void tfs_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (!through_is(ino))
		door_release(&door_of(req)->door, ino, fi->fh);
	fuse_reply_err(req, 0);
}

static bool was_interrupted(void *arg)
{
	return fuse_req_interrupted(arg) || fuse_session_exited(door_of(arg)->session);
}

/* Any signal interrupts. The error of a fill would be SIGBUS to who touches memory, so only a kill counts. */
static bool was_killed(void *arg)
{
	return fuse_session_exited(door_of(arg)->session) ||
	       (fuse_req_interrupted(arg) && opener_is_killed(fuse_req_ctx(arg)->pid));
}

/* A read by a program names the owner of its locks; one that fills the kernel's cache has none. */
static void tfs_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	const struct door *door = &door_of(req)->door;
	char *buf = buffer_get();
	size_t len = 0;
	int err = -ENOMEM;

	if (size > IO_MAX)
		size = IO_MAX; /* never asked for by the kernel; a shorter answer would be the end of file to it */
	interrupt_on(fi->lock_owner == 0 ? was_killed : was_interrupted, req);
	if (buf && fi->lock_owner == 0)
		err = door_fill(door, ino, buf, size, (uint64_t)offset, &len);
	else if (buf)
		err = door_read(door, ino, fi->flags & O_DIRECT, buf, size, (uint64_t)offset, &len);
	interrupt_on(NULL, NULL);
	if (!err)
		fuse_reply_buf(req, buf, len);
	else
		reply_rc(req, err);
}

static void tfs_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
		      struct fuse_file_info *fi)
{
	const struct door *door = &door_of(req)->door;
	bool cached = fi->fh & (DOOR_FH_CACHED | DOOR_FH_HELPER);
	int err;

	if (fi->writepage)
		err = door_write_back(door, ino, data, size, (uint64_t)offset);
	else {
		interrupt_on(was_interrupted, req);
		err = door_write(door, ino, fi->flags & O_DIRECT, cached, data, size, (uint64_t)offset);
		interrupt_on(NULL, NULL);
	}
	if (!err)
		fuse_reply_write(req, size);
	else
		reply_rc(req, err);
}

/* The kernel has written back what it caches of both ranges, and drops what it caches of the second. Done here, as its
 * own way of doing it reads through the cache, which an attached file has none of. */
static void tfs_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_offset, struct fuse_file_info *from_fi,
				fuse_ino_t to, off_t to_offset, struct fuse_file_info *to_fi, size_t len, int flags)
{
	void *buf = buffer_get();
	int err = -ENOMEM;

	(void)from_fi;
	(void)to_fi;
	(void)flags;
	interrupt_on(was_interrupted, req);
	if (buf)
		err = door_copy(&door_of(req)->door, from, (uint64_t)from_offset, to, (uint64_t)to_offset, buf,
				len < IO_MAX ? len : IO_MAX, &len);
	interrupt_on(NULL, NULL);
	if (!err)
		fuse_reply_write(req, len);
	else
		reply_rc(req, err);
}

static void tfs_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	int err;

	(void)datasync;
	(void)fi;
	interrupt_on(was_killed, req);
	err = ns_fsync(door_of(req)->door.ns, ino);
	interrupt_on(NULL, NULL);
	reply_rc(req, err);
}

static void tfs_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t len, struct fuse_file_info *fi)
{
	int err;

	(void)fi;
	interrupt_on(was_interrupted, req);
	err = door_fallocate(&door_of(req)->door, ino, mode, (uint64_t)offset, (uint64_t)len);
	interrupt_on(NULL, NULL);
	reply_rc(req, err);
}

static void tfs_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
	uint64_t found;
	int err = door_seek(&door_of(req)->door, ino, (uint64_t)offset, whence, &found);

	(void)fi;
	if (!err)
		fuse_reply_lseek(req, (off_t)found);
	else
		reply_rc(req, err);
}

static void tfs_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs fs;
	int err = door_statfs(&door_of(req)->door, &fs);

	(void)ino;
	if (!err)
		fuse_reply_statfs(req, &fs);
	else
		reply_rc(req, err);
}

static void tfs_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg, struct fuse_file_info *fi,
		      unsigned int flags, const void *in_buf, size_t in_size, size_t out_size)
{
	uint32_t rights = flags & FUSE_IOCTL_DIR ? TIERFS_RIGHT_READ : (uint32_t)(fi->fh & DOOR_FH_RIGHTS);
	struct tierfs_ioc_info info;
	int err = -ENOTTY;

	(void)arg;
	(void)in_buf;
	(void)in_size;
	if (cmd == TIERFS_IOC_INFO && out_size >= sizeof(info))
		err = door_info(&door_of(req)->door, ino, rights, &info);
	if (!err)
		fuse_reply_ioctl(req, 0, &info, sizeof(info));
	else
		reply_rc(req, err);
}

/* ---- how the session shall be ---- */

static void tfs_init(void *userdata, struct fuse_conn_info *conn)
{
	struct fusedoor *door = userdata;

	/* O_TRUNC shall come as a plain size change; set-id bits are the kernel's to clear; a new modification time is
	 * no reason to drop cached pages; times are ours; reads of absent pages are not background requests. */
	conn->want &= ~(unsigned int)(FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_AUTO_INVAL_DATA |
				      FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_ASYNC_READ | FUSE_CAP_SPLICE_READ |
				      FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	conn->want |= conn->capable & FUSE_CAP_EXPLICIT_INVAL_DATA;
	conn->max_write = IO_MAX;
	conn->max_background = BACKGROUND_MAX;
	conn->congestion_threshold = BACKGROUND_MAX / 4 * 3;
	if (door->on_ready)
		door->on_ready(door->on_ready_arg);
}

const struct fuse_lowlevel_ops fuse_operations = {
	.init = tfs_init,
	.lookup = tfs_lookup,
	.forget = tfs_forget,
	.forget_multi = tfs_forget_multi,
	.getattr = tfs_getattr,
	.setattr = tfs_setattr,
	.mknod = tfs_mknod,
	.mkdir = tfs_mkdir,
	.symlink = tfs_symlink,
	.link = tfs_link,
	.unlink = tfs_unlink,
	.rmdir = tfs_rmdir,
	.rename = tfs_rename,
	.opendir = tfs_opendir,
	.readdir = tfs_readdir,
	.readdirplus = tfs_readdirplus,
	.fsyncdir = tfs_fsync,
	.open = tfs_open,
	.create = tfs_create,
	.release = tfs_release,
	.read = tfs_read,
	.write = tfs_write,
	.copy_file_range = tfs_copy_file_range,
	.fsync = tfs_fsync,
	.fallocate = tfs_fallocate,
	.lseek = tfs_lseek,
	.statfs = tfs_statfs,
	.ioctl = tfs_ioctl,
};
