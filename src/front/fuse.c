/* front/fuse.c - see fuse.h: libfuse's low-level interface. Each x() below answers its request exactly once, last, with
 * no lock held; what the request does is in door.c and core/.
 *
 * An open is of one of two kinds (door_open()). FOPEN_DIRECT_IO: the kernel caches no content, read and write come here
 * as they are, and mapping the file behind the daemon's back fails with ENODEV. Or cached, which is what a plain
 * mapping needs. A reply to an open of either kind keeps the inode's cache (else the kernel drops all of it, mapped or
 * not), and lets a close pass without write back. Attributes of files (their blocks move) are asked for every time, and
 * no change of theirs may make the kernel drop content; names only change through this mount, so the kernel may keep
 * them.
 *
 * Requests that the kernel sends in the background (write back, asynchronous direct I/O) are fewer than the threads
 * that answer, and reads of absent pages are not among them: a thread that touches one waits behind no write back.
 *
 * fh holds the kind and the rights of the descriptor: inode numbers and fh stay good without any memory of the opens.
 */
#define FUSE_USE_VERSION 314

#include "front/fuse.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "front/bdi.h"
#include "front/mountpoint.h"
#include "front/resent.h"

#define ENTRY_TIMEOUT_S 3600.0
#define DIR_ATTR_TIMEOUT_S 1.0
#define FILE_ATTR_TIMEOUT_S 0.0
#define IO_MAX (1U << 20) /* what the kernel sends in one request */
#define BACKGROUND_MAX 64
#define THREADS_MAX 128 /* requests that wait for a block or for room hold one each */
#define THREADS_IDLE 16
#define WAKE_SIGNAL SIGUSR2
#define NOTIFY_RESEND 7 /* FUSE_NOTIFY_RESEND of later headers */

struct fusedoor {
	struct door door;             /* immutable */
	struct fuse_session *session; /* immutable */
	char *mountpoint;             /* immutable */
	bool mounted;                 /* owner: the thread that made it */
	fusedoor_ready_fn *on_ready;
	void *on_ready_arg;
	struct holder *holder;       /* borrowed; NULL: none, or it has the session already */
	struct holder_session taken; /* fuse_fd -1: mounted here */
	pthread_t runner;            /* set before running */
	_Atomic bool running;
};

static const struct fusedoor *door_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static void reply_rc(fuse_req_t req, int rc)
{
	fuse_reply_err(req, -rc);
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
	void *buffer = pthread_getspecific(buffer_key);

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

static void tfs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct ns *ns = door_of(req)->door.ns;
	struct stat attr;
	int rc = ns_lookup(ns, parent, name, &attr);

	if (rc == 0)
		rc = ns_remember(ns, attr.st_ino);
	if (rc == 0)
		reply_entry(req, &attr);
	else
		reply_rc(req, rc);
}

static void tfs_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	ns_forget(door_of(req)->door.ns, ino, nlookup);
	fuse_reply_none(req);
}

static void tfs_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		ns_forget(door_of(req)->door.ns, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static void tfs_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat attr;
	int rc = ns_getattr(door_of(req)->door.ns, ino, &attr);

	(void)fi;
	if (rc == 0)
		fuse_reply_attr(req, &attr, attr_timeout(&attr));
	else
		reply_rc(req, rc);
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
	int rc = ns_setattr(door_of(req)->door.ns, ino, &change, &now);

	(void)fi;
	if (rc == 0)
		fuse_reply_attr(req, &now, attr_timeout(&now));
	else
		reply_rc(req, rc);
}

static int do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct stat *ret)
{
	const struct fuse_ctx *caller = fuse_req_ctx(req);

	int rc = door_create(&door_of(req)->door, parent, name, mode, caller->uid, caller->gid, ret);

	return resent_create(door_of(req)->door.ns, parent, name, mode, rc, ret);
}

static void tfs_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct stat attr;
	int rc = do_create(req, parent, name, mode, &attr);

	(void)rdev;
	if (rc == 0)
		reply_entry(req, &attr);
	else
		reply_rc(req, rc);
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
	int rc = resent_link(ns, ino, parent, name, ns_link(ns, ino, parent, name, &attr), &attr);

	if (rc == 0)
		rc = ns_remember(ns, ino);
	if (rc == 0)
		reply_entry(req, &attr);
	else
		reply_rc(req, rc);
}

static void tfs_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	reply_rc(req, resent_remove(ns_unlink(door_of(req)->door.ns, parent, name)));
}

