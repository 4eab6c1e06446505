/* cold/coder_zstd.c - one frame of zstd. The only file that includes <zstd.h>. */
#include <errno.h>
#include <stdint.h>

#include <zstd.h>

#include "cold/coder.h"

static int compress(void **state, int level, const void *raw, size_t raw_bytes, void *out, size_t cap, size_t *ret_len)
{
	size_t len;

	if (!*state) {
		*state = ZSTD_createCCtx();
		if (!*state)
			return -ENOMEM;
	}
	len = ZSTD_compressCCtx(*state, out, cap, raw, raw_bytes, level);
	if (ZSTD_isError(len))
		return -E2BIG;
	*ret_len = len;
	return 0;
}

static void free_compress(void *state)
{
	ZSTD_freeCCtx(state);
}

static int expand(void **state, const void *payload, size_t payload_bytes, void *out, size_t raw_bytes)
{
	size_t len;

	if (!*state) {
		*state = ZSTD_createDCtx();
		if (!*state)
			return -ENOMEM;
	}
	len = ZSTD_decompressDCtx(*state, out, raw_bytes, payload, payload_bytes);
	return ZSTD_isError(len) || len != raw_bytes ? -EBADMSG : 0;
}

static void free_expand(void *state)
{
	ZSTD_freeDCtx(state);
}

const struct coder coder_zstd = {
	.compress = compress,
	.free_compress = free_compress,
	.expand = expand,
	.free_expand = free_expand,
};
