/* cold/owners.h - how many records name a value, and the file that it was put for. The segments' lock is held. */
#pragma once

#include "cold/store_state.h"

void owners_use(struct store_rocks *store, struct place place);  /* one more record names it */
void owners_drop(struct store_rocks *store, struct place place); /* one less */
/* The file that the checksum of the value under that key is made for. */
uint64_t owners_origin(const struct store_rocks *store, struct store_key key, struct place place);
/* Without the lock: a value as it lies becomes one of the key that it was asked for; one that is not what it should be
 * stays as it is, and fails its checksum. */
void owners_rekey(void *value, size_t length_bytes, uint64_t origin, struct store_key key);
