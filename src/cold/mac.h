/* cold/mac.h - makes the identity of content (base/ident.h): a keyed hash. Why nobody can aim at it: mac.c.
 *
 * Two kinds. That of a pool is made with the secret of the pool, which its daemon alone knows; it is made of every
 * block that is demoted, so it is fast. That of a list is made with a key that two ends of a transfer share
 * (docs/format/stream.md); it is slower, and equal content cannot even be made by who knows the key.
 *
 * A checksum (codec.h) finds damage, and anybody can make bytes that have a given one. It decides nothing here.
 *
 * A struct mac belongs to one thread at a time.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/ident.h"

struct mac;

#define MAC_KEY_BYTES 32

enum mac_kind { MAC_POOL, MAC_LIST };

int mac_new(enum mac_kind kind, const uint8_t key[static MAC_KEY_BYTES], struct mac **ret); /* -ENOMEM */
void mac_free(struct mac *mac);                                                             /* takes NULL */

/* The identity of some bytes; IDENT_NONE if it cannot be made, which is equal to nothing. */
struct tierfs_ident mac_of(struct mac *mac, const void *raw, size_t length_bytes);
