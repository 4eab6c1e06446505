/* map/attached_watch.h - who makes memory in arenas behind the daemon's back (engine/watch.h) is named, and cut off. */
#pragma once

#include "map/attached_state.h"

/* Looks at all files from then on, again and again. Before the server thread runs. */
void attached_watch_start(struct attached *attached);
