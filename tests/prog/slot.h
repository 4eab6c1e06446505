/* tests/prog/slot.h - 64-byte slots that know what they should be, and the versions that they should have.
 *
 * A slot is eight words: its index, its version, five words of filler and a checksum, all derived from (seed, index,
 * version). Version 0 is all zeros: a slot that was never written. Whoever knows the version knows every bit, so a
 * page that is lost, stale, torn, zeroed or somebody else's is seen at the first access, and told apart.
 *
 * The expected versions are in a state file that is mapped shared: it is current at every moment, also for another
 * process that checks the content while it changes, and after the program was killed. A version is raised by the one
 * owner of its slot after the slot was written. So a reader who notes the version before (low) and after (high) it
 * reads must find words of versions low to high + 1 and of no other.
 */
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prog.h"

#define SLOT_BYTES 64UL
#define SLOT_WORDS 8
#define SLOTS_PER_PAGE (PROG_PAGE / SLOT_BYTES)
#define STATE_MAGIC 0x7469657273746174ULL

struct state {
	uint64_t magic;
	uint64_t seed;
	uint64_t size_bytes;
	uint64_t compressible_256; /* of 256 filler words, how many compress away */
	uint64_t reserved[508];
	_Atomic uint32_t version[]; /* one a slot */
};

enum slot_verdict { SLOT_RIGHT, SLOT_ZERO, SLOT_STALE, SLOT_FUTURE, SLOT_FOREIGN, SLOT_TORN };

static inline const char *slot_verdict_name(enum slot_verdict verdict)
{
	switch (verdict) {
	case SLOT_RIGHT:
		return "right";
	case SLOT_ZERO:
		return "zeros in place of data";
	case SLOT_STALE:
		return "stale: an older version";
	case SLOT_FUTURE:
		return "a version never written";
	case SLOT_FOREIGN:
		return "the content of another place";
	case SLOT_TORN:
		return "torn or damaged";
	}
	return "?";
}

/* What word number j of a slot has to be. */
static inline uint64_t slot_word(const struct state *state, uint64_t index, uint64_t version, unsigned int j)
{
	uint64_t key = prog_mix(state->seed ^ (index * SLOT_WORDS + j));

	if (!version)
		return 0;
	if (j == 0)
		return index;
	if (j == 1)
		return version;
	if (j < SLOT_WORDS - 1 && (key & 255) < state->compressible_256)
		return 0x2073667265697420ULL;
	return prog_mix(key + version);
}

static inline void slot_write(const struct state *state, uint64_t index, uint64_t version, volatile uint64_t *slot)
{
	for (unsigned int j = 0; j < SLOT_WORDS; j++)
		slot[j] = slot_word(state, index, version, j);
}

static inline bool slot_is(const struct state *state, uint64_t index, uint64_t version, const volatile uint64_t *slot)
{
	for (unsigned int j = 0; j < SLOT_WORDS; j++)
		if (slot[j] != slot_word(state, index, version, j))
			return false;
	return true;
}

/* For a slot that may be in the middle of being written: each word belongs to one of the versions low to high. */
static inline bool slot_is_between(const struct state *state, uint64_t index, uint64_t low, uint64_t high,
				   const uint64_t *slot)
{
	for (unsigned int j = 0; j < SLOT_WORDS; j++) {
		uint64_t version = low;

		while (version <= high && slot[j] != slot_word(state, index, version, j))
			version++;
		if (version > high)
			return false;
	}
	return true;
}

/* Says how the content is wrong. */
static inline enum slot_verdict slot_judge(const struct state *state, uint64_t index, uint64_t version,
					   const uint64_t *slot)
{
	uint64_t any = 0;

	if (slot_is(state, index, version, slot))
		return SLOT_RIGHT;
	for (unsigned int j = 0; j < SLOT_WORDS; j++)
		any |= slot[j];
	if (!any)
		return SLOT_ZERO;
	if (!slot_is(state, slot[0], slot[1], slot))
		return SLOT_TORN;
	if (slot[0] != index)
		return SLOT_FOREIGN;
	return slot[1] < version ? SLOT_STALE : SLOT_FUTURE;
}

static inline uint64_t state_slots(const struct state *state)
{
	return state->size_bytes / SLOT_BYTES;
}

/* Maps the state file; path NULL: nobody else needs it. Created when it is absent or fresh is set: all versions 0. */
static inline struct state *state_open(const char *path, uint64_t size_bytes, bool fresh)
{
	int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : memfd_create("state", MFD_CLOEXEC);
	struct stat st;
	size_t length;
	struct state *state;

	if (fd < 0 || fstat(fd, &st) < 0)
		prog_die("state file %s: %s", path ? path : "(memory)", strerror(errno));
	if (fresh || !st.st_size) {
		length = sizeof(struct state) + size_bytes / SLOT_BYTES * sizeof(uint32_t);
		if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)length) < 0)
			prog_die("state file %s: %s", path ? path : "(memory)", strerror(errno));
	} else {
		length = (size_t)st.st_size;
	}
	state = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (state == MAP_FAILED)
		prog_die("cannot map state file %s: %s", path ? path : "(memory)", strerror(errno));
	close(fd);
	if (state->magic == STATE_MAGIC && length != sizeof(struct state) + state_slots(state) * sizeof(uint32_t))
		prog_die("state file %s has the wrong length", path);
	return state;
}
