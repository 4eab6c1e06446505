#include "front/storage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cold/store_rocks.h"
#include "cold/warm.h"
#include "pool/device.h"

#define WARM_DIR "warm" /* in the tmpfs of the arenas; of another store "warm.NAME" */
#define WARM_DIR_CAP (sizeof(WARM_DIR) + 1 + STORES_NAME_MAX)

struct opening {
	struct storage *storage;
	const struct pool *pool;
	uint64_t warm_bytes; /* for each store */
};

void storage_init(struct storage *storage)
{
	*storage = (struct storage){ .store = NULL };
	for (unsigned int i = 0; i < STORES_MAX; i++)
		storage->warm_fd[i] = -1;
}

static void warm_dir_of(const char *name, char ret[static WARM_DIR_CAP])
{
	snprintf(ret, WARM_DIR_CAP, WARM_DIR "%s%s", *name ? "." : "", name);
}

/* name: "" for the pool's own. What a killed daemon left there goes to the disk if this mount has no warm values. */
static int open_warm(const struct opening *opening, const char *name, int *warm_fd, struct stores_device *device)
{
	struct store_warm_config config = {
		.below = device->below,
		.bytes = opening->warm_bytes,
		.block_bytes = opening->pool->block_bytes,
	};
	int arena_dir = opening->pool->arena_dir;
	char dir[WARM_DIR_CAP];
	int err;

	warm_dir_of(name, dir);
	if (config.bytes && mkdirat(arena_dir, dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	*warm_fd = openat(arena_dir, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*warm_fd < 0)
		return errno == ENOENT ? 0 : -errno;
	config.dir_fd = *warm_fd;
	if (config.bytes)
		return store_warm_open(&config, &device->store);
	err = store_warm_drain(device->below, *warm_fd, config.block_bytes);
	if (err == 0 && unlinkat(arena_dir, dir, AT_REMOVEDIR) < 0)
		log_debug("%s: cannot be removed: %s", dir, strerror(errno));
	return err;
}

/* Nothing is open after an error, but for what is below: that is the caller's in any case. */
static int open_one(const struct opening *opening, const char *name, const char *dir, bool create, int *warm_fd,
		    struct stores_device *ret)
{
	struct store_rocks_config config = {
		.dir = dir,
		.create = create,
		.block_bytes = opening->pool->block_bytes,
	};
	struct stores_device device = { 0 };
	int err = store_rocks_open(&config, &device.below);

	if (err < 0) {
		log_error("%s: cannot open the store: %s", dir, strerror(-err));
		return err;
	}
	device.store = device.below;
	err = open_warm(opening, name, warm_fd, &device);
	if (err < 0) {
		log_error("%s/arena/" WARM_DIR "%s%s: cannot use the warm values: %s", opening->pool->run_dir,
			  *name ? "." : "", name, strerror(-err));
		device.below->ops->free(device.below);
		return err;
	}
	*ret = device;
	return 0;
}

/* ---- the others ---- */

static bool is_wrong(int err)
{
	return err == -ENOTEMPTY || err == -EINVAL || err == -EPROTONOSUPPORT || err == -EBADMSG;
}

static int open_device(const struct opening *opening, const struct option_store *option)
{
	struct store *store = opening->storage->store;
	const char *name = options_store_name(option);
	struct device_config config = { .dir = option->dir, .name = name, .pool_id = opening->pool->id };
	uint8_t token[STORES_TOKEN_BYTES];
	CLEANUP_FREE char *dir = NULL;
	struct stores_device device;
	unsigned int index = 0;
	bool is_new = true;
	int err;

	_Static_assert(STORES_TOKEN_BYTES == DEVICE_TOKEN_BYTES, "one token");
	if (stores_find(store, name, &index) == 0) {
		config.token = stores_token(store, index);
		is_new = false;
	}
	err = device_open(&config, token, &dir);
	if (err)
		return is_wrong(err) ? err : 0; /* the mount goes on without */
	if (!index)
		index = stores_count(store);
	if (index == STORES_MAX) {
		log_error("option %s: the pool has known %d stores, and cannot know more", option->option, STORES_MAX);
		return -EINVAL;
	}
	if (open_one(opening, name, dir, is_new, &opening->storage->warm_fd[index], &device))
		return 0;
	err = stores_add(store, name, token, device);
	if (!err)
		return 0;
	log_error("option %s: the store cannot be noted in the pool: %s", option->option, strerror(-err));
	device.store->ops->free(device.store);
	return err;
}

static void tell_missing(const struct opening *opening)
{
	struct storage *storage = opening->storage;
	char dir[WARM_DIR_CAP];

	for (unsigned int i = 1; i < stores_count(storage->store); i++) {
		const char *name = stores_name(storage->store, i);
		uint64_t files = stores_files(storage->store, i);

		if (stores_here(storage->store, i))
			continue;
		warm_dir_of(name, dir);
		storage->left |= faccessat(opening->pool->arena_dir, dir, F_OK, 0) == 0;
		if (files)
			log_warn("store %s is not here, and %llu files have what is cold in it, which gives EIO; mount "
				 "the "
				 "pool with store.%s=DIR",
				 name, (unsigned long long)files, name);
	}
}

int storage_open(struct storage *storage, const struct pool *pool, const struct options *options)
{
	struct opening opening = {
		.storage = storage,
		.pool = pool,
		.warm_bytes = options->value[OPTION_WARM] / (options->store_count + 1),
	};
	struct stores_device first;
	int err = open_one(&opening, "", pool->store_dir, true, &storage->warm_fd[0], &first);

	if (err)
		return err;
	err = stores_open(first, &storage->store);
	if (err) {
		log_error("%s: cannot read which stores the pool has: %s", pool->dir, strerror(-err));
		first.store->ops->free(first.store);
		return err;
	}
	for (unsigned int i = 0; i < options->store_count && !err; i++)
		err = open_device(&opening, &options->store[i]);
	if (!err)
		tell_missing(&opening);
	return err;
}

bool storage_close(struct storage *storage)
{
	bool settled = !storage->left;

	if (storage->store) {
		settled &= storage->store->ops->sync(storage->store) == 0;
		storage->store->ops->free(storage->store);
		storage->store = NULL;
	}
	for (unsigned int i = 0; i < STORES_MAX; i++)
		if (storage->warm_fd[i] >= 0)
			close(storage->warm_fd[i]);
	return settled;
}
