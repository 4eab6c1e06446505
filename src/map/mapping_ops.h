/* map/mapping_ops.h - the calls of engine/mapper.h on an attached mapping (map/mapping.h). */
#pragma once

#include "map/mapping.h"

/* As mapping_new(), with these calls: the engine can use it. */
int mapping_ops_new(const struct mapping_spec *spec, struct mapping **ret);
/* The agent has done a ZAP. Seqs of other mappings are ignored: returns false. */
bool mapping_ops_zapped(struct mapping *mapping, uint64_t seq);
