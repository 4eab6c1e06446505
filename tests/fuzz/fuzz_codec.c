/* Stored blocks: no value crashes the decoder or makes it write beyond the block, and what was encoded decodes to the
 * same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cold/codec.h"
#include "lib/lib_ident.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BLOCK_BYTES 4096

static const struct store_key key = { 2, 7 };

/* One level of each that compresses. */
static const int level[] = {
#define CODER(id, number, first, last, room) first,
#include "cold/coders.def"
#undef CODER
};
#define CODERS (sizeof(level) / sizeof(level[0]))

static void decode_any(struct codec *codec, const uint8_t *data, size_t size)
{
	uint8_t *plain = malloc(BLOCK_BYTES); /* of this very size, so that the sanitizer sees a byte too many */
	struct codec_info info;

	if (plain)
		codec_decode(codec, key, data, size, plain, &info);
	codec_peek(data, size, &info);
	free(plain);
}

static void round_trip(struct codec *codec, const uint8_t *data, size_t size)
{
	static _Alignas(8) uint8_t plain[BLOCK_BYTES], back[BLOCK_BYTES];
	struct codec_hotness hotness = { 1, 2 };
	size_t cap = codec_bound(BLOCK_BYTES), len;
	uint8_t *value = malloc(cap);

	memset(plain, 0, sizeof(plain));
	for (size_t i = 0; size && i < sizeof(plain); i++)
		plain[i] = data[i % size];
	if (value && !codec_is_zero(plain, sizeof(plain))) {
		if (codec_encode(codec, key, hotness, plain, ident_from(1), value, cap, &len))
			abort();
		if (codec_decode(codec, key, value, len, back, NULL) || memcmp(plain, back, sizeof(plain)))
			abort();
		/* Damaged in one bit, it is refused. */
		value[size % len] ^= (uint8_t)(1 << (data[0] % 8));
		if (!codec_decode(codec, key, value, len, back, NULL))
			abort();
	}
	free(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct codec *codec[CODERS];

	for (size_t i = 0; i < CODERS; i++)
		if (!codec[i] && codec_new(BLOCK_BYTES, level[i], &codec[i]))
			return 0;
	decode_any(codec[0], data, size); /* each decodes every kind */
	for (size_t i = 0; i < CODERS; i++)
		round_trip(codec[i], data, size);
	return 0;
}
