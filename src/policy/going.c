#include "policy/going.h"

#include "engine/file.h"
#include "engine/tenant.h"

struct going_batch *going_begin(struct going *going, struct ramfile *file, uint64_t bytes, uint64_t now_ns)
{
	for (size_t i = 0; i < GOING_MOST; i++) {
		struct going_batch *batch = &going->batch[i];

		if (batch->file)
			continue;
		*batch = (struct going_batch){ .file = file, .bytes = bytes, .since_ns = now_ns };
		return batch;
	}
	return NULL;
}

void going_end(struct going_batch *batch)
{
	*batch = (struct going_batch){ 0 };
}

static bool is_late(const struct going_batch *batch, uint64_t now_ns)
{
	return now_ns >= batch->since_ns + GOING_LATE_NS;
}

uint64_t going_bytes(const struct going *going, struct engine *engine, uint64_t tenant, uint64_t file, uint64_t now_ns)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < GOING_MOST; i++) {
		const struct going_batch *batch = &going->batch[i];

		if (batch->file && !is_late(batch, now_ns) && (!file || batch->file->ino == file) &&
		    tenant_covers(engine, tenant, batch->file))
			bytes += batch->bytes;
	}
	return bytes;
}

bool going_is_late(const struct going *going, const struct ramfile *file, uint64_t now_ns)
{
	for (size_t i = 0; i < GOING_MOST; i++)
		if (going->batch[i].file == file && is_late(&going->batch[i], now_ns))
			return true;
	return false;
}

unsigned int going_count(const struct going *going, bool late, uint64_t now_ns)
{
	unsigned int count = 0;

	for (size_t i = 0; i < GOING_MOST; i++)
		count += going->batch[i].file && is_late(&going->batch[i], now_ns) == late;
	return count;
}