static void tfs_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	reply_rc(req, resent_remove(ns_rmdir(door_of(req)->door.ns, parent, name)));
}

/* Done twice, it would be undone; so the kernel is told to forget what it knows of the two names. */
static void refuse_exchange(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
			    const char *new_name)
{
	struct fuse_session *session = door_of(req)->session;

	fuse_reply_err(req, EIO);
	fuse_lowlevel_notify_inval_entry(session, parent, name, strlen(name));
	fuse_lowlevel_notify_inval_entry(session, new_parent, new_name, strlen(new_name));
}

static void tfs_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
		       unsigned int flags)
{
	struct ns *ns = door_of(req)->door.ns;

	if (flags & RENAME_EXCHANGE && resent_is()) {
		refuse_exchange(req, parent, name, new_parent, new_name);
		return;
	}
	reply_rc(req,
		 resent_rename(ns, new_parent, new_name, ns_rename(ns, parent, name, new_parent, new_name, flags)));
}

/* ---- directories ---- */

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
	int rc = listing.buf ? ns_readdir(listing.ns, ino, (uint64_t)offset, listing_add, &listing) : -ENOMEM;

	if (rc == 0)
		fuse_reply_buf(req, listing.buf, listing.used);
	else
		reply_rc(req, rc);
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

static void tfs_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct door *door = &door_of(req)->door;
	struct door_opened opened;
	int rc = door_open(door, ino, fi->flags, fuse_req_ctx(req)->pid, &opened);

	if (rc < 0) {
		reply_rc(req, rc);
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
	int rc = do_create(req, parent, name, S_IFREG | (mode & 07777), &attr);

	if (rc < 0) {
		reply_rc(req, rc);
		return;
	}
	rc = door_open(door, attr.st_ino, fi->flags, fuse_req_ctx(req)->pid, &opened);
	if (rc < 0) {
		ns_forget(door->ns, attr.st_ino, 1);
		reply_rc(req, rc);
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
	door_release(&door_of(req)->door, ino, fi->fh);
	fuse_reply_err(req, 0);
}

/* A read by a program names the owner of its locks; one that fills the kernel's cache has none. */
static void tfs_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	const struct door *door = &door_of(req)->door;
	char *buf = buffer_get();
	size_t len = 0;
	int rc = -ENOMEM;

	if (size > IO_MAX)
		size = IO_MAX; /* never asked for by the kernel; a shorter answer would be the end of file to it */
	if (buf && fi->lock_owner == 0)
		rc = door_fill(door, ino, buf, size, (uint64_t)offset, &len);
	else if (buf)
		rc = door_read(door, ino, fi->flags & O_DIRECT, buf, size, (uint64_t)offset, &len);
	if (rc == 0)
		fuse_reply_buf(req, buf, len);
	else
		reply_rc(req, rc);
}

static void tfs_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
		      struct fuse_file_info *fi)
{
	const struct door *door = &door_of(req)->door;
	bool cached = fi->fh & (DOOR_FH_CACHED | DOOR_FH_HELPER);
	int rc;

	if (fi->writepage)
		rc = door_write_back(door, ino, data, size, (uint64_t)offset);
	else
		rc = door_write(door, ino, fi->flags & O_DIRECT, cached, data, size, (uint64_t)offset);
	if (rc == 0)
		fuse_reply_write(req, size);
	else
		reply_rc(req, rc);
}

static void tfs_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)datasync;
	(void)fi;
	reply_rc(req, ns_fsync(door_of(req)->door.ns, ino));
}

static void tfs_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t len, struct fuse_file_info *fi)
{
	(void)fi;
	reply_rc(req, door_fallocate(&door_of(req)->door, ino, mode, (uint64_t)offset, (uint64_t)len));
}

static void tfs_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
	uint64_t found;
	int rc = door_seek(&door_of(req)->door, ino, (uint64_t)offset, whence, &found);

	(void)fi;
	if (rc == 0)
		fuse_reply_lseek(req, (off_t)found);
	else
		reply_rc(req, rc);
}

static void tfs_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs fs;
	int rc = door_statfs(&door_of(req)->door, &fs);

	(void)ino;
	if (rc == 0)
		fuse_reply_statfs(req, &fs);
	else
		reply_rc(req, rc);
}

