/* cold/codec.c - one block to one value and back. What compresses is in coder.h.
 *
 * The header is written byte by byte, little-endian, so that neither padding nor the host shows in it. Its checksum is
 * the hash of (file, block number, the header before it, hash of the payload): a value that was damaged, cut, or
 * found under another key does not verify. The identity is the caller's; it is stored for the change check of a
 * demotion and is not made again on decode, because the checksum already covers the bytes it would be made from.
 *
 * Version 1 had 8 bytes of XXH3 of the content in the place of the identity, and the checksum behind them. Whoever
 * chooses content can choose that hash, so it is not even read.
 */
#include "cold/codec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* the same hashes, with what this processor has: two to four times as fast */
#endif

#include "base/le.h"
#include "cold/coder.h"

#define CODEC_VERSION 2
#define CODEC_VERSION_OLD 1
#define CODEC_BLOCK_SHIFT_MIN 12
#define CODEC_BLOCK_SHIFT_MAX 21

/* Offsets in the header. */
enum {
	AT_VERSION = 0,
	AT_KIND = 1,
	AT_GENERATION = 2,
	AT_TIER = 3,
	AT_BLOCK_SHIFT = 4,
	AT_PAYLOAD_BYTES = 5, /* 3 bytes */
	AT_IDENT = 8,
	AT_OLD_CHECKSUM = 16,
	AT_CHECKSUM = 24,
};
_Static_assert(AT_CHECKSUM == STORE_HEAD_BYTES, "what a peek needs is what the store keeps at hand");
_Static_assert(AT_CHECKSUM + 8 == CODEC_HEADER_BYTES && AT_OLD_CHECKSUM + 8 == CODEC_OLD_HEADER_BYTES,
	       "the checksum ends the header");

static const struct coder_row {
	enum codec_kind kind;
	int level_first, level_last;
	const struct coder *coder;
} coders[] = {
#define CODER(id, number, first, last, room) { CODEC_##id, first, last, &coder_##room },
#include "cold/coders.def"
#undef CODER
};
#define CODER_COUNT (sizeof(coders) / sizeof(coders[0]))

struct codec {
	uint32_t block_bytes; /* immutable, and so are the next three */
	uint8_t block_shift;
	int level;
	size_t coder;                /* what encodes, in coders[] */
	void *compress[CODER_COUNT]; /* made when first used, and so are the next: many codecs only decode */
	void *expand[CODER_COUNT];
};

/* Index in coders[], or CODER_COUNT. */
static size_t coder_of_level(int level)
{
	size_t i = 0;

	while (i < CODER_COUNT && (level < coders[i].level_first || level > coders[i].level_last))
		i++;
	return i;
}

static size_t coder_of_kind(unsigned int kind)
{
	size_t i = 0;

	while (i < CODER_COUNT && kind != coders[i].kind)
		i++;
	return i;
}

int codec_new(uint32_t block_bytes, int level, struct codec **ret)
{
	unsigned int shift = block_bytes ? (unsigned int)__builtin_ctz(block_bytes) : 0;
	size_t coder = coder_of_level(level);
	struct codec *codec;

	if (shift < CODEC_BLOCK_SHIFT_MIN || shift > CODEC_BLOCK_SHIFT_MAX || block_bytes != UINT32_C(1) << shift)
		return -EINVAL;
	if (coder == CODER_COUNT)
		return -EINVAL;

	codec = calloc(1, sizeof(*codec));
	if (!codec)
		return -ENOMEM;
	codec->block_bytes = block_bytes;
	codec->block_shift = (uint8_t)shift;
	codec->level = level;
	codec->coder = coder;
	*ret = codec;
	return 0;
}

void codec_free(struct codec *codec)
{
	if (!codec)
		return;
	for (size_t i = 0; i < CODER_COUNT; i++) {
		coders[i].coder->free_compress(codec->compress[i]);
		coders[i].coder->free_expand(codec->expand[i]);
	}
	free(codec);
}

size_t codec_bound(uint32_t block_bytes)
{
	return CODEC_HEADER_BYTES + (size_t)block_bytes;
}

uint64_t codec_checksum(const void *bytes, size_t length_bytes)
{
	return XXH3_64bits(bytes, length_bytes);
}

/* Two machine words that may lie at any multiple of 8. */
typedef uint64_t pair __attribute__((vector_size(16), aligned(8), may_alias));

bool codec_is_zero(const void *raw, size_t length_bytes)
{
	const pair *at = raw;
	const uint64_t *word;
	size_t left = length_bytes;

	for (; left >= 4 * sizeof(*at); at += 4, left -= 4 * sizeof(*at)) {
		pair any = at[0] | at[1] | at[2] | at[3];

		if (any[0] | any[1])
			return false;
	}
	for (word = (const uint64_t *)at; left >= sizeof(*word); word++, left -= sizeof(*word)) {
		if (*word)
			return false;
	}
	return true;
}

/* Every 8-byte word equals the one after it: libc's memcmp stops at the first difference and is as wide as the machine.
 */
