#include "engine/stages.h"

#include <sys/sdt.h>

#include "base/clock.h"
#include "engine/hist.h"

static const char *const NAMES[STAGES] = {
	[STAGE_EVENT] = "event",   [STAGE_QUEUE] = "queue", [STAGE_ROOM] = "room",   [STAGE_READ] = "read",
	[STAGE_DECODE] = "decode", [STAGE_COPY] = "copy",   [STAGE_TOTAL] = "total", [STAGE_AHEAD] = "ahead",
};

const char *stage_name(enum stage stage)
{
	return NAMES[stage];
}

/* The name of a probe is part of its instruction: there is one for each stage. */
static void probe(enum stage stage, uint64_t ino, uint64_t block, uint64_t ns)
{
	switch (stage) {
	case STAGE_EVENT:
		DTRACE_PROBE3(tierfs, fault_event, ino, block, ns);
		break;
	case STAGE_QUEUE:
		DTRACE_PROBE3(tierfs, fault_queue, ino, block, ns);
		break;
	case STAGE_ROOM:
		DTRACE_PROBE3(tierfs, fault_room, ino, block, ns);
		break;
	case STAGE_READ:
		DTRACE_PROBE3(tierfs, fault_read, ino, block, ns);
		break;
	case STAGE_DECODE:
		DTRACE_PROBE3(tierfs, fault_decode, ino, block, ns);
		break;
	case STAGE_COPY:
		DTRACE_PROBE3(tierfs, fault_copy, ino, block, ns);
		break;
	case STAGE_TOTAL:
		DTRACE_PROBE3(tierfs, fault_total, ino, block, ns);
		break;
	case STAGE_AHEAD:
		DTRACE_PROBE3(tierfs, fault_ahead, ino, block, ns);
		break;
	}
}

uint64_t stage_end(struct stages *stages, enum stage stage, uint64_t ino, uint64_t block, uint64_t start_ns)
{
	uint64_t now = clock_ns();
	uint64_t took = now > start_ns ? now - start_ns : 0;

	hist_add(&stages->hist[stage], took);
	probe(stage, ino, block, took);
	return now;
}
