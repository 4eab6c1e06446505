/* policy/scan.h - the rounds of one file: zap, wait, look (mem/heat.h).
 *
 * scan_step() is for the scanner's thread alone, without a lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct engine;
struct ramfile;

struct scan_pace {
	uint64_t quick_ns, slow_ns; /* time between zap and look: under pressure, and else */
	bool hurry;                 /* under pressure: scanning may cost the mappers more */
	bool wanted;                /* somebody waits for room, or will soon, which costs more than any scan */
};

/* The pace under pressure: half of min_idle, within bounds. */
uint64_t scan_quick_ns(struct engine *engine);
/* Goes on with the rounds of the file, by a step: SCAN_BLOCKS at the most. Returns when it wants to be called again,
 * unless something happens before (engine/due.h). */
uint64_t scan_step(struct ramfile *file, uint64_t now_ns, const struct scan_pace *pace);
/* Of what it has in DRAM, bytes of which its mappers have not shown that they can be found idle: what came since they
 * last acknowledged a zap; all, if they owe that for longer than late_ns. From any thread. */
uint64_t scan_unproven_bytes(struct ramfile *file, uint64_t late_ns);
/* A round shall come soon, unless all memory fits anyway. From any thread. */
void scan_want_proof(struct ramfile *file);
/* A mapper has not answered a zap for so long: nothing of the file can be demoted. */
bool scan_is_stuck(struct ramfile *file, uint64_t for_ns);
