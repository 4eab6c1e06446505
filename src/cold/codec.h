/* cold/codec.h - a block as it lies in the store: header, then payload. Format: docs/format/store.md.
 *
 * Encoding finds all-zero blocks (which are not stored at all) and blocks filled with one 8-byte pattern, and
 * compresses the rest with what coders.def has for its level, or keeps them raw when that does not pay. A codec decodes
 * every kind, whatever it encodes. The header carries a format version, the codec, hotness, the identity of the raw
 * content (mac.h), and a checksum that covers header, payload and the block's identity, so that a damaged, misplaced or
 * stale-format value is detected.
 *
 * Thread-safety: a struct codec belongs to one thread at a time. codec_checksum() and codec_peek() are pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ident.h"
#include "cold/store.h"

struct codec;

#define CODEC_HEADER_BYTES 32
/* Of values of before there were identities. They are read, and their content has no identity. */
#define CODEC_OLD_HEADER_BYTES 24

/* The numbers are on disk. */
enum codec_kind {
	CODEC_RAW = 0,
	CODEC_PATTERN = 2, /* payload is the 8 bytes that fill the block */
	CODEC_AWAY = 4,    /* no payload: the block has content, which is elsewhere and will come */
#define CODER(id, number, first, last, room) CODEC_##id = (number),
#include "cold/coders.def"
#undef CODER
};

struct codec_hotness {
	uint8_t generation;
	uint8_t tier;
};

struct codec_info {
	enum codec_kind kind;
	struct codec_hotness hotness;
	uint32_t payload_bytes;
	uint32_t block_bytes;      /* raw size */
	uint32_t header_bytes;     /* before the payload */
	struct tierfs_ident ident; /* of the raw content */
};

/* block_bytes: a power of two, 4 KiB to 2 MiB; level: one that coders.def has. Else -EINVAL. */
int codec_new(uint32_t block_bytes, int level, struct codec **ret);
void codec_free(struct codec *codec); /* takes NULL */

/* Largest value that codec_encode() can make of a block. */
size_t codec_bound(uint32_t block_bytes);

/* Finds damage, by chance and not by intent (XXH3-64). It says nothing of equality: that is what identities are for. */
uint64_t codec_checksum(const void *bytes, size_t length_bytes);

/* True if all bytes are zero. length_bytes is a multiple of 8, raw is 8-byte aligned. */
bool codec_is_zero(const void *raw, size_t length_bytes);

/* Encodes one block (not all zero: -EINVAL) into out (cap >= codec_bound(), else -ENOBUFS). ident is
 * that of its content. -ENOMEM is possible on the first call only. */
int codec_encode(struct codec *codec, struct store_key key, struct codec_hotness hotness, const void *raw,
		 struct tierfs_ident ident, void *out, size_t cap, size_t *ret_len);

/* A value of CODEC_HEADER_BYTES that says of a block that its content, of that identity, is away (and on
 * the other host the identity is one of its pool). block_bytes as for codec_new(). */
void codec_encode_away(uint32_t block_bytes, struct store_key key, struct codec_hotness hotness,
		       struct tierfs_ident ident, void *out);

/* Verifies the checksum and decodes into out (block_bytes of the codec). -EBADMSG: damaged, or of another key;
 * -EPROTONOSUPPORT: of a version or codec that this program does not know; -EREMOTE: it is whole, and says that the
 * content is away. ret_info may be NULL. */
int codec_decode(struct codec *codec, struct store_key key, const void *value, size_t length_bytes, void *out,
		 struct codec_info *ret_info);

/* Verifies that the value is that of a key, and makes it that of another one, in place; hotness NULL: as it was.
 * Nothing is decoded. Errors as codec_decode(); the value is unchanged then. */
int codec_rekey(void *value, size_t length_bytes, struct store_key from, struct store_key to,
		const struct codec_hotness *hotness);

/* As codec_rekey() of a value that a buffer of cap bytes holds, and says that its content has that identity: that of
 * another pool is of no use here. A value of the old form becomes one of the new. -ENOBUFS: that is too long for cap.
 */
int codec_adopt(void *value, size_t length_bytes, size_t cap, struct store_key from, struct store_key to,
		const struct codec_hotness *hotness, struct tierfs_ident ident, size_t *ret_len);

/* Sets the hotness in a copy of the first STORE_HEAD_BYTES of a value, which no checksum covers. */
void codec_set_hotness(uint8_t *head, struct codec_hotness hotness);

/* Reads the header alone, unverified but for bounds. length_bytes is that of the whole value, of which the first
 * STORE_HEAD_BYTES are enough. Errors as codec_decode(). */
int codec_peek(const void *value, size_t length_bytes, struct codec_info *ret_info);