static bool is_pattern(const void *raw, size_t length_bytes)
{
	return memcmp(raw, (const char *)raw + sizeof(uint64_t), length_bytes - sizeof(uint64_t)) == 0;
}

/* Where the checksum is in a header: it covers what is before it. */
static size_t checksum_at(const uint8_t *header)
{
	return header[AT_VERSION] == CODEC_VERSION_OLD ? AT_OLD_CHECKSUM : AT_CHECKSUM;
}

static uint64_t checksum_of(struct store_key key, const uint8_t *header, uint64_t payload_hash)
{
	size_t header_bytes = checksum_at(header);
	uint8_t covered[16 + AT_CHECKSUM + 8];

	put_le(covered, key.ino, 8);
	put_le(covered + 8, key.block, 8);
	memcpy(covered + 16, header, header_bytes);
	put_le(covered + 16 + header_bytes, payload_hash, 8);
	return XXH3_64bits(covered, 16 + header_bytes + 8);
}

static void put_checksum(struct store_key key, uint8_t *header, uint64_t payload_hash)
{
	put_le(header + checksum_at(header), checksum_of(key, header, payload_hash), 8);
}

static bool verify(struct store_key key, const uint8_t *header, uint64_t payload_hash)
{
	return checksum_of(key, header, payload_hash) == get_le(header + checksum_at(header), 8);
}

/* 0 and *ret_len, or -E2BIG when compression does not save a sixteenth: it gives up as soon as it sees that. */
static int compress(struct codec *codec, const void *raw, void *out, enum codec_kind *ret_kind, size_t *ret_len)
{
	const struct coder_row *row = &coders[codec->coder];
	size_t worth = codec->block_bytes - codec->block_bytes / 16;

	*ret_kind = row->kind;
	return row->coder->compress(&codec->compress[codec->coder], codec->level, raw, codec->block_bytes, out, worth,
				    ret_len);
}

/* All but the checksum. */
static void put_header(uint8_t *header, enum codec_kind kind, uint8_t block_shift, struct codec_hotness hotness,
		       size_t payload_bytes, struct tierfs_ident ident)
{
	header[AT_VERSION] = CODEC_VERSION;
	header[AT_KIND] = (uint8_t)kind;
	header[AT_GENERATION] = hotness.generation;
	header[AT_TIER] = hotness.tier;
	header[AT_BLOCK_SHIFT] = block_shift;
	put_le(header + AT_PAYLOAD_BYTES, payload_bytes, 3);
	ident_put(ident, header + AT_IDENT);
}

int codec_encode(struct codec *codec, struct store_key key, struct codec_hotness hotness, const void *raw,
		 struct tierfs_ident ident, void *out, size_t cap, size_t *ret_len)
{
	uint8_t *header = out;
	uint8_t *payload = header + CODEC_HEADER_BYTES;
	enum codec_kind kind;
	size_t len;
	int err;

	if (cap < codec_bound(codec->block_bytes))
		return -ENOBUFS;
	if (is_pattern(raw, codec->block_bytes)) {
		uint64_t pattern;

		memcpy(&pattern, raw, sizeof(pattern));
		if (!pattern)
			return -EINVAL;
		kind = CODEC_PATTERN;
		len = sizeof(pattern);
		memcpy(payload, raw, len);
	} else {
		err = compress(codec, raw, payload, &kind, &len);
		if (err == -E2BIG) {
			kind = CODEC_RAW;
			len = codec->block_bytes;
			memcpy(payload, raw, len);
		} else if (err < 0) {
			return err;
		}
	}

	put_header(header, kind, codec->block_shift, hotness, len, ident);
	put_checksum(key, header, XXH3_64bits(payload, len));
	*ret_len = CODEC_HEADER_BYTES + len;
	return 0;
}

void codec_encode_away(uint32_t block_bytes, struct store_key key, struct codec_hotness hotness,
		       struct tierfs_ident ident, void *out)
{
	uint8_t *header = out;

	put_header(header, CODEC_AWAY, (uint8_t)__builtin_ctz(block_bytes), hotness, 0, ident);
	put_checksum(key, header, XXH3_64bits(NULL, 0));
}

static bool is_known(unsigned int kind)
{
	return kind == CODEC_RAW || kind == CODEC_PATTERN || kind == CODEC_AWAY || coder_of_kind(kind) < CODER_COUNT;
}

