/* engine/kept.h - what another daemon needs to go on with an attached mapping, beside its userfaultfd.
 *
 * Whoever keeps the mount keeps a copy of the userfaultfd and this (front/holder.h). A userfaultfd that closed would
 * let absent pages read as zeros, and a process may close its own at any time.
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
