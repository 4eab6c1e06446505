/* source.c - see source.h. */
#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <tierfs/tierfs.h>

#include "cold/codec.h"
#include "stream/stream.h"

#define BUFFER_BYTES (UINT64_C(32) << 20)
#define NO_BLOCK UINT64_MAX
#define LEVEL 1
/* A block is on its way for a moment only; so many of them in a row are something else. */
#define BUSY_TRIES 1000
/* Fewer blocks are not worth a thread. */
#define HELP_BLOCKS 2048
#define HELP_BUFFER_BYTES (UINT64_C(4) << 20)

int source_open(const char *path, bool writing, struct source *ret, const char **ret_what)
{
	struct source source = { .error_block = NO_BLOCK };
	const struct tierfs_access_info *info;
	int err;

	*ret_what = "cannot open";
	source.fd = open(path, (writing ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (source.fd < 0)
		return -errno;
	err = tierfs_access_open(source.fd, BUFFER_BYTES, &source.access);
	if (err) {
		*ret_what = err == -ENOTTY ? "not in a tierfs mount" : "cannot reach its blocks";
		close(source.fd);
		return err;
	}
	info = tierfs_access_info(source.access);
	source.size_bytes = info->size_bytes;
	source.blocks = info->blocks;
	source.block_bytes = info->block_bytes;
	if (posix_memalign((void **)&source.plain, 4096, source.block_bytes) ||
	    posix_memalign((void **)&source.value, 4096, codec_bound(source.block_bytes))) {
		source_close(&source);
		return -ENOMEM;
	}
	*ret = source;
	return 0;
}

void source_close(struct source *source)
{
	if (!source->access)
		return;
	tierfs_access_close(source->access);
	for (int i = 0; i < SOURCE_HELPERS_MAX; i++)
		tierfs_access_close(source->helper[i]);
	close(source->fd);
	codec_free(source->codec);
	free(source->plain);
	free(source->value);
	*source = (struct source){ .fd = -1 };
}

char *source_why(const struct source *source, int err, char buf[static SOURCE_WHY_LEN])
{
	if (source->error_block == NO_BLOCK)
		snprintf(buf, SOURCE_WHY_LEN, "%s", strerror(-err));
	else
		snprintf(buf, SOURCE_WHY_LEN, "block %llu: %s", (unsigned long long)source->error_block,
			 strerror(-err));
	return buf;
}

int source_table_init(struct source_table *table, uint64_t count)
{
	*table = (struct source_table){
		.count = count,
		.hash = calloc(count + 1, sizeof(*table->hash)),
		.state = calloc(count + 1, 1),
		.generation = calloc(count + 1, 1),
		.tier = calloc(count + 1, 1),
	};
	if (table->hash && table->state && table->generation && table->tier)
		return 0;
	source_table_fini(table);
	return -ENOMEM;
}

void source_table_fini(struct source_table *table)
{
	free(table->hash);
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

	return err ? err : codec_decode(source->codec, key, payload, length_bytes, source->plain, NULL);
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
		table->hash[block] = STREAM_HASH_UNKNOWN;
		if (table->state[block] == TIERFS_STATE_HOLE)
			table->hash[block] = STREAM_HASH_HOLE;
		else if (table->state[block] == TIERFS_STATE_COLD && record->content_hash)
			table->hash[block] = stream_hash(record->content_hash);
	}
}

int source_look(struct source *source, struct source_table *table)
{
	struct tierfs_access_answer answer = {};
	uint64_t block = 0;

	while (block < source->blocks) {
		int err = tierfs_access_read(source->access, block, source->blocks - block, TIERFS_ACCESS_NO_PAYLOAD,
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

	memset(source->plain + length, 0, source->block_bytes - length);
	while (done < length) {
		ssize_t got = pread(source->fd, source->plain + done, length - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -ENODATA;
		done += (size_t)got;
	}
	return 0;
}

typedef int answer_fn(void *arg, const struct tierfs_access_record *record);

/* Asks for the blocks, in pieces for which the buffer has room. */
static int ask(struct source *source, const uint64_t *block, size_t count, uint32_t flags, answer_fn *fn, void *arg)
{
	const struct tierfs_access_info *info = tierfs_access_info(source->access);
	size_t most = TIERFS_ACCESS_RECORDS_MAX, done = 0;
	unsigned int busy = 0;

	if (!(flags & TIERFS_ACCESS_NO_PAYLOAD))
		most = info->buffer_bytes / (info->stored_max + 64);
	while (done < count) {
		struct tierfs_access_answer answer = {};
		size_t piece = count - done < most ? count - done : most, i;
		int err = 0;

		tierfs_access_drop(source->access);
		for (i = 0; i < piece && !err; i++) {
			struct tierfs_access_record record = { .block = block[done + i], .count = 1 };

			err = tierfs_access_add(source->access, &record, NULL);
		}
		if (err == -ENOBUFS && i > 1)
			err = 0;
		if (!err)
			err = tierfs_access_read_list(source->access, flags, &answer);
		if (err)
			return err;
		for (i = 0; i < answer.count; i++) {
			const struct tierfs_access_record *record = &answer.record[i];

			/* Busy or without room: this one and what follows are asked for again. */
			if (record->result == TIERFS_ACCESS_BUSY ||
			    (record->result == TIERFS_ACCESS_ERROR && record->error == ENOBUFS))
				break;
			source->error_block = record->block;
			if (record->result == TIERFS_ACCESS_ERROR)
				return -(int)record->error;
			err = fn(arg, record);
			if (err)
				return err;
			source->error_block = NO_BLOCK;
		}
		busy = i ? 0 : busy + 1;
		if (busy > BUSY_TRIES)
			return -EBUSY;
		if (!i)
			usleep(1000);
		done += i;
	}
	return 0;
}

struct hashing {
	struct source *source;
	struct source_table *table;
};

static int hash_one(void *arg, const struct tierfs_access_record *record)
{
	struct hashing *hashing = arg;
	struct source *source = hashing->source;
	uint64_t *hash = &hashing->table->hash[record->block];
	int err = 0;

	*hash = STREAM_HASH_HOLE;
	if (record->flags & TIERFS_BLOCK_CACHED) {
		err = read_through_file(source, record->block);
		if (!err && !codec_is_zero(source->plain, source->block_bytes))
			*hash = stream_hash(codec_hash(source->plain, source->block_bytes));
	} else if (record->result != TIERFS_ACCESS_HOLE && !(record->flags & TIERFS_BLOCK_ZERO)) {
		*hash = record->content_hash ? stream_hash(record->content_hash) : STREAM_HASH_UNKNOWN;
	}
	return err;
}

/* A part of the blocks, on a thread of its own. */
struct help {
	struct source source; /* with the handle of this thread */
	struct source_table *table;
	const uint64_t *block;
	size_t count;
	pthread_t thread;
	int err;
};

static int hash_part(struct source *source, struct source_table *table, const uint64_t *block, size_t count)
{
	struct hashing hashing = { .source = source, .table = table };

	return ask(source, block, count, TIERFS_ACCESS_NO_PAYLOAD | TIERFS_ACCESS_HASH | TIERFS_ACCESS_WAIT, hash_one,
		   &hashing);
}

static void *help_main(void *arg)
{
	struct help *help = arg;

	help->err = hash_part(&help->source, help->table, help->block, help->count);
	return NULL;
}

/* False: it cannot be had; the caller does all of it alone. */
static bool start_help(struct source *source, int index, struct help *help)
{
	struct tierfs_access **access = &source->helper[index];
	void *plain;

	if (!*access && tierfs_access_open(source->fd, HELP_BUFFER_BYTES, access))
		return false;
	help->source = *source;
	help->source.access = *access;
	if (posix_memalign(&plain, 4096, source->block_bytes))
		return false;
	help->source.plain = plain;
	if (pthread_create(&help->thread, NULL, help_main, help) == 0)
		return true;
	free(plain);
	return false;
}

/* The machine stands still while the last of these is made, so all processors help. */
int source_hash(struct source *source, struct source_table *table, const uint64_t *block, size_t count)
{
	struct help help[SOURCE_HELPERS_MAX] = {};
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	size_t parts = count / HELP_BLOCKS + 1, helpers = 0, each;
	int err;

	if (parts > SOURCE_HELPERS_MAX + 1)
		parts = SOURCE_HELPERS_MAX + 1;
	if (processors > 0 && parts > (size_t)processors)
		parts = (size_t)processors;
	each = count / parts;
	while (helpers + 1 < parts) {
		struct help *next = &help[helpers];

		next->table = table;
		next->block = block + count - each;
		next->count = each;
		if (!start_help(source, (int)helpers, next))
			break;
		count -= each;
		helpers++;
	}
	err = hash_part(source, table, block, count);
	for (size_t i = 0; i < helpers; i++) {
		pthread_join(help[i].thread, NULL);
		free(help[i].source.plain);
		if (help[i].err && !err) {
			err = help[i].err;
			source->error_block = help[i].source.error_block;
		}
	}
	return err;
}

int source_hash_all(struct source *source, struct source_table *table)
{
	uint64_t *block, count = 0;
	int err = source_look(source, table);

	if (err)
		return err;
	block = malloc((table->count + 1) * sizeof(*block));
	if (!block)
		return -ENOMEM;
	for (uint64_t i = 0; i < table->count; i++)
		if (table->hash[i] == STREAM_HASH_UNKNOWN)
			block[count++] = i;
	err = source_hash(source, table, block, count);
	free(block);
	return err;
}

/* --- values ----------------------------------------------------------------------------------------------------- */

struct valuing {
	struct source *source;
	bool resident;
	source_value_fn *fn;
	void *arg;
};

/* A block that the kernel caches is encoded here. */
static int encode_cached(struct source *source, struct source_value *value)
{
	struct store_key key = { .ino = 0, .block = value->block };
	struct codec_hotness hotness = { .generation = value->generation, .tier = value->tier };
	uint64_t hash;
	size_t length;
	int err = read_through_file(source, value->block);

	if (!err)
		err = need_codec(source);
	if (err)
		return err;
	if (codec_is_zero(source->plain, source->block_bytes)) {
		value->hole = true;
		return 0;
	}
	hash = codec_hash(source->plain, source->block_bytes);
	err = codec_encode(source->codec, key, hotness, source->plain, hash, source->value,
			   codec_bound(source->block_bytes), &length);
	value->payload = source->value;
	value->length_bytes = (uint32_t)length;
	return err;
}

static int value_one(void *arg, const struct tierfs_access_record *record)
{
	struct valuing *valuing = arg;
	struct source *source = valuing->source;
	struct source_value value = {
		.block = record->block,
		.hole = record->result == TIERFS_ACCESS_HOLE || (record->flags & TIERFS_BLOCK_ZERO),
		.resident = record->result == TIERFS_ACCESS_RESIDENT,
		.generation = record->generation,
		.tier = record->tier,
		.hash = STREAM_HASH_HOLE,
		.payload = tierfs_access_payload(source->access, record),
		.length_bytes = record->payload_bytes,
	};
	struct codec_info info;
	int err;

	if (value.resident && !value.hole && !value.payload && valuing->resident) {
		err = encode_cached(source, &value);
		if (err)
			return err;
	}
	if (value.payload) {
		err = codec_peek(value.payload, value.length_bytes, &info);
		if (err)
			return err;
		value.hash = stream_hash(info.content_hash);
	}
	return valuing->fn(valuing->arg, &value);
}

int source_values(struct source *source, const uint64_t *block, size_t count, bool resident, source_value_fn *fn,
		  void *arg)
{
	struct valuing valuing = { .source = source, .resident = resident, .fn = fn, .arg = arg };
	uint32_t flags = TIERFS_ACCESS_STORED | TIERFS_ACCESS_WAIT | (resident ? TIERFS_ACCESS_ALSO_RESIDENT : 0);

	return ask(source, block, count, flags, value_one, &valuing);
}
