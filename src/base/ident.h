/* base/ident.h - identities of content (tierfs/ident.h), compared and carried. cold/mac.h makes them. */
#pragma once

#include <stdbool.h>

#include <tierfs/ident.h>

#include "base/le.h"

#define IDENT_BYTES 16
#define IDENT_NONE ((struct tierfs_ident){ { 0, 0 } }) /* not known */

static inline bool ident_known(struct tierfs_ident ident)
{
	return ident.word[0] | ident.word[1];
}

/* The same 16 bytes. */
static inline bool ident_equal(struct tierfs_ident a, struct tierfs_ident b)
{
	return ((a.word[0] ^ b.word[0]) | (a.word[1] ^ b.word[1])) == 0;
}

static inline void ident_put(struct tierfs_ident ident, uint8_t at[static IDENT_BYTES])
{
	put_le(at, ident.word[0], 8);
	put_le(at + 8, ident.word[1], 8);
}

static inline struct tierfs_ident ident_get(const uint8_t at[static IDENT_BYTES])
{
	return (struct tierfs_ident){ { get_le(at, 8), get_le(at + 8, 8) } };
}

/* The same content. What is not known is equal to nothing, not even to itself. */
static inline bool ident_same(struct tierfs_ident a, struct tierfs_ident b)
{
	return ident_known(a) && ident_equal(a, b);
}
