/* stream/order.h - which record may follow which: the rules that a reader checks and a writer is checked against.
 *
 * Belongs to one reader or writer, and to one thread.
 */
#pragma once

#include "stream/stream.h"

struct order {
	enum stream_kind kind;
	struct stream_header header;
	uint64_t count; /* blocks of the file */
	uint8_t *named; /* a bit for each block that parts 0 and 1 named; NULL for a list */
	uint64_t named_count;
	bool begun; /* the header was seen */
	bool ended, aborted;
	uint64_t part;           /* UINT64_MAX: none yet */
	uint64_t next;           /* the least block that may come */
	unsigned int generation; /* of the last record of part 1 */
	struct stream_totals totals;
};

void order_init(struct order *order, enum stream_kind kind);
void order_fini(struct order *order); /* takes a zeroed struct */
/* Takes a record whose head is well formed. header: what a HEADER record says, else NULL. 0, -ENOMEM, or -EBADMSG
 * (-EPROTONOSUPPORT for features) and *ret_why for a person. */
int order_take(struct order *order, const struct stream_record *record, const struct stream_header *header,
	       const char **ret_why);
