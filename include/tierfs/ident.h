/* tierfs/ident.h - the identity of a block's content: what equality is decided by.
 *
 * 128 bits that nobody can aim at: a message authentication code of the content, with a secret of the pool that never
 * leaves its host (docs/format/store.md). Blocks of one pool with equal identities have equal content. Identities of
 * two pools have nothing to do with each other. To others it is 16 bytes and no more.
 */
#pragma once

#include <stdint.h>

struct tierfs_ident {
	uint64_t word[2]; /* both 0: not known */
};
