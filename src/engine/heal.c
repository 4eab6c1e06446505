#include "engine/heal.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/partial.h"
#include "engine/retry.h"

struct healing {
	struct ramfile *file;
	uint64_t offset, length;
	bool zeros;
	int err; /* the first one */
};

static void bring_soon(void *arg, struct mapper *mapper)
{
	const struct healing *healing = arg;

	retry_heal(engine_retry(healing->file->engine), healing->file, mapper, healing->offset, 0);
}

void heal_soon(struct ramfile *file, uint64_t block)
{
	struct healing healing = { .file = file, .offset = block * file->block_bytes };

	if (!blocks_has(&file->blocks, block, BLOCK_POISONED))
		return;
	if (!mappers_each(file, bring_soon, &healing))
		blocks_clear(&file->blocks, block, BLOCK_POISONED);
}

void heal_written(struct ramfile *file, uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	if (block < file->blocks.count)
		heal_soon(file, block);
}

void heal_later(struct ramfile *file, struct mapper *mapper, uint64_t block)
{
	if (blocks_has(&file->blocks, block, BLOCK_POISONED))
		retry_heal(engine_retry(file->engine), file, mapper, block * file->block_bytes, RETRY_MOST_NS);
}

static void heal_one(void *arg, struct mapper *mapper)
{
	struct healing *healing = arg;
	int err = mapper->ops->heal(mapper, healing->offset, healing->length, healing->zeros);

	if (err && !healing->err)
		healing->err = err;
}

int heal_now(struct ramfile *file, uint64_t block, uint64_t length)
{
	struct healing healing = { .file = file, .offset = block * file->block_bytes, .length = length };

	lock_get(&file->lock);
	healing.zeros = !partial_is(file, block) && !blocks_has(&file->blocks, block, BLOCK_DAMAGED);
	lock_put(&file->lock);
	mappers_each(file, heal_one, &healing);
	if (healing.err == -EBUSY || healing.err == -ENOMEM || healing.err == -ENOSPC)
		return -EAGAIN;
	if (healing.err) {
		log_error("file %llu: block %llu is well, and this kernel cannot take poison off (%s): who was "
			  "poisoned has "
			  "to map the file anew",
			  (unsigned long long)file->ino, (unsigned long long)block, strerror(-healing.err));
		return -EIO;
	}
	return healing.zeros ? 0 : -EIO;
}
