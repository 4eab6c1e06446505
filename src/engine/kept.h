/* engine/kept.h - what another daemon needs to go on with an attached mapping, beside its userfaultfd.
 *
 * Whoever keeps the mount keeps a copy of the userfaultfd and this (front/holder.h). A userfaultfd that closed would
 * let absent pages read as zeros, and a process may close its own at any time.
 *
 * Beside that a descriptor of the arena is kept, which holds it for the mapping (mem/arena.h): with length_bytes 0, and
 * the same id. Who keeps it need not know the difference. Of a mapping that an older daemon left there may be none.
 */
#pragma once

#include <stdint.h>

struct kept_mapping {
	uint64_t id;      /* of the mapping */
	uint64_t started; /* when the process began, as /proc/PID/stat has it: pids are used again */
	int32_t pid;
	uint32_t behind; /* by how much its holder number in the arena is less than id */
	uint64_t ino;
	uint64_t addr, length_bytes, offset; /* of the part that is mapped, in the process and in the file */
};
