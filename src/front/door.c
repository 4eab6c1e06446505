/* front/door.c - see door.h. */
#include "front/door.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/cache.h"
#include "engine/engine.h"
#include "engine/flow.h"
#include "engine/file.h"
#include "engine/read.h"
#include "engine/write.h"
#include "engine/write_run.h"
#include "front/opener.h"
#include "names/names.h"
#include "pool/token.h"

#define RETRY_US 10000
#define RETRY_NS (60 * NS_PER_S)
#define BLOCKS_A_WRITE 512 /* 1 MiB in blocks of 4 KiB, and ends */

static bool is_aligned(uint64_t value)
{
	return value % DOOR_PAGE_BYTES == 0;
}

/* O_DIRECT: whole pages, but for the last piece of a file. */
static bool is_direct(struct ramfile *file, uint64_t offset, uint64_t len)
{
	return is_aligned(offset) && (is_aligned(len) || offset + len >= file_size(file));
}

int door_create(const struct door *door, uint64_t parent, const char *name, mode_t mode, uid_t uid, gid_t gid,
		struct stat *ret)
{
	const struct options *options = door->options;

	/* Guest memory is private unless the operator says otherwise; QEMU asks for 0644. */
	if (S_ISREG(mode))
		mode = S_IFREG | (mode_t)options->value[OPTION_MODE];
	if (options->given[OPTION_UID])
		uid = (uid_t)options->value[OPTION_UID];
	if (options->given[OPTION_GID])
		gid = (gid_t)options->value[OPTION_GID];
	return ns_create(door->ns, parent, name, mode, uid, gid, ret);
}

static uint32_t rights_of(int flags)
{
	int access = flags & O_ACCMODE;

	return (access != O_WRONLY ? TIERFS_RIGHT_READ : 0) | (access != O_RDONLY ? TIERFS_RIGHT_WRITE : 0);
}

/* Whoever can only be told at mmap(2), by an errno that says nothing, is told in the log. */
static void tell_refused(const struct door *door, uint64_t ino, int flags, pid_t tid, const char *why)
{
	char path[PATH_MAX] = "";

	if ((flags & O_ACCMODE) != O_RDWR)
		return;
	ns_path(door->ns, ino, path, sizeof(path));
	opener_refused(door->opener, tid, ino, path, why);
}

/* Whether the open is one that could be mapped plain. */
static bool wants_cached(const struct door *door, struct ramfile *file, uint64_t ino, int flags,
			 struct door_caller caller)
{
	enum option_map map = (enum option_map)door->options->value[OPTION_MAP];
	bool announced;
	int err;

	if (flags & O_DIRECT || (flags & O_ACCMODE) == O_WRONLY)
		return false;
	if (map == OPTION_MAP_PLAIN)
		return true;
	/* Who only reads is rarely somebody who maps: cat, sha256sum, cp. They are served without the kernel's cache,
	 * and leave blocks cold, unless the file is mapped plain already. */
	if ((flags & O_ACCMODE) == O_RDONLY && !cache_stays_plain(file))
		return false;
	err = opener_announced(door->opener, caller.tid, caller.uid, &announced);
	if (!err && announced)
		return false;
	if (map == OPTION_MAP_AUTO && !err)
		return true;
	tell_refused(door, ino, flags, caller.tid,
		     !err ? "the mount has map=attached; start it with 'tierctl run'"
			  : "it could not be found out whether it attaches; let it open the file again");
	return false;
}

static void open_cached(const struct door *door, struct ramfile *file, uint64_t ino, int flags,
			struct door_caller caller, struct door_opened *opened)
{
	enum cache_kind answer = cache_open_file(file);

	if (answer == CACHE_NO) {
		tell_refused(door, ino, flags, caller.tid,
			     "the file is attached; start it with 'tierctl run', or end who attached it");
		return;
	}
	opened->fh |= DOOR_FH_CACHED;
	opened->cached = true;
	opened->fresh = answer == CACHE_FRESH;
}

int door_open(const struct door *door, uint64_t ino, int flags, struct door_caller caller, struct door_opened *ret)
{
	struct door_opened opened = { .fh = rights_of(flags) | (uint64_t)door->session << DOOR_FH_SESSION_SHIFT };
	struct ramfile *file;
	int err = ns_open(door->ns, ino, &file);

	if (err < 0)
		return err;
	if (door->helper && caller.tid > 0 && caller.tid == door->helper(door->helper_arg)) {
		opened.fh |= DOOR_FH_HELPER;
		opened.cached = true;
	} else if (wants_cached(door, file, ino, flags, caller)) {
		open_cached(door, file, ino, flags, caller, &opened);
	}
	*ret = opened;
	return 0;
}

void door_release(const struct door *door, uint64_t ino, uint64_t fh)
{
	struct ramfile *file;

	if (fh >> DOOR_FH_SESSION_SHIFT != door->session)
		return;
	if (fh & DOOR_FH_CACHED && ns_open(door->ns, ino, &file) == 0) {
		cache_close_file(file);
		ns_put(door->ns, ino);
	}
	ns_put(door->ns, ino);
}

