/* pool/pool.c - see pool.h.
 *
 * Why a lock file of its own: RocksDB has one too, but it is taken late, and tells nothing about who holds it or
 * whether waiting is worth it. A daemon that unmounts demotes first, which takes seconds to minutes; "umount && mount"
 * must not fail because of it, so the holder writes "leaving" into the lock file, and a newcomer waits.
 *
 * Why the marker file in the arenas' tmpfs: after a loss of power the first daemon finds dirty files without an arena
 * and marks them lost. If it dies between mounting the new tmpfs and that, the next one must not take the empty
 * tmpfs for the surviving content. The marker is made when the marks are durable; without it the tmpfs is as good as
 * new.
 */
#include "pool/pool.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "pool/conf.h"

#define POOL_MAGIC "tierfs pool"
#define POOL_VERSION 1
#define POOL_CONF "pool.conf"
#define POOL_CONF_TMP "pool.conf.tmp"
#define POOL_SECRET "secret"
#define POOL_SECRET_TMP "secret.tmp"
#define POOL_LOCK "lock"
#define POOL_STORE "store"
#define POOL_RUN_ROOT TIERFS_RUN_ROOT
#define POOL_ARENA "arena"
#define POOL_MARKER "confirmed"
#define POOL_WAIT_NS (60 * NS_PER_S)
#define POOL_GRACE_NS (NS_PER_S / 2)
#define POOL_RETRY_US 20000
#define POOL_LINE_MAX 128

/* ---- pool.conf ---- */

int pool_conf_format(const char *id, uint32_t block_bytes, char *buf, unsigned int cap)
{
	int len = snprintf(buf, cap, "%s\nversion %d\nid %s\nblock_bytes %" PRIu32 "\n", POOL_MAGIC, POOL_VERSION, id,
			   block_bytes);

	return len < 0 || (unsigned int)len >= cap ? -ENOBUFS : 0;
}

int pool_conf_parse(const char *text, char ret_id[static POOL_ID_LEN + 1], uint32_t *ret_block_bytes)
{
	char version[12], id[POOL_ID_LEN + 1], block[12];
	unsigned long block_bytes;

	if (strncmp(text, POOL_MAGIC "\n", sizeof(POOL_MAGIC)) != 0)
		return -EBADMSG;
	text += sizeof(POOL_MAGIC);
	if (conf_line(&text, "version", "0123456789", version, sizeof(version)))
		return -EBADMSG;
	/* What follows is the version's own affair, so it is looked at only in one that is known. */
	if (strcmp(version, "1") != 0)
		return -EPROTONOSUPPORT;
	if (conf_line(&text, "id", "0123456789abcdef", id, sizeof(id)) || strlen(id) != POOL_ID_LEN ||
	    conf_line(&text, "block_bytes", "0123456789", block, sizeof(block)) || *text != '\0')
		return -EBADMSG;
	block_bytes = strtoul(block, NULL, 10);
	if (block_bytes < 4096 || block_bytes > UINT32_C(1) << 30 || (block_bytes & (block_bytes - 1)) != 0)
		return -EBADMSG;
	memcpy(ret_id, id, sizeof(id));
	*ret_block_bytes = (uint32_t)block_bytes;
	return 0;
}

static int conf_write(int dir_fd, const char *id, uint32_t block_bytes)
{
	char text[256];
	int err = pool_conf_format(id, block_bytes, text, sizeof(text));

	return err < 0 ? err : conf_write_whole(dir_fd, POOL_CONF, POOL_CONF_TMP, text, strlen(text));
}

/* A pool of before there was one, or whose secret was lost, is given a new one. Identities in its store are then of no
 * use: the first demotion of each block writes it once more. Under the pool's lock. */
