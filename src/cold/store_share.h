/* cold/store_share.h - values that several files have. As store.h says. */
#pragma once

#include "cold/store_state.h"

int store_share_blocks(struct store *base, const struct store_share *share);
uint64_t store_share_bytes(struct store *base, uint64_t ino);