static void tfs_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg, struct fuse_file_info *fi,
		      unsigned int flags, const void *in_buf, size_t in_size, size_t out_size)
{
	uint32_t rights = flags & FUSE_IOCTL_DIR ? TIERFS_RIGHT_READ : (uint32_t)(fi->fh & DOOR_FH_RIGHTS);
	struct tierfs_ioc_info info;
	int rc = -ENOTTY;

	(void)arg;
	(void)in_buf;
	(void)in_size;
	if (cmd == TIERFS_IOC_INFO && out_size >= sizeof(info))
		rc = door_info(&door_of(req)->door, ino, rights, &info);
	if (rc == 0)
		fuse_reply_ioctl(req, 0, &info, sizeof(info));
	else
		reply_rc(req, rc);
}

/* ---- the session ---- */

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

static const struct fuse_lowlevel_ops operations = {
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
	.readdir = tfs_readdir,
	.readdirplus = tfs_readdirplus,
	.fsyncdir = tfs_fsync,
	.open = tfs_open,
	.create = tfs_create,
	.release = tfs_release,
	.read = tfs_read,
	.write = tfs_write,
	.fsync = tfs_fsync,
	.fallocate = tfs_fallocate,
	.lseek = tfs_lseek,
	.statfs = tfs_statfs,
	.ioctl = tfs_ioctl,
};

/* libfuse explains a failed mount on its own; that text goes into our one line instead. */
static __thread char fuse_said[256];

static void on_fuse_log(enum fuse_log_level level, const char *format, va_list args)
{
	if (level > FUSE_LOG_WARNING)
		return;
	vsnprintf(fuse_said, sizeof(fuse_said), format, args);
	fuse_said[strcspn(fuse_said, "\n")] = '\0';
	log_debug("libfuse: %s", fuse_said);
}

static int session_args(const struct fusedoor_config *config, struct fuse_args *args)
{
	char *options = NULL, *fsname = NULL;
	int rc = -ENOMEM;

	/* A comma in the pool's name would end the option. */
	if (asprintf(&fsname, "fsname=%s", config->source) >= 0 && fuse_opt_add_opt_escaped(&options, fsname) == 0 &&
	    fuse_opt_add_opt(&options, "subtype=tierfs,default_permissions,nosuid,nodev,noexec,noatime") == 0 &&
	    (!config->allow_other || fuse_opt_add_opt(&options, "allow_other") == 0) &&
	    fuse_opt_add_arg(args, "tierfs") == 0 && fuse_opt_add_arg(args, "-o") == 0 &&
	    fuse_opt_add_arg(args, options) == 0)
		rc = 0;
	free(fsname);
	free(options);
	return rc;
}

static int mount_new(struct fusedoor *door, const struct fusedoor_config *config)
{
	if (fuse_session_mount(door->session, door->mountpoint) != 0)
		return -EIO;
	door->mounted = true;
	bdi_lift_limits(door->mountpoint);
	mountpoint_register(config->source, door->mountpoint);
	return 0;
}

static ssize_t plain_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	(void)userdata;
	return writev(fd, iov, count);
}

static int attach_session(struct fusedoor *door)
{
	static const struct fuse_custom_io io = { .read = resent_read, .writev = plain_writev };

	return fuse_session_custom_io(door->session, &io, door->taken.fuse_fd);
}

int fusedoor_new(const struct fusedoor_config *config, struct fusedoor **ret)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fusedoor *door = calloc(1, sizeof(*door));
	int rc = -ENOMEM;

	if (!door) {
		if (config->taken)
			close(config->taken->fuse_fd);
		return -ENOMEM;
	}
	pthread_once(&buffer_once, buffer_init);
	fuse_set_log_func(on_fuse_log);
	door->door = config->door;
	door->on_ready = config->on_ready;
	door->on_ready_arg = config->on_ready_arg;
	door->holder = config->taken ? NULL : config->holder;
	door->taken = config->taken ? *config->taken : (struct holder_session){ .fuse_fd = -1 };
	door->mountpoint = strdup(config->mountpoint);
	if (door->mountpoint)
		rc = session_args(config, &args);
	if (rc == 0) {
		door->session = fuse_session_new(&args, &operations, sizeof(operations), door);
		rc = door->session ? 0 : -EINVAL;
	}
	if (rc == 0)
		rc = config->taken ? attach_session(door) : mount_new(door, config);
	fuse_opt_free_args(&args);
	if (rc < 0) {
		log_error("%s: cannot mount: %s", config->mountpoint, *fuse_said ? fuse_said : strerror(-rc));
		fusedoor_free(door);
		return rc;
	}
	*ret = door;
	return 0;
}

/* ---- the first request ---- */

