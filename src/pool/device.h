/* pool/device.h - a directory on another device, where a pool has a store more (cold/stores.h).
 *
 *  DIR/tierfs-store  text: magic, format version, id of the pool, name of the store, token; written once, atomically
 *  DIR/store/        the database
 *
 * The token is in the pool's records as well. So an empty directory in place of a store that the pool knows, as where a
 * disk is not mounted, is not taken for a new one; nor is a store that was made anew under the same name, nor one of
 * which the database is missing.
 */
#pragma once

#include <stdint.h>

#define DEVICE_TOKEN_BYTES 16
#define DEVICE_NAME_CAP 32

struct device_config {
	const char *dir;      /* absolute */
	const char *name;     /* of the store */
	const char *pool_id;  /* as in pool.conf */
	const uint8_t *token; /* that the pool knows: nothing of it is made anew; NULL: the name is a new one */
};

/* Opens it, or makes it in an absent or empty directory. ret_store_dir is freed by the caller. The one line that says
 * what was wrong was logged. -ENOTEMPTY: a foreign directory; -EINVAL: another pool's, or another store of this one;
 * -EPROTONOSUPPORT, -EBADMSG: its file is of another version, or damaged. On these nothing is touched. -ENODEV: the
 * pool knows it, and it is not there. Else what the device said. */
int device_open(const struct device_config *config, uint8_t ret_token[static DEVICE_TOKEN_BYTES], char **ret_store_dir);

/* Pure, for tests. -EBADMSG, -EPROTONOSUPPORT. */
struct device_conf {
	char pool_id[17], name[DEVICE_NAME_CAP];
	uint8_t token[DEVICE_TOKEN_BYTES];
};
int device_conf_parse(const char *text, struct device_conf *ret);