int door_fill(const struct door *door, uint64_t ino, void *buf, size_t len, uint64_t offset, size_t *ret_len)
{
	struct ramfile *file;
	int err;

	if (len > DOOR_FILL_MAX) {
		atomic_fetch_add(&door->counts->refused_fills, 1);
		return -EAGAIN;
	}
	err = ns_open(door->ns, ino, &file);
	if (err < 0)
		return err;
	err = cache_fill(file, buf, len, offset, ret_len);
	if (!err)
		atomic_fetch_add(&door->counts->fill_bytes, *ret_len);
	ns_put(door->ns, ino);
	return err;
}

int door_write_back(const struct door *door, uint64_t ino, const void *buf, size_t len, uint64_t offset)
{
	uint64_t deadline_ns = clock_ns() + RETRY_NS;
	struct ramfile *file;
	int err = ns_open(door->ns, ino, &file);

	if (err < 0)
		return err;
	while ((err = cache_write_back(file, buf, len, offset)) == -ENOMEM && clock_ns() < deadline_ns)
		usleep(RETRY_US);
	if (err == -EFBIG) /* the file was cut meanwhile: the pages beyond its end are void */
		err = 0;
	if (!err) {
		atomic_fetch_add(&door->counts->write_back_bytes, len);
		ns_touch(door->ns, ino, true);
	} else {
		log_error("file %llu: %zu bytes that were written to mapped memory at %llu are lost: %s",
			  (unsigned long long)ino, len, (unsigned long long)offset, strerror(-err));
	}
	ns_put(door->ns, ino);
	return err;
}

int door_read(const struct door *door, uint64_t ino, bool direct, void *buf, size_t len, uint64_t offset,
	      size_t *ret_len)
{
	struct ramfile *file;
	int err;

	err = ns_open(door->ns, ino, &file);
	if (err < 0)
		return err;
	err = direct && !is_direct(file, offset, len) ? -EINVAL : ramfile_read(file, buf, len, offset, ret_len);
	if (!err && direct)
		file_count_direct(file, *ret_len, 0);
	ns_put(door->ns, ino);
	return err;
}

/* Blocks of which a part is changed are read before. */
static int await_edges(struct ramfile *file, uint64_t block_bytes, uint64_t offset, uint64_t end)
{
	int err = offset % block_bytes ? flow_wait_read(file, offset / block_bytes, 1, false) : 0;

	return err || !(end % block_bytes) ? err : flow_wait_read(file, end / block_bytes, 1, false);
}

/* For the limits of the file, before anything is changed. */
static int begin_change(const struct door *door, struct ramfile *file, uint64_t offset, uint64_t end, uint64_t bytes)
{
	int err = await_edges(file, engine_block_bytes(door->engine), offset, end);

	return err ? err : flow_begin_write(file, bytes, false);
}

static int write_open(const struct door *door, struct ramfile *file, uint64_t ino, bool direct, const void *buf,
		      size_t len, uint64_t offset, size_t *ret_len)
{
	uint64_t end = offset + len;
	int err = 0;

	if (direct && !is_direct(file, offset, len))
		return -EINVAL;
	err = direct ? write_run_check(file, buf, offset, len) : 0;
	if (!err)
		err = begin_change(door, file, offset, end, len);
	if (err)
		return err;
	/* The kernel serializes writes that extend a file, and truncates. */
	if (end > file_size(file))
		err = ns_extend(door->ns, ino, end);
	if (!err)
		err = write_by_call(file, buf, len, offset, direct, ret_len);
	flow_end_write(file, len);
	if (!err && direct)
		file_count_direct(file, 0, *ret_len);
	return err;
}

static void mark_cached(const struct door *door, struct ramfile *file, size_t len, uint64_t offset)
{
	uint64_t block_bytes = engine_block_bytes(door->engine), first = offset / block_bytes;
	uint64_t count = (offset + len + block_bytes - 1) / block_bytes - first;
	uint8_t cached[BLOCKS_A_WRITE];

	memset(cached, 1, sizeof(cached));
	cache_set(file, first, count < BLOCKS_A_WRITE ? count : BLOCKS_A_WRITE, cached, NULL);
}

/* The kernel drops its pages of a range that became a hole. */
static void unmark_cached(const struct door *door, struct ramfile *file, uint64_t offset, uint64_t len)
{
	static const uint8_t none[BLOCKS_A_WRITE];
	uint64_t block_bytes = engine_block_bytes(door->engine), size = file_size(file);
	uint64_t end = offset + len < size ? (offset + len) / block_bytes : (size + block_bytes - 1) / block_bytes;

	for (uint64_t first = (offset + block_bytes - 1) / block_bytes; first < end; first += BLOCKS_A_WRITE)
		cache_set(file, first, end - first < BLOCKS_A_WRITE ? end - first : BLOCKS_A_WRITE, none, NULL);
}

