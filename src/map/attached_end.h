/* map/attached_end.h - how mappings end. */
#pragma once

#include "map/attached_state.h"

void attached_end_init(struct attached *attached);
/* The mapping is in no list any more. Waits for whoever is at work in its process. */
void attached_end_mapping(struct attached *attached, struct mapping *mapping);

/* Its connection is gone, and its process lives. From the server thread, or before it runs. */
void attached_orphan(struct attached *attached, struct link *link);
/* The same for one that is found after others could come back; it is ended if its process has. */
void attached_late_orphan(struct attached *attached, struct link *link);
/* The connection has none any more: they are orphans, or are ended. From the server thread. */
void attached_end_mappings(struct attached *attached, struct connection *connection);
/* All orphans are to be ended. Once the server thread has ended. */
void attached_end_orphans(struct attached *attached);
/* The mapping that the process had at the address before its connection broke, if this daemon knew it. */
void attached_end_predecessor(struct attached *attached, pid_t pid, uint64_t addr);
