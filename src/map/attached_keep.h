/* map/attached_keep.h - what outlives the daemon of a mapping. */
#pragma once

#include "map/attached_state.h"

/* Somebody keeps a copy of its userfaultfd, of each part that is mapped now. */
void attached_keep(struct attached *attached, struct mapping *mapping);
/* When a process began, as /proc/PID/stat has it; 0: it is gone. */
uint64_t attached_keep_started(pid_t pid);