int codec_peek(const void *value, size_t length_bytes, struct codec_info *ret_info)
{
	const uint8_t *header = value;
	struct codec_info info;

	if (length_bytes < CODEC_OLD_HEADER_BYTES)
		return -EBADMSG;
	if ((header[AT_VERSION] != CODEC_VERSION && header[AT_VERSION] != CODEC_VERSION_OLD) ||
	    !is_known(header[AT_KIND]))
		return -EPROTONOSUPPORT;
	info.header_bytes = header[AT_VERSION] == CODEC_VERSION ? CODEC_HEADER_BYTES : CODEC_OLD_HEADER_BYTES;
	if (length_bytes < info.header_bytes)
		return -EBADMSG;
	if (header[AT_BLOCK_SHIFT] < CODEC_BLOCK_SHIFT_MIN || header[AT_BLOCK_SHIFT] > CODEC_BLOCK_SHIFT_MAX)
		return -EBADMSG;

	info.kind = (enum codec_kind)header[AT_KIND];
	info.hotness.generation = header[AT_GENERATION];
	info.hotness.tier = header[AT_TIER];
	info.payload_bytes = (uint32_t)get_le(header + AT_PAYLOAD_BYTES, 3);
	info.block_bytes = UINT32_C(1) << header[AT_BLOCK_SHIFT];
	info.ident = header[AT_VERSION] == CODEC_VERSION ? ident_get(header + AT_IDENT) : IDENT_NONE;
	if (info.payload_bytes > info.block_bytes || (info.kind == CODEC_AWAY) != (info.payload_bytes == 0))
		return -EBADMSG;
	*ret_info = info;
	return 0;
}

static int unpack(struct codec *codec, const struct codec_info *info, const uint8_t *payload, void *out)
{
	size_t i = coder_of_kind(info->kind);

	if (i < CODER_COUNT)
		return coders[i].coder->expand(&codec->expand[i], payload, info->payload_bytes, out,
					       codec->block_bytes);
	switch (info->kind) {
	case CODEC_RAW:
		if (info->payload_bytes != codec->block_bytes)
			return -EBADMSG;
		memcpy(out, payload, codec->block_bytes);
		return 0;
	case CODEC_PATTERN:
		if (info->payload_bytes != sizeof(uint64_t))
			return -EBADMSG;
		for (size_t at = 0; at < codec->block_bytes; at += sizeof(uint64_t))
			memcpy((uint8_t *)out + at, payload, sizeof(uint64_t));
		return 0;
	case CODEC_AWAY:
		return -EREMOTE;
	default: /* codec_peek() has refused it */
		return -EPROTONOSUPPORT;
	}
}

int codec_decode(struct codec *codec, struct store_key key, const void *value, size_t length_bytes, void *out,
		 struct codec_info *ret_info)
{
	const uint8_t *header = value;
	struct codec_info info;
	int err;

	err = codec_peek(value, length_bytes, &info);
	if (err < 0)
		return err;
	if (info.payload_bytes != length_bytes - info.header_bytes || info.block_bytes != codec->block_bytes)
		return -EBADMSG;
	if (!verify(key, header, XXH3_64bits(header + info.header_bytes, info.payload_bytes)))
		return -EBADMSG;
	err = unpack(codec, &info, header + info.header_bytes, out);
	if (err < 0)
		return err;
	if (ret_info)
		*ret_info = info;
	return 0;
}

void codec_set_hotness(uint8_t *head, struct codec_hotness hotness)
{
	head[AT_GENERATION] = hotness.generation;
	head[AT_TIER] = hotness.tier;
}

static int check_whole(const uint8_t *value, size_t length_bytes, struct store_key key, struct codec_info *ret_info,
		       uint64_t *ret_payload_hash)
{
	int err = codec_peek(value, length_bytes, ret_info);

	if (err < 0)
		return err;
	if (ret_info->payload_bytes != length_bytes - ret_info->header_bytes)
		return -EBADMSG;
	*ret_payload_hash = XXH3_64bits(value + ret_info->header_bytes, ret_info->payload_bytes);
	return verify(key, value, *ret_payload_hash) ? 0 : -EBADMSG;
}

int codec_rekey(void *value, size_t length_bytes, struct store_key from, struct store_key to,
		const struct codec_hotness *hotness)
{
	struct codec_info info;
	uint64_t payload_hash;
	int err = check_whole(value, length_bytes, from, &info, &payload_hash);

	if (err < 0)
		return err;
	if (hotness)
		codec_set_hotness(value, *hotness);
	put_checksum(to, value, payload_hash);
	return 0;
}

int codec_adopt(void *value, size_t length_bytes, size_t cap, struct store_key from, struct store_key to,
		const struct codec_hotness *hotness, struct tierfs_ident ident, size_t *ret_len)
{
	uint8_t *header = value;
	struct codec_info info;
	uint64_t payload_hash;
	int err = check_whole(value, length_bytes, from, &info, &payload_hash);

	if (err < 0)
		return err;
	if (CODEC_HEADER_BYTES + (size_t)info.payload_bytes > cap)
		return -ENOBUFS;
	memmove(header + CODEC_HEADER_BYTES, header + info.header_bytes, info.payload_bytes);
	put_header(header, info.kind, (uint8_t)__builtin_ctz(info.block_bytes), hotness ? *hotness : info.hotness,
		   info.payload_bytes, ident);
	put_checksum(to, header, payload_hash);
	*ret_len = CODEC_HEADER_BYTES + (size_t)info.payload_bytes;
	return 0;
}
