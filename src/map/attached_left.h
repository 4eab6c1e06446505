/* map/attached_left.h - mappings that an earlier daemon left. */
#pragma once

#include "map/attached_state.h"

/* Goes on with the mappings that an earlier daemon left, each by a chore. Before the server runs. */
void attached_take_left(struct attached *attached);
