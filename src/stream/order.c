/* order.c - see order.h. */
#include "stream/order.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NO_PART UINT64_MAX

void order_init(struct order *order, enum stream_kind kind)
{
	*order = (struct order){ .kind = kind, .part = NO_PART };
}

void order_fini(struct order *order)
{
	free(order->named);
	order->named = NULL;
}

static int wrong(const char **ret_why, const char *why)
{
	*ret_why = why;
	return -EBADMSG;
}

static int take_header(struct order *order, const struct stream_header *header, const char **ret_why)
{
	const char *why = stream_header_check(header);

	if (why)
		return wrong(ret_why, why);
	if (header->features & ~STREAM_FEATURES_KNOWN) {
		*ret_why = "it has features that this version does not know";
		return -EPROTONOSUPPORT;
	}
	if (order->kind != STREAM_BLOCKS && header->features)
		return wrong(ret_why, "only a stream of blocks has features");
	if ((header->features & STREAM_FEATURE_COLD_ONLY) &&
	    (header->features & (STREAM_FEATURE_ROUNDS | STREAM_FEATURE_POSTCOPY)))
		return wrong(ret_why, "these features exclude each other");
	order->header = *header;
	order->count = stream_block_count(header);
	if (order->kind == STREAM_BLOCKS) {
		/* Memory that is never touched unless blocks are named. */
		order->named = calloc(1, order->count / 8 + 1);
		if (!order->named)
			return -ENOMEM;
	}
	order->begun = true;
	return 0;
}

static int take_part(struct order *order, const struct stream_record *record, const char **ret_why)
{
	uint32_t features = order->header.features;

	if (record->value >= STREAM_PARTS_MAX)
		return wrong(ret_why, "no such part");
	if (record->value != order->part + 1)
		return wrong(ret_why, "parts are out of order");
	if (record->value > STREAM_PART_COLD && (features & STREAM_FEATURE_COLD_ONLY))
		return wrong(ret_why, "the header says that there is one part only");
	if (record->value > STREAM_PART_RESIDENT && !(features & STREAM_FEATURE_ROUNDS))
		return wrong(ret_why, "the header says that there are two parts only");
	if (record->value > STREAM_PART_RESIDENT && !(features & STREAM_FEATURE_DELTA) &&
	    order->named_count != order->count)
		return wrong(ret_why, "the first two parts did not name every block");
	order->part = record->value;
	order->next = 0;
	order->generation = 0;
	return 0;
}

/* Marks [block, block + count) as named in the first two parts. */
static int name_blocks(struct order *order, uint64_t block, uint64_t count, const char **ret_why)
{
	for (uint64_t i = block; i < block + count;) {
		if (i % 8 == 0 && block + count - i >= 8) {
			if (order->named[i / 8])
				return wrong(ret_why, "a block comes a second time");
			order->named[i / 8] = 0xff;
			i += 8;
			continue;
		}
		if (order->named[i / 8] & (1U << (i % 8)))
			return wrong(ret_why, "a block comes a second time");
		order->named[i / 8] |= (uint8_t)(1U << (i % 8));
		i++;
	}
	order->named_count += count;
	return 0;
}

static int take_blocks(struct order *order, const struct stream_record *record, uint64_t count, const char **ret_why)
{
	int err = 0;

	if (order->part == NO_PART)
		return wrong(ret_why, "a block before the first part");
	if (record->block >= order->count || count > order->count - record->block)
		return wrong(ret_why, "a block beyond the end of the file");
	if (order->part == STREAM_PART_RESIDENT && record->generation > order->generation) {
		order->generation = record->generation;
		order->next = 0;
	} else if (order->part == STREAM_PART_RESIDENT && record->generation < order->generation) {
		return wrong(ret_why, "generations are out of order");
	}
	if (record->block < order->next)
		return wrong(ret_why, "blocks are out of order");
	if (order->part <= STREAM_PART_RESIDENT)
		err = name_blocks(order, record->block, count, ret_why);
	order->next = record->block + count;
	return err;
}