int door_write(const struct door *door, uint64_t ino, bool direct, bool cached, const void *buf, size_t len,
	       uint64_t offset, size_t *ret_len)
{
	struct ramfile *file;
	int err;

	if (offset > INT64_MAX - len)
		return -EFBIG;
	err = ns_open(door->ns, ino, &file);
	if (err < 0)
		return err;
	err = write_open(door, file, ino, direct, buf, len, offset, ret_len);
	if (!err && cached && !direct && *ret_len)
		mark_cached(door, file, *ret_len, offset);
	if (!err)
		ns_touch(door->ns, ino, true);
	ns_put(door->ns, ino);
	return err;
}

int door_copy(const struct door *door, uint64_t from, uint64_t from_offset, uint64_t to, uint64_t to_offset, void *buf,
	      size_t len, size_t *ret_len)
{
	size_t got = 0;
	int err = door_read(door, from, false, buf, len, from_offset, &got);

	if (!err && got)
		err = door_write(door, to, false, false, buf, got, to_offset, &got);
	if (!err)
		*ret_len = got;
	return err;
}

static int fallocate_open(const struct door *door, struct ramfile *file, uint64_t ino, int mode, uint64_t offset,
			  uint64_t len)
{
	uint64_t end = offset + len, edges = 2ULL * engine_block_bytes(door->engine);
	int err = begin_change(door, file, offset, end, edges);

	if (err)
		return err;
	if (!(mode & FALLOC_FL_KEEP_SIZE) && end > file_size(file))
		err = ns_extend(door->ns, ino, end);
	/* Zeros are what a hole reads as. Plain preallocation has nothing to do: room is made when a block comes. */
	if (!err && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		err = ramfile_discard(file, offset, len);
	if (!err && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		unmark_cached(door, file, offset, len);
	flow_end_write(file, edges);
	return err;
}

int door_fallocate(const struct door *door, uint64_t ino, int mode, uint64_t offset, uint64_t len)
{
	struct ramfile *file;
	int err;

	switch (mode) {
	case 0:
	case FALLOC_FL_KEEP_SIZE:
	case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
	case FALLOC_FL_ZERO_RANGE:
	case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (len == 0)
		return -EINVAL;
	if (offset > INT64_MAX || len > INT64_MAX - offset)
		return -EFBIG;
	err = ns_open(door->ns, ino, &file);
	if (err < 0)
		return err;
	err = fallocate_open(door, file, ino, mode, offset, len);
	if (!err && mode & ~FALLOC_FL_KEEP_SIZE)
		ns_touch(door->ns, ino, true);
	ns_put(door->ns, ino);
	return err;
}

int door_seek(const struct door *door, uint64_t ino, uint64_t offset, int whence, uint64_t *ret_offset)
{
	struct ramfile *file;
	int err;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	err = ns_open(door->ns, ino, &file);
	if (err < 0)
		return err;
	err = ramfile_seek(file, offset, whence, ret_offset);
	ns_put(door->ns, ino);
	return err;
}

int door_info(const struct door *door, uint64_t ino, uint32_t rights, struct tierfs_ioc_info *ret)
{
	uint64_t dram_mib = engine_dram_bytes(door->engine) >> 20;
	struct stat attr;
	int err = ns_getattr(door->ns, ino, &attr);

	if (err < 0)
		return err;
	*ret = (struct tierfs_ioc_info){
		.abi_version = TIERFS_ABI_VERSION,
		.rights = rights,
		.ino = ino,
		.size_bytes = S_ISDIR(attr.st_mode) ? 0 : (uint64_t)attr.st_size,
		.block_bytes = engine_block_bytes(door->engine),
		.dram_mib = dram_mib == 0           ? 1
			    : dram_mib > UINT32_MAX ? UINT32_MAX
						    : (uint32_t)dram_mib,
	};
	snprintf(ret->run_dir, sizeof(ret->run_dir), "%s", door->run_dir);
	token_issue(door->tokens, (struct token_grant){ .ino = ino, .rights = rights }, ret->token);
	return 0;
}

/* The room of the filesystem that the pool is on; how much guest memory fits in depends on how it compresses. */
int door_statfs(const struct door *door, struct statvfs *ret)
{
	uint64_t block_bytes = engine_block_bytes(door->engine);
	struct statvfs fs;

	if (statvfs(door->pool_dir, &fs) < 0)
		return -errno;
	*ret = (struct statvfs){
		.f_bsize = block_bytes,
		.f_frsize = block_bytes,
		.f_blocks = fs.f_blocks * fs.f_frsize / block_bytes,
		.f_bfree = fs.f_bfree * fs.f_frsize / block_bytes,
		.f_bavail = fs.f_bavail * fs.f_frsize / block_bytes,
		.f_files = fs.f_files,
		.f_ffree = fs.f_ffree,
		.f_favail = fs.f_favail,
		.f_namemax = NAME_MAX,
	};
	return 0;
}
