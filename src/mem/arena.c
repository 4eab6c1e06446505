#include "mem/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define NAME_LEN 24
#define STAT_BLOCK_BYTES 512 /* of st_blocks, on every filesystem */

static void arena_name(uint64_t ino, char name[static NAME_LEN])
{
	snprintf(name, NAME_LEN, "%llu", (unsigned long long)ino);
}

int arena_init(struct arena *arena, int dir, uint64_t ino, uint64_t size_bytes)
{
	const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
	char name[NAME_LEN];
	bool created = false;
	int fd, err;

	arena_name(ino, name);
	fd = openat(dir, name, flags);
	if (fd < 0 && errno == ENOENT) {
		fd = openat(dir, name, flags | O_CREAT | O_EXCL, 0600);
		created = true;
	}
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size_bytes) < 0) {
		err = -errno;
		close(fd);
		if (created)
			unlinkat(dir, name, 0);
		return err;
	}
	*arena = (struct arena){ .fd = fd, .dir = dir, .ino = ino, .created = created };
	return 0;
}

void arena_fini(struct arena *arena)
{
	if (arena->fd >= 0)
		close(arena->fd);
	arena->fd = -1;
}

int arena_remove(struct arena *arena)
{
	char name[NAME_LEN];

	/* Whoever has it still could go on filling it, and nobody would see that. */
	if (arena->fd >= 0)
		arena_resize(arena, 0);
	arena_name(arena->ino, name);
	return unlinkat(arena->dir, name, 0) < 0 ? -errno : 0;
}

int arena_read(const struct arena *arena, void *buf, size_t len, uint64_t offset)
{
	char *at = buf;

	while (len) {
		ssize_t got = pread(arena->fd, at, len, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return -EIO; /* shorter than its table says */
		at += got;
		len -= (size_t)got;
		offset += (uint64_t)got;
	}
	return 0;
}

int arena_write(const struct arena *arena, const void *buf, size_t len, uint64_t offset)
{
	const char *at = buf;

	while (len) {
		ssize_t put = pwrite(arena->fd, at, len, (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		at += put;
		len -= (size_t)put;
		offset += (uint64_t)put;
	}
	return 0;
}

int arena_write_absent(const struct arena *arena, const void *buf, size_t len, uint64_t offset)
{
	const char *at = buf;
	uint64_t end = offset + len;

	while (offset < end) {
		uint64_t start = end, stop = end;
		int err = arena_next_data(arena, offset, &start, NULL);

		if (!err && start < end)
			err = arena_next_data(arena, start, &start, &stop);
		else
			start = end;
		if (err && err != -ENXIO)
			return err;
		err = start > offset ? arena_write(arena, at, start - offset, offset) : 0;
		if (err)
			return err;
		at += stop - offset;
		offset = stop;
	}
	return 0;
}

int arena_punch(const struct arena *arena, uint64_t offset, uint64_t len)
{
	while (fallocate(arena->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int arena_measure(const struct arena *arena, uint64_t *ret_length, uint64_t *ret_bytes)
{
	struct stat attr;

	if (fstat(arena->fd, &attr) < 0)
		return -errno;
	*ret_length = (uint64_t)attr.st_size;
	*ret_bytes = (uint64_t)attr.st_blocks * STAT_BLOCK_BYTES;
	return 0;
}

int arena_resize(const struct arena *arena, uint64_t size_bytes)
{
	return ftruncate(arena->fd, (off_t)size_bytes) < 0 ? -errno : 0;
}

int arena_next_data(const struct arena *arena, uint64_t offset, uint64_t *ret_start, uint64_t *ret_end)
{
	off_t start, end;

	start = lseek(arena->fd, (off_t)offset, SEEK_DATA);
	if (start < 0)
		return -errno;
	if (ret_end) {
		end = lseek(arena->fd, start, SEEK_HOLE);
		if (end < 0)
			return -errno;
		*ret_end = (uint64_t)end;
	}
	*ret_start = (uint64_t)start;
	return 0;
}

/* The sticky bit and the owner's execute bit of the file, which mean nothing to anybody else. */
static mode_t mark_mode(enum arena_mark mark)
{
	return mark == ARENA_MARK_PLAIN ? S_ISVTX : S_IXUSR;
}

int arena_set_mark(const struct arena *arena, enum arena_mark mark, bool on)
{
	struct stat attr;
	mode_t mode;

	if (fstat(arena->fd, &attr) < 0)
		return -errno;
	mode = attr.st_mode & (0700 | S_ISVTX);
	mode = on ? mode | mark_mode(mark) : mode & ~mark_mode(mark);
	return fchmod(arena->fd, mode) < 0 ? -errno : 0;
}

bool arena_has_mark(const struct arena *arena, enum arena_mark mark)
{
	struct stat attr;

	return fstat(arena->fd, &attr) == 0 && attr.st_mode & mark_mode(mark);
}

int arena_share(const struct arena *arena, bool writable, int *ret_fd)
{
	CLEANUP_CLOSE int fd = -1;
	char name[NAME_LEN], link[64];

	/* By name while it has one; an unlinked arena is reached through /proc. A new open file description is needed
	 * either way. */
	arena_name(arena->ino, name);
	fd = openat(arena->dir, name, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || !arena_is(arena, fd)) {
		if (fd >= 0)
			close(fd);
		snprintf(link, sizeof(link), "/proc/self/fd/%d", arena->fd);
		fd = open(link, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
		if (fd < 0)
			return -errno;
	}
	*ret_fd = STEAL_FD(fd);
	return 0;
}

bool arena_is(const struct arena *arena, int fd)
{
	struct stat ours, theirs;

	return fstat(arena->fd, &ours) == 0 && fstat(fd, &theirs) == 0 && ours.st_dev == theirs.st_dev &&
	       ours.st_ino == theirs.st_ino;
}

static int lock_bytes(int fd, short type, uint64_t start, uint64_t length)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)start, .l_len = (off_t)length };

	return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

int arena_hold(int fd, uint64_t holder)
{
	int err = lock_bytes(fd, F_RDLCK, holder, 1);

	/* The new number first: the description is a holder at every moment. Length 0 means up to the end. */
	if (!err && holder)
		err = lock_bytes(fd, F_UNLCK, 0, holder);
	if (!err)
		err = lock_bytes(fd, F_UNLCK, holder + 1, 0);
	return err;
}

static int hold_new(int fd, uint64_t holder, int *ret_fd)
{
	int err = arena_hold(fd, holder);

	if (err)
		close(fd);
	else
		*ret_fd = fd;
	return err;
}

int arena_open_held(int dir, uint64_t ino, uint64_t holder, int *ret_fd)
{
	char name[NAME_LEN];
	int fd;

	arena_name(ino, name);
	fd = openat(dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : hold_new(fd, holder, ret_fd);
}

int arena_share_held(const struct arena *arena, uint64_t holder, int *ret_fd)
{
	int fd = -1, err = arena_share(arena, true, &fd);

	return err ? err : hold_new(fd, holder, ret_fd);
}

void arena_let_go(int fd)
{
	lock_bytes(fd, F_UNLCK, 0, 0);
	close(fd);
}

int arena_next_holder(const struct arena *arena, uint64_t from, uint64_t *ret_holder)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)from };

	if (fcntl(arena->fd, F_OFD_GETLK, &lock) < 0)
		return -errno;
	if (lock.l_type == F_UNLCK)
		return -ENOENT;
	/* A lock that began before the range is reported with its own start. */
	*ret_holder = (uint64_t)lock.l_start > from ? (uint64_t)lock.l_start : from;
	return 0;
}
