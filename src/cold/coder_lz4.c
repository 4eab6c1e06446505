/* cold/coder_lz4.c - LZ4 blocks without a frame. The only file that includes <lz4.h>. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include <lz4.h>

#include "cold/coder.h"

static int compress(void **state, int level, const void *raw, size_t raw_bytes, void *out, size_t cap, size_t *ret_len)
{
	int len;

	(void)level; /* there is one */
	if (!*state) {
		*state = malloc((size_t)LZ4_sizeofState());
		if (!*state)
			return -ENOMEM;
	}
	len = LZ4_compress_fast_extState(*state, raw, out, (int)raw_bytes, (int)cap, 1);
	if (len <= 0)
		return -E2BIG;
	*ret_len = (size_t)len;
	return 0;
}

static int expand(void **state, const void *payload, size_t payload_bytes, void *out, size_t raw_bytes)
{
	int len = LZ4_decompress_safe(payload, out, (int)payload_bytes, (int)raw_bytes);

	(void)state;
	return len < 0 || (size_t)len != raw_bytes ? -EBADMSG : 0;
}

const struct coder coder_lz4 = {
	.compress = compress,
	.free_compress = free,
	.expand = expand,
	.free_expand = free,
};
