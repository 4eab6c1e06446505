/* cold/store_meta.h - cold/meta.h on the database of the store. */
#pragma once

#include "cold/meta.h"

extern const struct meta_ops store_meta_ops;