static int ensure_secret(struct pool *pool, int dir_fd)
{
	CLEANUP_CLOSE int fd = openat(dir_fd, POOL_SECRET, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t len = fd >= 0 ? read(fd, pool->secret, sizeof(pool->secret)) : 0;
	int err = fd < 0 && errno != ENOENT ? -errno : len < 0 ? -errno : 0;

	if (err == 0 && len == (ssize_t)sizeof(pool->secret))
		return 0;
	if (err == 0 && getrandom(pool->secret, sizeof(pool->secret), 0) != (ssize_t)sizeof(pool->secret))
		err = -EIO;
	if (err == 0)
		err = conf_write_whole(dir_fd, POOL_SECRET, POOL_SECRET_TMP, pool->secret, sizeof(pool->secret));
	if (err < 0)
		log_error("%s/%s: cannot read it or make it: %s", pool->dir, POOL_SECRET, strerror(-err));
	return err;
}

/* -ENOENT: there is none. */
static int conf_read(struct pool *pool, int dir_fd, uint32_t asked_block_bytes)
{
	CLEANUP_CLOSE int fd = openat(dir_fd, POOL_CONF, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char text[POOL_CONF_MAX + 1];
	ssize_t len;
	int err;

	if (fd < 0 && errno == ENOENT)
		return -ENOENT;
	if (fd < 0 || (len = read(fd, text, POOL_CONF_MAX)) < 0) {
		err = -errno;
		log_error("%s/%s: cannot read: %s", pool->dir, POOL_CONF, strerror(-err));
		return err;
	}
	text[len] = '\0';
	err = pool_conf_parse(text, pool->id, &pool->block_bytes);
	if (err == -EPROTONOSUPPORT)
		log_error("%s: is a pool of another format version; this tierfs knows version %d", pool->dir,
			  POOL_VERSION);
	else if (err < 0)
		log_error("%s/%s: is damaged, or not of a tierfs pool", pool->dir, POOL_CONF);
	if (err < 0)
		return err;
	if (asked_block_bytes && asked_block_bytes != pool->block_bytes) {
		log_error("%s: was created with block=%" PRIu32 "K, and block=%" PRIu32 "K was asked for", pool->dir,
			  pool->block_bytes / 1024, asked_block_bytes / 1024);
		return -EINVAL;
	}
	return 0;
}

/* ---- lock ---- */

/* Whether the process is about to be gone: dead, dying of SIGKILL, or only a zombie. */
static bool process_dying(long pid)
{
	char path[64], line[256];
	bool dying = false;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%ld/status", pid);
	status = fopen(path, "re");
	if (!status)
		return errno == ENOENT;
	while (!dying && fgets(line, sizeof(line), status)) {
		if (strncmp(line, "State:", 6) == 0)
			dying = strpbrk(line + 6, "ZX") != NULL;
		else if (strncmp(line, "SigPnd:", 7) == 0 || strncmp(line, "ShdPnd:", 7) == 0)
			dying = strtoull(line + 7, NULL, 16) & (1U << (9 - 1)); /* SIGKILL */
	}
	fclose(status);
	return dying;
}

static bool holder_leaving(int lock_fd, long *ret_pid)
{
	char line[POOL_LINE_MAX] = "", *end;
	ssize_t len = pread(lock_fd, line, sizeof(line) - 1, 0);

	if (len >= 0)
		line[len] = '\0';
	*ret_pid = strtol(line, &end, 10);
	if (*ret_pid <= 0)
		return true; /* it has the lock and has not written yet, or is about to unlock */
	return strncmp(end, " leaving", 8) == 0 || process_dying(*ret_pid);
}

static void lock_note(const struct pool *pool, const char *what)
{
	char line[POOL_LINE_MAX + 32];
	int len = snprintf(line, sizeof(line), "%ld%s\n", (long)getpid(), what);

	/* Only a hint for people and newcomers: the lock itself is the truth, so a full disk does no harm. */
	if (ftruncate(pool->lock_fd, 0) < 0 || pwrite(pool->lock_fd, line, (size_t)len, 0) != len)
		log_debug("%s/%s: cannot note the holder: %s", pool->dir, POOL_LOCK, strerror(errno));
}

static int lock_take(struct pool *pool, int dir_fd)
{
	uint64_t start = clock_ns();
	bool told = false;
	long pid = 0;

	pool->lock_fd = openat(dir_fd, POOL_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (pool->lock_fd < 0) {
		int err = -errno;

		log_error("%s/%s: cannot open: %s", pool->dir, POOL_LOCK, strerror(-err));
		return err;
	}
	while (flock(pool->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		bool leaving = holder_leaving(pool->lock_fd, &pid);
		uint64_t waited = clock_ns() - start;

		if (waited > (leaving ? POOL_WAIT_NS : POOL_GRACE_NS)) {
			log_error("%s: pool is in use by another tierfs, process %ld", pool->dir, pid);
			/* What is written in the file is the holder's. */
			close(pool->lock_fd);
			pool->lock_fd = -1;
			return -EBUSY;
		}
		if (leaving && !told && waited > POOL_GRACE_NS) {
			log_warn("%s: waiting for process %ld, which is unmounting this pool", pool->dir, pid);
			told = true;
		}
		usleep(POOL_RETRY_US);
	}
	lock_note(pool, "");
	return 0;
}

void pool_leaving(struct pool *pool, const char *doing)
{
	char text[POOL_LINE_MAX];

	snprintf(text, sizeof(text), " leaving: %s", doing);
	lock_note(pool, text);
}

/* ---- the directory ---- */

/* What a pool that was interrupted while it was made may consist of, and what every ext4 root has. */
static bool entry_harmless(const char *name)
{
	static const char *const harmless[] = { ".", "..", POOL_LOCK, POOL_CONF_TMP, "lost+found" };

	for (size_t i = 0; i < sizeof(harmless) / sizeof(harmless[0]); i++)
		if (strcmp(name, harmless[i]) == 0)
			return true;
	return false;
}

static int dir_check_empty(const struct pool *pool)
{
	struct dirent *entry;
	DIR *dir = opendir(pool->dir);
	int err = 0;

	if (!dir) {
		err = -errno;
		log_error("%s: cannot read the directory: %s", pool->dir, strerror(-err));
		return err;
	}
	while (err == 0 && (entry = readdir(dir)))
		if (!entry_harmless(entry->d_name))
			err = -ENOTEMPTY;
	closedir(dir);
	if (err == -ENOTEMPTY)
		log_error("%s: is neither empty nor a tierfs pool; nothing was changed", pool->dir);
	return err;
}

static int pool_create(struct pool *pool, int dir_fd, uint32_t block_bytes)
{
	uint8_t random[POOL_ID_LEN / 2];
	int err = 0;

	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return -EIO;
	for (size_t i = 0; i < sizeof(random); i++)
		snprintf(pool->id + 2 * i, 3, "%02x", random[i]);
	pool->block_bytes = block_bytes ? block_bytes : POOL_DEFAULT_BLOCK_BYTES;
	/* Guest memory will lie here: whatever mode an existing empty directory had, it is root's alone from now on. */
	if (fchmod(dir_fd, 0700) < 0)
		err = -errno;
	if (err == 0)
		err = conf_write(dir_fd, pool->id, pool->block_bytes);
	if (err < 0)
		log_error("%s: cannot create the pool: %s", pool->dir, strerror(-err));
	return err;
}

/* Opens the directory by its canonical name, making it if it is absent. */
static int dir_open(struct pool *pool, const char *dir, int *ret_fd)
{
	int fd, err = 0;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		err = -errno;
	if (err == 0 && !(pool->dir = realpath(dir, NULL)))
		err = -errno;
	if (err < 0) {
		log_error("%s: cannot create the pool's directory: %s", dir, strerror(-err));
		return err;
	}
	if (asprintf(&pool->store_dir, "%s/%s", pool->dir, POOL_STORE) < 0)
		return -ENOMEM;
	fd = open(pool->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		err = -errno;
		log_error("%s: cannot open the pool: %s", pool->dir, strerror(-err));
		return err;
	}
	*ret_fd = fd;
	return 0;
}

int pool_open(const char *dir, uint32_t block_bytes, struct pool **ret)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	CLEANUP_CLOSE int dir_fd = -1;
	int err;

	if (!pool)
		return -ENOMEM;
	pool->lock_fd = pool->run_fd = pool->arena_dir = -1;
	err = dir_open(pool, dir, &dir_fd);
	if (err < 0)
		goto fail;
	/* Looked at before the lock file is made, so that a foreign directory stays untouched; and again after, when
	 * nobody else can be making the pool. */
	err = conf_read(pool, dir_fd, block_bytes);
	if (err == -ENOENT)
		err = dir_check_empty(pool);
	if (err == 0)
		err = lock_take(pool, dir_fd);
	if (err < 0)
		goto fail;
	err = conf_read(pool, dir_fd, block_bytes);
	if (err == -ENOENT)
		err = pool_create(pool, dir_fd, block_bytes);
	if (err == 0)
		err = ensure_secret(pool, dir_fd);
	if (err == 0 && mkdirat(dir_fd, POOL_STORE, 0700) < 0 && errno != EEXIST) {
		err = -errno;
		log_error("%s: cannot create: %s", pool->store_dir, strerror(-err));
	}
	if (err < 0)
		goto fail;
	*ret = pool;
	return 0;
fail:
	pool_close(pool);
	return err;
}

void pool_close(struct pool *pool)
{
	if (!pool)
		return;
	if (pool->arena_dir >= 0)
		close(pool->arena_dir);
	if (pool->run_fd >= 0)
		close(pool->run_fd);
	if (pool->lock_fd >= 0) {
		/* An empty file says: nobody. The lock goes with the descriptor. */
		if (ftruncate(pool->lock_fd, 0) < 0)
			log_debug("%s/%s: %s", pool->dir, POOL_LOCK, strerror(errno));
		close(pool->lock_fd);
	}
	free(pool->store_dir);
	free(pool->dir);
	explicit_bzero(pool->secret, sizeof(pool->secret));
	free(pool);
}

/* ---- the runtime directory ---- */

static void run_dir_of(const char *id, char ret[static TIERFS_RUN_DIR_LEN])
{
	snprintf(ret, TIERFS_RUN_DIR_LEN, "%s/%s", POOL_RUN_ROOT, id);
}

int pool_find_run_dir(const char *dir, char ret[static TIERFS_RUN_DIR_LEN])
{
	CLEANUP_CLOSE int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CLEANUP_CLOSE int fd = dir_fd < 0 ? -1 : openat(dir_fd, POOL_CONF, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char text[POOL_CONF_MAX + 1], id[POOL_ID_LEN + 1];
	uint32_t block_bytes;
	ssize_t len;
	int err;

	if (fd < 0 || (len = read(fd, text, POOL_CONF_MAX)) < 0)
		return -errno;
	text[len] = '\0';
	err = pool_conf_parse(text, id, &block_bytes);
	if (err == 0)
		run_dir_of(id, ret);
	return err;
}

static int make_dir(const char *path, mode_t mode)
{
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return -errno;
	return chmod(path, mode) < 0 ? -errno : 0;
}

static int mount_tmpfs(const char *path)
{
	/* Best first; older kernels refuse what they do not know with EINVAL.
	 *
	 * The kernel makes no huge pages by itself. Punching a part of one splits it, but the kernel zeroes the part
	 * first and then splits only if nobody else holds a reference; if somebody does, the part stays present, as
	 * zeros, and who maps it reads zeros in place of what was demoted. khugepaged makes huge pages of whatever a
	 * VMM marked with MADV_HUGEPAGE, so a mount that merely allows them is not safe. engine/huge.c makes those that
	 * there are. */
	static const char *const options[] = { ",noswap,huge=never", ",noswap", "" };
	char data[96];

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		snprintf(data, sizeof(data), "mode=0700,size=0,nr_inodes=0%s", options[i]);
		if (mount("tierfs-arena", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, data) == 0) {
			if (i > 0)
				log_warn("%s: this kernel takes tmpfs options \"%s\" only; arenas may be swapped", path,
					 data);
			return 0;
		}
		if (errno != EINVAL)
			break;
	}
	return -errno;
}

/* Whether a tmpfs is mounted right there: on another device than its parent. */
static int is_mounted(const char *path, int parent_fd, bool *ret)
{
	struct stat below, above;
	struct statfs fs;

	if (stat(path, &below) < 0 || fstat(parent_fd, &above) < 0 || statfs(path, &fs) < 0)
		return -errno;
	*ret = below.st_dev != above.st_dev && fs.f_type == TMPFS_MAGIC;
	return 0;
}

static int start_arenas(struct pool *pool, const char *path)
{
	bool mounted = false;
	int err = make_dir(path, 0700);

	if (err == 0)
		err = is_mounted(path, pool->run_fd, &mounted);
	if (err == 0 && !mounted)
		err = mount_tmpfs(path);
	if (err < 0)
		return err;
	pool->arena_dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (pool->arena_dir < 0) {
		err = -errno;
		if (!mounted)
			umount2(path, 0);
		return err;
	}
	if (!mounted)
		return 0;
	pool->arenas_survived = true; /* until it is known that they did not: what is there is left alone */
	if (faccessat(pool->arena_dir, POOL_MARKER, F_OK, 0) < 0) {
		if (errno != ENOENT)
			return -errno;
		pool->arenas_survived = false;
	}
	return 0;
}

int pool_start(struct pool *pool)
{
	char path[TIERFS_RUN_DIR_LEN + sizeof(POOL_ARENA)];
	int err;

	run_dir_of(pool->id, pool->run_dir);
	snprintf(path, sizeof(path), "%s/%s", pool->run_dir, POOL_ARENA);
	err = make_dir(POOL_RUN_ROOT, 0711);
	if (err == 0)
		err = make_dir(pool->run_dir, 0711);
	if (err < 0)
		goto fail;
	pool->run_fd = open(pool->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (pool->run_fd < 0) {
		err = -errno;
		goto fail;
	}
	if (flock(pool->run_fd, LOCK_EX | LOCK_NB) < 0) {
		/* Not ours to clean up. */
		close(pool->run_fd);
		pool->run_fd = -1;
		log_error("%s: a pool with the same id %s is mounted; one is a copy of the other", pool->dir, pool->id);
		return -EBUSY;
	}
	err = start_arenas(pool, path);
	if (err < 0)
		goto fail;
	return 0;
fail:
	log_error("%s: cannot prepare the runtime directory: %s", pool->run_dir, strerror(-err));
	return err;
}

int pool_confirm_arenas(struct pool *pool)
{
	int fd = openat(pool->arena_dir, POOL_MARKER, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0) {
		int err = -errno;

		log_error("%s/%s: cannot create a file: %s", pool->run_dir, POOL_ARENA, strerror(-err));
		return err;
	}
	close(fd);
	return 0;
}

void pool_stop(struct pool *pool)
{
	char path[TIERFS_RUN_DIR_LEN + 32];

	if (pool->arena_dir >= 0) {
		close(pool->arena_dir);
		pool->arena_dir = -1;
		snprintf(path, sizeof(path), "%s/%s", pool->run_dir, POOL_ARENA);
		/* Someone may still hold a descriptor of an arena: then its memory goes with that. */
		if (umount2(path, 0) < 0 && umount2(path, MNT_DETACH) < 0)
			log_warn("%s: cannot unmount: %s", path, strerror(errno));
		rmdir(path);
	}
	if (pool->run_fd >= 0) {
		unlinkat(pool->run_fd, TIERFS_ATTACH_SOCKET, 0);
		unlinkat(pool->run_fd, TIERFS_CONTROL_SOCKET, 0);
		unlinkat(pool->run_fd, TIERFS_ACCESS_SOCKET, 0);
		rmdir(pool->run_dir); /* the directory above stays: another pool may be about to use it */
	}
}