static int take_holes(struct order *order, const struct stream_record *record, const char **ret_why)
{
	int err;

	if (!record->value)
		return wrong(ret_why, "a range of no blocks");
	err = take_blocks(order, record, record->value, ret_why);
	if (!err)
		order->totals.hole_blocks += record->value;
	return err;
}

static int take_block(struct order *order, const struct stream_record *record, const char **ret_why)
{
	int err;

	if (record->length_bytes <= STREAM_VALUE_HEADER_BYTES)
		return wrong(ret_why, "too short for a value");
	if (record->tier > STREAM_TIER_MAX)
		return wrong(ret_why, "no such tier");
	err = take_blocks(order, record, 1, ret_why);
	if (!err) {
		order->totals.blocks++;
		order->totals.payload_bytes += record->length_bytes;
	}
	return err;
}

static int take_away(struct order *order, const struct stream_record *record, const char **ret_why)
{
	uint64_t count = record->length_bytes / STREAM_AWAY_BYTES;
	int err;

	if (!(order->header.features & STREAM_FEATURE_POSTCOPY))
		return wrong(ret_why, "the header does not say that blocks come later");
	if (order->part != STREAM_PART_COLD)
		return wrong(ret_why, "only cold blocks come later");
	if (!count || record->length_bytes % STREAM_AWAY_BYTES || count > STREAM_HASHES_MAX)
		return wrong(ret_why, "not a number of blocks");
	for (uint64_t i = 0; i < count; i++) {
		struct stream_away away = stream_get_away(record->payload, i);

		if (!ident_known(away.ident) || stream_is_hole(away.ident) || away.tier > STREAM_TIER_MAX)
			return wrong(ret_why, "no such content, or no such tier");
	}
	err = take_blocks(order, record, count, ret_why);
	if (!err) {
		order->totals.blocks += count;
		order->totals.payload_bytes += record->length_bytes;
	}
	return err;
}

/* Of a block after the end, that is asked for or answered: in any order, and any number of times. */
static int take_single(struct order *order, const struct stream_record *record, const char **ret_why)
{
	if (record->block >= order->count)
		return wrong(ret_why, "a block beyond the end of the file");
	if (record->type == STREAM_BLOCK && record->length_bytes <= STREAM_VALUE_HEADER_BYTES)
		return wrong(ret_why, "too short for a value");
	if (record->tier > STREAM_TIER_MAX)
		return wrong(ret_why, "no such tier");
	if (record->type == STREAM_WANT && record->value > 1)
		return wrong(ret_why, "no such wish");
	if (record->type == STREAM_GONE && (!record->value || record->value > 4095))
		return wrong(ret_why, "no such error");
	order->totals.blocks++;
	order->totals.payload_bytes += record->length_bytes;
	return 0;
}

static bool parts_are_whole(const struct order *order, const char **ret_why)
{
	uint32_t features = order->header.features;

	*ret_why = "a part is missing";
	if (order->part == NO_PART || (order->part == STREAM_PART_COLD && !(features & STREAM_FEATURE_COLD_ONLY)))
		return false;
	*ret_why = "not every block was named";
	return features & (STREAM_FEATURE_DELTA | STREAM_FEATURE_COLD_ONLY) || order->named_count == order->count;
}

static int take_end(struct order *order, const struct stream_record *record, const char **ret_why)
{
	const struct stream_totals *want = &order->totals, *got = &record->totals;

	if (order->kind == STREAM_LIST) {
		if (order->next != order->count)
			return wrong(ret_why, "the list ends before the file does");
	} else if (order->kind == STREAM_BLOCKS && !parts_are_whole(order, ret_why)) {
		return -EBADMSG;
	}
	if (got->records != want->records || got->blocks != want->blocks || got->hole_blocks != want->hole_blocks ||
	    got->payload_bytes != want->payload_bytes)
		return wrong(ret_why, "its totals are not those of what came before");
	order->ended = true;
	return 0;
}

