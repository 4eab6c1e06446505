/* engine/rounds.h - where a file stands in the rounds of zap and look that find its idle blocks. policy/scan.c makes
 * them, policy/choice.c goes on from the hand; the engine says what mappers answered.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "mem/heat.h"

struct rounds {
	bool zapping;            /* under the file's lock, as all up to wanted: a zap round is out */
	bool zap_sent, zap_done; /* all of it is; every mapper has acknowledged it */
	uint64_t zap_sent_ns;    /* when zap_sent became true */
	uint64_t marked;         /* blocks that the zap that is out dropped */
	uint64_t last_marked;    /* the same of the last finished round */
	uint64_t last_returned;  /* of those, blocks that were in use */
	uint64_t zap_bytes;      /* what was in DRAM when the zap that is out began */
	uint64_t proven_bytes;   /* the same of the last one that every mapper acknowledged */
	bool proof_wanted;       /* a round shall come soon, for the file's growth waits for one */
	uint64_t wanted;         /* how many callers wait for quick rounds */

	enum { SCAN_REST, SCAN_ZAP, SCAN_WAIT, SCAN_LOOK } step; /* the scanner's thread only, as all that follows */
	uint64_t block;                                          /* where the next step begins */
	struct heat_seen seen;
	uint64_t
		rest_until_ns; /* under the lock of policy/reclaim, as all that follows: not for its own limit before */
	uint64_t out_until_ns; /* what was chosen of it could not be demoted: nothing is chosen before */
	unsigned int refusals; /* batches in a row of which a limit of what is stored refused all (engine/quota.h) */
	uint64_t refused_news; /* quota_news() then: where it is another one, out_until_ns does not hold */
	uint64_t hand;         /* block from which on the next are picked */
};
