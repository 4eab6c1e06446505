/* lib/lib_ident.h - what a mount of a test, whose secret is all zeros, calls content. */
#pragma once

#include <stddef.h>

#include "base/ident.h"

struct tierfs_ident ident_of(const void *plain, size_t length_bytes);
/* Some number as an identity. */
struct tierfs_ident ident_from(uint64_t number);