static int take_hashes(struct order *order, const struct stream_record *record, const char **ret_why)
{
	uint64_t count = record->length_bytes / IDENT_BYTES;

	if (!count || record->length_bytes % IDENT_BYTES || count > STREAM_HASHES_MAX)
		return wrong(ret_why, "not a number of identities");
	if (record->block != order->next)
		return wrong(ret_why, "identities are out of order");
	if (count > order->count - order->next)
		return wrong(ret_why, "a block beyond the end of the file");
	order->next += count;
	order->totals.blocks += count;
	order->totals.payload_bytes += record->length_bytes;
	return 0;
}

/* Fields that a type does not use are 0, so that there is one way to write a record. */
static bool fields_fit(const struct stream_record *record)
{
	bool generation = false, tier = false, block = false, value = false;

	switch (record->type) {
	case STREAM_BLOCK:
		generation = tier = block = true;
		break;
	case STREAM_HOLES:
		generation = block = value = true;
		break;
	case STREAM_HASHES:
	case STREAM_AWAY:
		block = true;
		break;
	case STREAM_WANT:
	case STREAM_GONE:
		block = value = true;
		break;
	case STREAM_PART:
	case STREAM_RESULT:
		value = true;
		break;
	case STREAM_HEADER:
	case STREAM_END:
	case STREAM_ABORT:
		break;
	}
	return (generation || !record->generation) && (tier || !record->tier) && (block || !record->block) &&
	       (value || !record->value);
}

static const char *const strangers[] = {
	[STREAM_BLOCKS] = "not a record of a stream of blocks",
	[STREAM_LIST] = "not a record of a list",
	[STREAM_WANTS] = "not a record of wants",
	[STREAM_REST] = "not a record of the rest",
};

static bool belongs(enum stream_kind kind, enum stream_type type)
{
	switch (type) {
	case STREAM_HEADER:
	case STREAM_END:
	case STREAM_ABORT:
		return true;
	case STREAM_PART:
	case STREAM_HOLES:
	case STREAM_AWAY:
		return kind == STREAM_BLOCKS;
	case STREAM_BLOCK:
		return kind == STREAM_BLOCKS || kind == STREAM_REST;
	case STREAM_HASHES:
	case STREAM_RESULT:
		return kind == STREAM_LIST;
	case STREAM_WANT:
		return kind == STREAM_WANTS;
	case STREAM_GONE:
		return kind == STREAM_REST;
	}
	return false;
}

static int take(struct order *order, const struct stream_record *record, const struct stream_header *header,
		const char **ret_why)
{
	if (record->type == STREAM_HEADER && !order->begun)
		return take_header(order, header, ret_why);
	if (!order->begun)
		return wrong(ret_why, "the first record is not a header");
	if (order->ended && !(record->type == STREAM_RESULT && order->kind == STREAM_LIST))
		return wrong(ret_why, "a record after the end");
	if (!belongs(order->kind, record->type))
		return wrong(ret_why, strangers[order->kind]);
	switch (record->type) {
	case STREAM_HEADER:
		return wrong(ret_why, "a second header");
	case STREAM_PART:
		return take_part(order, record, ret_why);
	case STREAM_HOLES:
		return take_holes(order, record, ret_why);
	case STREAM_BLOCK:
		return order->kind == STREAM_BLOCKS ? take_block(order, record, ret_why)
						    : take_single(order, record, ret_why);
	case STREAM_AWAY:
		return take_away(order, record, ret_why);
	case STREAM_WANT:
	case STREAM_GONE:
		return take_single(order, record, ret_why);
	case STREAM_HASHES:
		return take_hashes(order, record, ret_why);
	case STREAM_END:
		return take_end(order, record, ret_why);
	case STREAM_ABORT:
		order->aborted = true;
		return 0;
	case STREAM_RESULT:
		if (!order->ended)
			return wrong(ret_why, "a result before the end of the list");
		order->aborted = true;
		return 0;
	}
	return wrong(ret_why, "no such record");
}

int order_take(struct order *order, const struct stream_record *record, const struct stream_header *header,
	       const char **ret_why)
{
	int err;

	if (order->aborted)
		return wrong(ret_why, "a record after the last one");
	if (!fields_fit(record))
		return wrong(ret_why, "a field that is not used is not 0");
	err = take(order, record, header, ret_why);
	if (!err)
		order->totals.records++;
	return err;
}
