/* move/source.c - see move/source.h. */
#include "move/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <tierfs/tierfs.h>

#include "base/cleanup.h"
#include "cold/codec.h"
#include "cold/mac.h"
#include "stream/stream.h"

_Static_assert(STREAM_KEY_BYTES == MAC_KEY_BYTES, "a list carries its key");

#define BUFFER_BYTES (UINT64_C(8) << 20)
#define NO_BLOCK UINT64_MAX
#define LEVEL 1
/* A block is on its way for a moment only; so many of them in a row are something else. */
#define BUSY_TRIES 1000
#define NICE_POLITE 19
#define NICE_URGENT (-15)
/* Blocks of a request, with and without payload: some milliseconds of work. */
#define VALUES_MOST 256
#define IDENTS_MOST 2048

int source_open(const char *path, bool writing, struct source *ret, const char **ret_what)
{
	struct source source = { .error_block = NO_BLOCK };
	const struct tierfs_access_info *info;
	int err;

	*ret_what = "cannot open";
	source.fd = open(path, (writing ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (source.fd < 0)
		return -errno;
	err = tierfs_access_open(source.fd, BUFFER_BYTES, &source.handle[0]);
	if (err) {
		*ret_what = err == -ENOTTY ? "not in a tierfs mount" : "cannot reach its blocks";
		close(source.fd);
		return err;
	}
	source.handles = 1;
	info = tierfs_access_info(source.handle[0]);
	source.size_bytes = info->size_bytes;
	source.blocks = info->blocks;
	source.block_bytes = info->block_bytes;
	if (posix_memalign((void **)&source.raw, 4096, source.block_bytes) ||
	    posix_memalign((void **)&source.value, 4096, codec_bound(source.block_bytes))) {
		source_close(&source);
		return -ENOMEM;
	}
	*ret = source;
	return 0;
}

void source_close(struct source *source)
{
	if (!source->handles)
		return;
	while (source->handles)
		tierfs_access_close(source->handle[--source->handles]);
	tierfs_access_close(source->identifier);
	close(source->fd);
	codec_free(source->codec);
	free(source->raw);
	free(source->value);
	*source = (struct source){ .fd = -1 };
}

void source_open_handles(struct source *source)
{
	while (source->handles < SOURCE_HANDLES &&
	       !tierfs_access_open(source->fd, BUFFER_BYTES, &source->handle[source->handles]))
		source->handles++;
}

void source_set_pace(struct source *source, uint32_t pace)
{
	source->pace = pace;
	if (geteuid() == 0)
		setpriority(PRIO_PROCESS, 0,
			    pace == TIERFS_ACCESS_URGENT   ? NICE_URGENT
			    : pace == TIERFS_ACCESS_POLITE ? NICE_POLITE
							   : 0);
}

const char *source_text(int err)
{
	return err == -ENOTCONN ? "the daemon is gone" : strerror(-err);
}

char *source_why(const struct source *source, int err, char buf[static SOURCE_WHY_LEN])
{
	if (source->error_block == NO_BLOCK)
		snprintf(buf, SOURCE_WHY_LEN, "%s", source_text(err));
	else
		snprintf(buf, SOURCE_WHY_LEN, "block %llu: %s", (unsigned long long)source->error_block,
			 source_text(err));
	return buf;
}

int source_table_init(struct source_table *table, uint64_t count)
{
	*table = (struct source_table){
		.count = count,
		.ident = calloc(count + 1, sizeof(*table->ident)),
		.state = calloc(count + 1, 1),
		.generation = calloc(count + 1, 1),
		.tier = calloc(count + 1, 1),
	};
	if (table->ident && table->state && table->generation && table->tier)
		return 0;
	source_table_fini(table);
	return -ENOMEM;
}

void source_table_fini(struct source_table *table)
{
	free(table->ident);
	free(table->state);
	free(table->generation);
	free(table->tier);
	*table = (struct source_table){};
}

static int need_codec(struct source *source)
{
	return source->codec ? 0 : codec_new(source->block_bytes, LEVEL, &source->codec);
}

int source_decode(struct source *source, uint64_t block, const void *payload, uint32_t length_bytes)
{
	struct store_key key = { .ino = 0, .block = block };
	int err = need_codec(source);

	return err ? err : codec_decode(source->codec, key, payload, length_bytes, source->raw, NULL);
}

/* --- looking ---------------------------------------------------------------------------------------------------- */

static void look_one(struct source_table *table, const struct tierfs_access_record *record)
{
	uint64_t end = record->block + record->count;

	for (uint64_t block = record->block; block < end && block < table->count; block++) {
		bool cached = record->flags & TIERFS_BLOCK_CACHED;

		table->state[block] = cached ? TIERFS_STATE_RESIDENT : record->state;
		table->generation[block] = record->generation;
		table->tier[block] = record->tier;
		table->ident[block] = STREAM_UNKNOWN;
		if (table->state[block] == TIERFS_STATE_HOLE)
			table->ident[block] = STREAM_HOLE;
		else if (table->state[block] == TIERFS_STATE_COLD)
			table->ident[block] = record->ident;
	}
}

int source_look(struct source *source, struct source_table *table)
{
	struct tierfs_access_answer answer = {};
	uint64_t block = 0;

	while (block < source->blocks) {
		int err = tierfs_access_read(source->handle[0], block, source->blocks - block, TIERFS_ACCESS_NO_PAYLOAD,
					     &answer);

		if (err)
			return err;
		for (size_t i = 0; i < answer.count; i++)
			look_one(table, &answer.record[i]);
		if (answer.next_block <= block)
			return -EPROTO;
		block = answer.next_block;
	}
	return 0;
}

/* --- content ---------------------------------------------------------------------------------------------------- */

/* Through the file: of a block of which the kernel has pages. */
static int read_through_file(struct source *source, uint64_t block)
{
	uint64_t offset = block * source->block_bytes;
	uint64_t left = source->size_bytes - offset;
	size_t length = left < source->block_bytes ? (size_t)left : source->block_bytes, done = 0;

	memset(source->raw + length, 0, source->block_bytes - length);
	while (done < length) {
		ssize_t got = pread(source->fd, source->raw + done, length - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -ENODATA;
		done += (size_t)got;
	}
	return 0;
}

/* What is asked of the daemon: in pieces, several of which are under way; answers come in order. */
struct asking {
	struct source *source;
	const uint64_t *block;
	const struct tierfs_ident *known; /* may be NULL */
	size_t count, next;               /* next: of the first that was not asked for */
	size_t most;                      /* blocks of a piece */
	uint32_t flags;
	bool lenient; /* of what cannot be read fn is told, too */
	int (*fn)(void *arg, const struct tierfs_access *access, const struct tierfs_access_record *record);
	void *arg;
	struct piece {
		size_t at, left; /* left: 0: nothing is under way */
		unsigned int busy;
	} piece[SOURCE_HANDLES];
};

static int begin_piece(struct asking *asking, unsigned int number)
{
	struct tierfs_access *access = asking->source->handle[number];
	struct piece *piece = &asking->piece[number];
	int err = 0;

	if (!piece->left) {
		*piece = (struct piece){ .at = asking->next, .left = asking->count - asking->next };
		if (piece->left > asking->most)
			piece->left = asking->most;
		asking->next += piece->left;
	}
	for (size_t i = 0; i < piece->left && !err; i++) {
		uint64_t block = asking->block[piece->at + i];
		struct tierfs_access_record record = { .block = block, .count = 1 };

		if (asking->known)
			record.ident = asking->known[block];
		err = tierfs_access_add(access, &record, NULL);
	}
	if (!err && piece->left)
		err = tierfs_access_begin_read_list(access, asking->flags | asking->source->pace);
	if (err)
		piece->left = 0;
	return err;
}

/* Takes what has come of a piece; what was busy, or for which there was no room, and what follows it stays left. */
static int take_piece(struct asking *asking, unsigned int number)
{
	struct source *source = asking->source;
	struct piece *piece = &asking->piece[number];
	struct tierfs_access_answer answer = {};
	int err = tierfs_access_end(source->handle[number], &answer);
	size_t i;

	for (i = 0; i < answer.count && !err; i++) {
		const struct tierfs_access_record *record = &answer.record[i];

		if (record->result == TIERFS_ACCESS_BUSY ||
		    (record->result == TIERFS_ACCESS_ERROR && record->error == ENOBUFS))
			break;
		source->error_block = record->block;
		err = record->result == TIERFS_ACCESS_ERROR && !asking->lenient
			      ? -(int)record->error
			      : asking->fn(asking->arg, source->handle[number], record);
		if (!err)
			source->error_block = NO_BLOCK;
	}
	piece->busy = i ? 0 : piece->busy + 1;
	if (!err && piece->busy > BUSY_TRIES)
		err = -EBUSY;
	if (!i && !err)
		usleep(1000);
	piece->at += i;
	piece->left = err ? 0 : piece->left - i;
	return err;
}

static int ask(struct asking *asking)
{
	struct source *source = asking->source;
	unsigned int turn = 0;
	int err = 0;

	if (asking->count > asking->most)
		source_open_handles(source);
	for (unsigned int i = 0; i < source->handles && !err; i++)
		err = begin_piece(asking, i);
	while (!err && asking->piece[turn].left) {
		err = take_piece(asking, turn);
		if (!err) {
			bool through = !asking->piece[turn].left;

			err = begin_piece(asking, turn);
			if (through)
				turn = (turn + 1) % source->handles;
		}
	}
	/* What is under way belongs to the daemon until its answer is there. */
	for (unsigned int i = 0; i < source->handles; i++) {
		struct tierfs_access_answer unused;

		if (asking->piece[i].left)
			tierfs_access_end(source->handle[i], &unused);
	}
	return err;
}

/* The identity of source->raw, which was read through the file. The handles of the requests under way have their
 * answers in their buffers, so there is one more. */
static int identify_raw(struct source *source, uint64_t block, struct tierfs_ident *ret)
{
	struct tierfs_access_record record = { .block = block,
					       .form = TIERFS_FORM_PLAIN,
					       .payload_bytes = source->block_bytes };
	struct tierfs_access_answer answer = {};
	int err = source->identifier ? 0 : tierfs_access_open(source->fd, 0, &source->identifier);

	if (!err)
		err = tierfs_access_add(source->identifier, &record, source->raw);
	if (!err)
		err = tierfs_access_identify(source->identifier, &answer);
	if (!err && answer.record[0].result == TIERFS_ACCESS_ERROR)
		err = -(int)answer.record[0].error;
	if (!err)
		*ret = answer.record[0].ident;
	return err;
}

struct identifying {
	struct source *source;
	struct source_table *table;
	struct mac *mac; /* of a list */
	struct tierfs_ident *list;
};

static int identify_one(void *arg, const struct tierfs_access *access, const struct tierfs_access_record *record)
{
	struct identifying *identifying = arg;
	struct source *source = identifying->source;
	struct tierfs_ident *ident = &identifying->table->ident[record->block];
	int err = 0;

	(void)access;
	*ident = STREAM_HOLE;
	if (record->flags & TIERFS_BLOCK_CACHED) {
		err = read_through_file(source, record->block);
		if (!err && !codec_is_zero(source->raw, source->block_bytes))
			err = identify_raw(source, record->block, ident);
	} else if (record->result != TIERFS_ACCESS_HOLE && !(record->flags & TIERFS_BLOCK_ZERO)) {
		*ident = record->ident;
	}
	return err;
}

int source_identify(struct source *source, struct source_table *table, const uint64_t *block, size_t count)
{
	struct identifying identifying = { .source = source, .table = table };
	struct asking asking = {
		.source = source,
		.block = block,
		.count = count,
		.most = IDENTS_MOST,
		.flags = TIERFS_ACCESS_NO_PAYLOAD | TIERFS_ACCESS_HASH | TIERFS_ACCESS_WAIT,
		.fn = identify_one,
		.arg = &identifying,
	};

	return ask(&asking);
}

/* --- a list ------------------------------------------------------------------------------------------------------ */

static int list_one(void *arg, const struct tierfs_access *access, const struct tierfs_access_record *record)
{
	struct identifying *listing = arg;
	struct source *source = listing->source;
	struct tierfs_ident *list = &listing->list[record->block], *ident = &listing->table->ident[record->block];
	const void *payload = tierfs_access_payload(access, record);
	bool cached = record->flags & TIERFS_BLOCK_CACHED;
	int err = 0;

	*list = *ident = STREAM_UNKNOWN;
	if (cached) {
		err = read_through_file(source, record->block);
	} else if (record->result == TIERFS_ACCESS_ERROR) {
		return 0; /* away, or damaged */
	} else if (payload) {
		memcpy(source->raw, payload, record->payload_bytes);
		memset(source->raw + record->payload_bytes, 0, source->block_bytes - record->payload_bytes);
	}
	if (err)
		return err;
	if (record->result == TIERFS_ACCESS_HOLE ||
	    ((cached || payload) && codec_is_zero(source->raw, source->block_bytes))) {
		*list = *ident = STREAM_HOLE;
		return 0;
	}
	if (!cached && !payload)
		return 0;
	*list = mac_of(listing->mac, source->raw, source->block_bytes);
	if (cached)
		return identify_raw(source, record->block, ident);
	*ident = record->ident;
	return 0;
}

static int list_blocks(struct source *source, struct identifying *listing, const uint64_t *block, size_t count)
{
	const struct tierfs_access_info *info = tierfs_access_info(source->handle[0]);
	struct asking asking = {
		.source = source,
		.block = block,
		.count = count,
		.most = info->buffer_bytes / (info->stored_max + 64),
		.flags = TIERFS_ACCESS_ALSO_RESIDENT | TIERFS_ACCESS_HASH | TIERFS_ACCESS_WAIT,
		.lenient = true,
		.fn = list_one,
		.arg = listing,
	};

	if (asking.most > VALUES_MOST)
		asking.most = VALUES_MOST;
	return ask(&asking);
}

int source_list(struct source *source, struct mac *mac, const struct tierfs_ident *asked, struct source_table *table,
		struct tierfs_ident *list)
{
	struct identifying listing = { .source = source, .table = table, .mac = mac, .list = list };
	uint64_t *block, count = 0;
	int err = source_look(source, table);

	if (err)
		return err;
	block = malloc((table->count + 1) * sizeof(*block));
	if (!block)
		return -ENOMEM;
	for (uint64_t i = 0; i < table->count; i++) {
		bool hole = table->state[i] == TIERFS_STATE_HOLE;

		list[i] = hole ? STREAM_HOLE : STREAM_UNKNOWN;
		if (!hole && (!asked || ident_known(asked[i])))
			block[count++] = i;
	}
	err = list_blocks(source, &listing, block, count);
	free(block);
	return err;
}

int source_list_ident(const uint8_t key[static STREAM_KEY_BYTES], const struct tierfs_ident *list, uint64_t count,
		      struct tierfs_ident *ret)
{
	CLEANUP_FREE uint8_t *bytes = malloc((count + 1) * IDENT_BYTES);
	struct mac *mac;
	int err = bytes ? mac_new(MAC_LIST, key, &mac) : -ENOMEM;

	if (err)
		return err;
	stream_put_idents(list, count, bytes);
	*ret = mac_of(mac, bytes, count * IDENT_BYTES);
	mac_free(mac);
	return ident_known(*ret) ? 0 : -ENOMEM;
}

/* --- values ----------------------------------------------------------------------------------------------------- */

struct valuing {
	struct source *source;
	const struct source_wish *wish;
	source_value_fn *fn;
	void *arg;
};

/* A block that the kernel caches is encoded here. */
static int encode_cached(struct source *source, struct source_value *value)
{
	struct store_key key = { .ino = 0, .block = value->block };
	struct codec_hotness hotness = { .generation = value->generation, .tier = value->tier };
	size_t length;
	int err = read_through_file(source, value->block);

	if (!err)
		err = need_codec(source);
	if (err)
		return err;
	if (codec_is_zero(source->raw, source->block_bytes)) {
		value->hole = true;
		return 0;
	}
	err = identify_raw(source, value->block, &value->ident);
	if (!err)
		err = codec_encode(source->codec, key, hotness, source->raw, value->ident, source->value,
				   codec_bound(source->block_bytes), &length);
	if (err)
		return err;
	value->payload = source->value;
	value->length_bytes = (uint32_t)length;
	return err;
}

static bool is_known(const struct valuing *valuing, uint64_t block, struct tierfs_ident ident)
{
	return valuing->wish->known && ident_same(valuing->wish->known[block], ident);
}

static int value_one(void *arg, const struct tierfs_access *access, const struct tierfs_access_record *record)
{
	struct valuing *valuing = arg;
	struct source *source = valuing->source;
	struct source_value value = {
		.block = record->block,
		.hole = record->result == TIERFS_ACCESS_HOLE || (record->flags & TIERFS_BLOCK_ZERO),
		.resident = record->result == TIERFS_ACCESS_RESIDENT,
		.generation = record->generation,
		.tier = record->tier,
		.ident = STREAM_HOLE,
		.payload = tierfs_access_payload(access, record),
		.length_bytes = record->payload_bytes,
	};
	struct codec_info info;
	int err;

	if (!value.hole && !value.payload && is_known(valuing, record->block, record->ident)) {
		value.same = true;
		value.ident = record->ident;
	} else if (value.resident && !value.hole && !value.payload && valuing->wish->resident) {
		err = encode_cached(source, &value);
		if (err)
			return err;
	}
	if (value.payload) {
		err = codec_peek(value.payload, value.length_bytes, &info);
		if (err)
			return err;
		value.ident = info.ident;
		value.same = is_known(valuing, record->block, value.ident);
	}
	return valuing->fn(valuing->arg, &value);
}

int source_values(struct source *source, const struct source_wish *wish, const uint64_t *block, size_t count,
		  source_value_fn *fn, void *arg)
{
	const struct tierfs_access_info *info = tierfs_access_info(source->handle[0]);
	struct valuing valuing = { .source = source, .wish = wish, .fn = fn, .arg = arg };
	struct asking asking = {
		.source = source,
		.block = block,
		.known = wish->known,
		.count = count,
		.most = info->buffer_bytes / (info->stored_max + 64),
		.flags = TIERFS_ACCESS_STORED | TIERFS_ACCESS_WAIT |
			 (wish->resident ? TIERFS_ACCESS_ALSO_RESIDENT : 0) | (wish->quick ? TIERFS_ACCESS_QUICK : 0) |
			 (wish->known ? TIERFS_ACCESS_CHANGED : 0),
		.fn = value_one,
		.arg = &valuing,
	};

	if (asking.most > VALUES_MOST)
		asking.most = VALUES_MOST;
	return ask(&asking);
}