/* The kernel's greeting, of which a copy goes to the holder before it is answered. */
static int greet(struct fusedoor *door)
{
	struct holder_session session = { .fuse_fd = fuse_session_fd(door->session) };
	struct fuse_buf buf = { .mem = NULL };
	int rc;

	do
		rc = fuse_session_receive_buf(door->session, &buf);
	while (rc == -EINTR);
	if (rc > 0 && door->holder) {
		session.init_len = (uint32_t)buf.size;
		rc = buf.size > sizeof(session.init) ? -EMSGSIZE : 0;
		if (rc == 0) {
			memcpy(session.init, buf.mem, buf.size);
			rc = holder_keep(door->holder, door->door.run_dir, door->mountpoint, &session);
		}
		if (rc < 0)
			log_warn("%s: the holder does not answer (%s): if tierfs dies, the mount dies with it",
				 door->mountpoint, strerror(-rc));
		rc = 1;
	}
	if (rc > 0)
		fuse_session_process_buf(door->session, &buf);
	free(buf.mem);
	return rc < 0 && rc != -ENODEV ? rc : 0;
}

/* The same greeting once more, for libfuse. The kernel ignores the answer, unless the daemon that read it died at just
 * that moment. Then what was read and not answered comes again. */
static void greet_again(struct fusedoor *door)
{
	struct fuse_buf buf = { .mem = door->taken.init, .size = door->taken.init_len };
	struct {
		uint32_t len;
		int32_t error;
		uint64_t unique;
	} resend = { .len = sizeof(resend), .error = NOTIFY_RESEND };

	door->mounted = true;
	fuse_session_process_buf(door->session, &buf);
	if (write(door->taken.fuse_fd, &resend, sizeof(resend)) < 0 && errno != ENODEV)
		log_warn("%s: the kernel cannot repeat requests (%s), which needs Linux 6.9: what waits for one that "
			 "was "
			 "under way waits until it is killed",
			 door->mountpoint, strerror(errno));
}

/* Only there to interrupt the wait of fuse_session_loop_mt(). */
static void on_wake(int signal)
{
	(void)signal;
}

int fusedoor_run(struct fusedoor *door)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	struct sigaction wake = { .sa_handler = on_wake };
	int rc = 0;

	if (!config)
		return -ENOMEM;
	if (door->taken.fuse_fd >= 0)
		greet_again(door);
	else
		rc = greet(door);
	if (rc < 0) {
		fuse_loop_cfg_destroy(config);
		return rc;
	}
	/* A cloned descriptor that closes fails its requests; with one for all, a killed daemon's successor could go
	 * on. */
	fuse_loop_cfg_set_clone_fd(config, 0);
	fuse_loop_cfg_set_max_threads(config, THREADS_MAX);
	fuse_loop_cfg_set_idle_threads(config, THREADS_IDLE);
	sigaction(WAKE_SIGNAL, &wake, NULL);
	door->runner = pthread_self();
	atomic_store(&door->running, true);
	rc = fuse_session_loop_mt(door->session, config);
	atomic_store(&door->running, false);
	fuse_loop_cfg_destroy(config);
	return rc;
}

void fusedoor_unmount(struct fusedoor *door)
{
	int rc = mountpoint_unmount(door->mountpoint, false);

	if (rc == -EBUSY) {
		log_info("%s: is in use; it is taken away now and served until its last user is gone",
			 door->mountpoint);
		rc = mountpoint_unmount(door->mountpoint, true);
	}
	if (rc < 0)
		log_error("%s: cannot unmount: %s", door->mountpoint, strerror(-rc));
}

void fusedoor_quit(struct fusedoor *door)
{
	fuse_session_exit(door->session);
	if (atomic_load(&door->running))
		pthread_kill(door->runner, WAKE_SIGNAL);
}

/* As fuse_session_unmount(), which knows only mounts of its own. */
static void unmount_taken(struct fusedoor *door)
{
	struct pollfd pollfd = { .fd = door->taken.fuse_fd };

	if (poll(&pollfd, 1, 0) == 1 && pollfd.revents & POLLERR)
		return; /* is gone */
	mountpoint_unmount(door->mountpoint, true);
}

void fusedoor_free(struct fusedoor *door)
{
	if (!door)
		return;
	if (door->mounted && door->taken.fuse_fd >= 0)
		unmount_taken(door);
	else if (door->mounted)
		fuse_session_unmount(door->session);
	if (door->session)
		fuse_session_destroy(door->session);
	else if (door->taken.fuse_fd >= 0)
		close(door->taken.fuse_fd);
	free(door->mountpoint);
	free(door);
}
