/* pool/pool.h - the pool's directory on disk, and its runtime directory.
 *
 *  POOL/pool.conf      superblock, text: magic, format version, id, block size; written once, atomically
 *  POOL/secret         0600, 32 random bytes that never leave the host: the key of identities (cold/mac.h). One that is
 *                      not there is made: identities that were made with another one are then equal to none
 *  POOL/lock           flock()ed by the daemon that uses the pool; holds "PID" or "PID leaving: WHAT"
 *  POOL/store/         the database
 *  /run/tierfs/ID/     0711: the sockets, and
 *  /run/tierfs/ID/arena  0700: the tmpfs of the arenas. It outlives a daemon that was killed.
 *  /run/tierfs/ID/arena/warm  values that are warm (cold/warm.h), if the mount has them
 *
 * Functions return 0 or -errno and have logged the one line that says what was wrong and why. One thread uses
 * a pool at a time.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <tierfs/ioctl.h>

#define POOL_ID_LEN 16
#define POOL_DEFAULT_BLOCK_BYTES 16384
#define POOL_SECRET_BYTES 32

struct pool {
	char *dir;                /* canonical path; immutable, as the next four */
	char *store_dir;          /* dir/store */
	char id[POOL_ID_LEN + 1]; /* hexadecimal */
	uint32_t block_bytes;
	uint8_t secret[POOL_SECRET_BYTES]; /* immutable */
	int lock_fd;
	char run_dir[TIERFS_RUN_DIR_LEN]; /* set by pool_start(), as the next three */
	int run_fd;                       /* the runtime directory, locked: two copies of a pool share an id */
	int arena_dir;                    /* root of the arenas' tmpfs; -1 before pool_start() */
	bool arenas_survived;             /* it was mounted, and in use, when we came */
};

/* Opens the pool, or creates it in an absent or empty directory. block_bytes 0: what the pool has, or the default.
 * -EBUSY in use; -ENOTEMPTY a foreign directory; -EPROTONOSUPPORT another version; -EINVAL another block size;
 * -EBADMSG a damaged pool.conf. Nothing is touched on these. Waits up to a minute for a holder that is on its way out.
 */
int pool_open(const char *dir, uint32_t block_bytes, struct pool **ret);

/* The runtime directory of the pool in dir, read without the lock and in silence. -ENOENT: there is no pool yet. */
int pool_find_run_dir(const char *dir, char ret[static TIERFS_RUN_DIR_LEN]);

/* Makes the runtime directory and mounts the arenas' tmpfs, or takes over the one that is there. */
int pool_start(struct pool *pool);

/* From now on the arenas agree with the store: what they hold counts when a daemon comes after a kill. Call it when
 * the namespace was loaded, with the files whose arena was gone durably marked lost. */
int pool_confirm_arenas(struct pool *pool);

/* Says in the lock file that the holder is on its way out, so that a successor waits for it, and what it is doing: one
 * word or a few, for people. */
void pool_leaving(struct pool *pool, const char *doing);

/* Unmounts the arenas and removes the runtime directory. For a clean end only: what is in the arenas is gone. */
void pool_stop(struct pool *pool);

/* Gives up the lock. Takes NULL and half-built pools. */
void pool_close(struct pool *pool);

/* Pure, for tests: pool.conf as text. parse: -EBADMSG, -EPROTONOSUPPORT. */
#define POOL_CONF_MAX 4096
int pool_conf_format(const char *id, uint32_t block_bytes, char *buf, unsigned int cap);
int pool_conf_parse(const char *text, char ret_id[static POOL_ID_LEN + 1], uint32_t *ret_block_bytes);
