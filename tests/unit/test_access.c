/* Cold access: what each call does to a block in each state, what hostile payloads and packets do (nothing), and the
 * socket that it comes by. The engine is real, the store in memory. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <tierfs/access_protocol.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/access.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/write.h"
#include "front/access.h"
#include "names/names.h"
#include "policy/tiering.h"
#include "pool/token.h"
#include "wire/wire.h"
#include "lib_check.h"
#include "lib/lib_ident.h"

#define BLOCK 16384U
#define BLOCKS 8U
#define FILE_BYTES (BLOCKS * BLOCK - 4096) /* the last block is shorter */
#define BUFFER_BYTES (2U << 20)
#define PAYLOAD_AT 65536U

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ns *ns;
static struct token_table *tokens;
static struct access_server *server;
static uint64_t ino;
static struct ramfile *file;
static uint8_t memory[BUFFER_BYTES] __attribute__((aligned(4096)));
static uint8_t content[BLOCK] __attribute__((aligned(4096)));

static void setup(void)
{
	struct engine_config engine_config = {
		.block_bytes = BLOCK, .dram_bytes = 16 * BLOCK, .min_idle_ns = NS_PER_S, .level = 1
	};
	struct ns_config ns_config = { .root_mode = 0755 };
	struct ns_setattr change = { .set_size = true, .size_bytes = FILE_BYTES };
	struct access_config config;
	struct stat attr;

	scratch_new(&scratch, "access");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	engine_config.store = ns_config.store = store;
	engine_config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&engine_config, &engine), 0);
	ns_config.engine = engine;
	ck_assert_int_eq(ns_load(&ns_config, &ns), 0);
	ck_assert_int_eq(token_table_new(&tokens), 0);
	ck_assert_int_eq(ns_create(ns, NS_ROOT_INO, "vm0", S_IFREG | 0600, 0, 0, &attr), 0);
	ck_assert_int_eq(ns_setattr(ns, attr.st_ino, &change, &attr), 0);
	ino = attr.st_ino;
	ck_assert_int_eq(ns_open(ns, ino, &file), 0);
	config = (struct access_config){ .ns = ns, .tokens = tokens, .run_dir = scratch.path };
	ck_assert_int_eq(access_start(&config, &server), 0);
	for (size_t i = 0; i < BLOCK; i++)
		content[i] = (uint8_t)(i / 64 * 7 + i % 13);
}

static void teardown(void)
{
	access_stop(server);
	ns_put(ns, ino);
	token_table_free(tokens);
	ns_close(ns, NULL, NULL);
	ns_free(ns);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

/* --- the engine's side ------------------------------------------------------------------------------------------- */

static struct access_buffer buffer_of(size_t records)
{
	return (struct access_buffer){ .base = memory,
				       .bytes = BUFFER_BYTES,
				       .record = (struct tierfs_access_record *)memory,
				       .records = records,
				       .payload_at = PAYLOAD_AT,
				       .payload_bytes = BUFFER_BYTES - PAYLOAD_AT };
}

static struct tierfs_access_record *record(size_t i)
{
	return (struct tierfs_access_record *)memory + i;
}

static void write_content(uint64_t block, bool direct)
{
	size_t length = block == BLOCKS - 1 ? BLOCK - 4096 : BLOCK;

	ck_assert_int_eq(ramfile_write(file, content, length, block * BLOCK, direct), 0);
}

/* One request; the payload is copied behind the records. */
static struct tierfs_access_record *write_one(uint64_t block, enum tierfs_access_form form, const void *payload,
					      size_t bytes, uint8_t flags)
{
	struct access_buffer buffer = buffer_of(1);

	*record(0) = (struct tierfs_access_record){ .block = block,
						    .count = 1,
						    .form = (uint8_t)form,
						    .payload_at = PAYLOAD_AT,
						    .payload_bytes = (uint32_t)bytes,
						    .generation = 17,
						    .tier = 2,
						    .flags = flags };
	if (bytes && bytes <= BUFFER_BYTES - PAYLOAD_AT)
		memcpy(memory + PAYLOAD_AT, payload, bytes);
	ck_assert_int_eq(access_write(file, 0, &buffer), 0);
	return record(0);
}

static struct tierfs_access_record *read_one(uint64_t block, uint32_t flags)
{
	struct access_buffer buffer = buffer_of(BLOCKS);
	size_t records = 0;
	uint64_t next = 0;

	ck_assert_int_eq(access_read(file, flags, block, 1, &buffer, &records, &next), 0);
	ck_assert_uint_eq(records, 1);
	ck_assert_uint_eq(next, block + 1);
	return record(0);
}

static enum block_state state_of(uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	return blocks_state(&file->blocks, block);
}

/* The block as stored, for a journey. Returns its length. */
static size_t make_value(uint64_t block, const void *plain, struct tierfs_ident ident, uint8_t *value)
{
	struct codec *codec;
	size_t length;

	ck_assert_int_eq(codec_new(BLOCK, 1, &codec), 0);
	ck_assert_int_eq(codec_encode(codec, (struct store_key){ 0, block }, (struct codec_hotness){ 3, 1 }, plain,
				      ident, value, codec_bound(BLOCK), &length),
			 0);
	codec_free(codec);
	return length;
}

START_TEST(reads_say_where_a_block_is)
{
	const struct tierfs_access_record *r;

	write_content(1, true);
	write_content(2, false);
	r = read_one(0, 0);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_HOLE);
	ck_assert_uint_eq(r->payload_bytes, 0);
	r = read_one(1, 0);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_READ_OK);
	ck_assert_uint_eq(r->copy, TIERFS_COPY_SAME);
	ck_assert_uint_eq(r->payload_bytes, BLOCK);
	ck_assert_mem_eq(memory + r->payload_at, content, BLOCK);
	ck_assert(ident_same(r->ident, ident_of(content, BLOCK)));
	r = read_one(2, 0);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_RESIDENT);
	ck_assert_uint_eq(r->copy, TIERFS_COPY_NONE);
	ck_assert_uint_eq(r->payload_bytes, 0);
	r = read_one(2, TIERFS_ACCESS_ALSO_RESIDENT);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_RESIDENT);
	ck_assert_mem_eq(memory + r->payload_at, content, BLOCK);
	ck_assert_int_eq(state_of(1), BLOCK_COLD);
	ck_assert_uint_eq(atomic_load(&file->counts.promotions), 0);
}
END_TEST

START_TEST(a_block_on_its_way_is_busy)
{
	write_content(1, true);
	lock_get(&file->lock);
	blocks_set_state(&file->blocks, 1, BLOCK_UPDATING);
	lock_put(&file->lock);
	ck_assert_uint_eq(read_one(1, TIERFS_ACCESS_ALSO_RESIDENT)->result, TIERFS_ACCESS_BUSY);
	ck_assert_uint_eq(write_one(1, TIERFS_FORM_PLAIN, memory + PAYLOAD_AT, BLOCK, 0)->result, TIERFS_ACCESS_BUSY);
	file_end_update(file, 1, BLOCK_COLD);
	ck_assert_mem_eq(memory + read_one(1, 0)->payload_at, content, BLOCK);
}
END_TEST

START_TEST(writes_leave_dram_alone)
{
	static uint8_t other[BLOCK];
	const struct tierfs_access_record *r;

	memset(other, 'x', sizeof(other));
	write_content(2, false);
	r = write_one(2, TIERFS_FORM_PLAIN, other, BLOCK, 0);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_RESIDENT);
	r = read_one(2, TIERFS_ACCESS_ALSO_RESIDENT);
	ck_assert_mem_eq(memory + r->payload_at, content, BLOCK);
	r = write_one(3, TIERFS_FORM_PLAIN, other, BLOCK, TIERFS_BLOCK_SET_AGE);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_uint_eq(r->state, TIERFS_STATE_COLD);
	r = read_one(3, 0);
	ck_assert_uint_eq(r->generation, 17);
	ck_assert_uint_eq(r->tier, 2);
	ck_assert_mem_eq(memory + r->payload_at, other, BLOCK);
	r = write_one(3, TIERFS_FORM_NONE, NULL, 0, 0);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_uint_eq(read_one(3, 0)->result, TIERFS_ACCESS_HOLE);
	ck_assert_uint_eq(store_mem_count(store, ino), 0);
}
END_TEST

START_TEST(writes_to_dram_until_the_budget_says_no)
{
	const struct tierfs_access_record *r = write_one(0, TIERFS_FORM_PLAIN, content, BLOCK,
							 TIERFS_BLOCK_TO_DRAM | TIERFS_BLOCK_SET_AGE);

	ck_assert_uint_eq(r->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_uint_eq(r->state, TIERFS_STATE_RESIDENT);
	ck_assert_uint_eq(r->generation, 17);
	ck_assert_uint_eq(store_mem_count(store, ino), 0);
	ck_assert_mem_eq(memory + read_one(0, TIERFS_ACCESS_ALSO_RESIDENT)->payload_at, content, BLOCK);
	ck_assert_int_eq(tiering_set_dram(engine, 1 << 20), 0);
	budget_force(engine_budget(engine), 1 << 20);
	r = write_one(1, TIERFS_FORM_PLAIN, content, BLOCK, TIERFS_BLOCK_TO_DRAM);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_uint_eq(r->state, TIERFS_STATE_COLD);
	budget_release(engine_budget(engine), 1 << 20);
}
END_TEST

START_TEST(as_stored_there_and_back)
{
	static uint8_t value[BLOCK + 64];
	const struct tierfs_access_record *r;
	size_t length;

	write_content(4, true);
	r = read_one(4, TIERFS_ACCESS_STORED);
	ck_assert_uint_eq(r->form, TIERFS_FORM_STORED);
	length = r->payload_bytes;
	ck_assert_uint_lt(length, BLOCK);
	memcpy(value, memory + r->payload_at, length);
	ck_assert_uint_eq(write_one(4, TIERFS_FORM_NONE, NULL, 0, 0)->result, TIERFS_ACCESS_WRITE_OK);
	r = write_one(4, TIERFS_FORM_STORED, value, length, TIERFS_BLOCK_SET_AGE);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_WRITE_OK);
	r = read_one(4, 0);
	ck_assert_mem_eq(memory + r->payload_at, content, BLOCK);
	ck_assert_uint_eq(r->generation, 17);
	/* The number of the block is a part of what is checked. */
	r = write_one(5, TIERFS_FORM_STORED, value, length, 0);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_ERROR);
	ck_assert_uint_eq(r->error, EBADMSG);
	/* Resident blocks are encoded for it; zeros are said, not sent. */
	write_content(6, false);
	r = read_one(6, TIERFS_ACCESS_STORED | TIERFS_ACCESS_ALSO_RESIDENT | TIERFS_ACCESS_COMPARE);
	ck_assert_uint_eq(r->form, TIERFS_FORM_STORED);
	memset(memory + (1 << 20), 0, BLOCK);
	ck_assert_int_eq(ramfile_write(file, memory + (1 << 20), BLOCK, 6 * BLOCK, false), 0);
	r = read_one(6, TIERFS_ACCESS_STORED | TIERFS_ACCESS_ALSO_RESIDENT);
	ck_assert_uint_eq(r->flags, TIERFS_BLOCK_ZERO);
	ck_assert_uint_eq(r->payload_bytes, 0);
}
END_TEST

/* One request of a list; known: what the caller has. */
static struct tierfs_access_record *list_one(uint64_t block, uint32_t flags, struct tierfs_ident known)
{
	struct access_buffer buffer = buffer_of(1);

	*record(0) = (struct tierfs_access_record){ .block = block, .count = 1, .ident = known };
	ck_assert_int_eq(access_read_list(file, flags, &buffer), 0);
	return record(0);
}

START_TEST(what_is_known_has_no_payload)
{
	const uint32_t flags = TIERFS_ACCESS_STORED | TIERFS_ACCESS_ALSO_RESIDENT | TIERFS_ACCESS_CHANGED;
	struct tierfs_ident ident = ident_of(content, BLOCK), other = ident;
	const struct tierfs_access_record *r;

	write_content(1, true);
	write_content(2, false);
	other.word[1] ^= UINT64_C(1) << 63;
	for (uint64_t block = 1; block <= 2; block++) {
		r = list_one(block, flags, ident);
		ck_assert_uint_eq(r->payload_bytes, 0);
		ck_assert(ident_same(r->ident, ident));
		ck_assert_uint_ne(list_one(block, flags, other)->payload_bytes, 0);
		ck_assert_uint_ne(list_one(block, flags, IDENT_NONE)->payload_bytes, 0);
		ck_assert_uint_ne(list_one(block, flags & ~TIERFS_ACCESS_CHANGED, ident)->payload_bytes, 0);
	}
	/* Written through the mapping: the content counts. */
	ck_assert_int_eq(ramfile_write(file, "x", 1, 2 * BLOCK, false), 0);
	ck_assert_uint_ne(list_one(2, flags, ident)->payload_bytes, 0);
}
END_TEST

START_TEST(resident_blocks_in_a_row_are_read_at_once)
{
	static uint8_t other[BLOCK];
	struct access_buffer buffer = buffer_of(BLOCKS);

	for (uint64_t block = 1; block < BLOCKS; block++) {
		memset(other, (int)block, sizeof(other));
		other[0] = 'x';
		ck_assert_int_eq(ramfile_write(file, other, block == BLOCKS - 1 ? BLOCK - 4096 : BLOCK, block * BLOCK,
					       block == 4),
				 0);
	}
	for (uint64_t block = 0; block < BLOCKS; block++)
		*record(block) = (struct tierfs_access_record){ .block = block, .count = 1 };
	ck_assert_int_eq(access_read_list(file, TIERFS_ACCESS_ALSO_RESIDENT | TIERFS_ACCESS_HASH, &buffer), 0);
	ck_assert_uint_eq(record(0)->result, TIERFS_ACCESS_HOLE);
	for (uint64_t block = 1; block < BLOCKS; block++) {
		size_t length = block == BLOCKS - 1 ? BLOCK - 4096 : BLOCK;

		memset(other, 0, sizeof(other));
		memset(other, (int)block, length);
		other[0] = 'x';
		ck_assert_uint_eq(record(block)->result, block == 4 ? TIERFS_ACCESS_READ_OK : TIERFS_ACCESS_RESIDENT);
		ck_assert_uint_eq(record(block)->payload_bytes, length);
		ck_assert(ident_same(record(block)->ident, ident_of(other, BLOCK)));
		ck_assert_mem_eq(memory + record(block)->payload_at, other, length);
	}
}
END_TEST

START_TEST(quickly_encoded_is_as_good)
{
	static uint8_t value[BLOCK + 64];
	const struct tierfs_access_record *r;
	struct codec_info info;
	size_t length;

	write_content(2, false);
	r = list_one(2, TIERFS_ACCESS_STORED | TIERFS_ACCESS_ALSO_RESIDENT | TIERFS_ACCESS_QUICK, IDENT_NONE);
	length = r->payload_bytes;
	memcpy(value, memory + r->payload_at, length);
	ck_assert_int_eq(codec_peek(value, length, &info), 0);
	ck_assert_int_eq(info.kind, CODEC_LZ4);
	ck_assert_uint_eq(write_one(2, TIERFS_FORM_STORED, value, length, TIERFS_BLOCK_IN_PLACE)->result,
			  TIERFS_ACCESS_WRITE_OK);
	ck_assert_mem_eq(memory + read_one(2, TIERFS_ACCESS_ALSO_RESIDENT)->payload_at, content, BLOCK);
}
END_TEST

START_TEST(in_place_if_that_is_asked_for)
{
	static uint8_t other[BLOCK], value[BLOCK + 64];
	const struct tierfs_access_record *r;
	uint64_t dram_blocks;
	size_t length;

	memset(other, 'x', sizeof(other));
	write_content(2, false);
	dram_blocks = atomic_load(&file->dram_blocks);
	lock_get(&file->lock);
	blocks_set_tier(&file->blocks, 2, 1);
	lock_put(&file->lock);
	/* Refused: nothing is changed. */
	length = make_value(2, other, ident_of(other, BLOCK), value);
	value[length - 1] ^= 1;
	ck_assert_uint_eq(write_one(2, TIERFS_FORM_STORED, value, length, TIERFS_BLOCK_IN_PLACE)->error, EBADMSG);
	ck_assert_uint_eq(write_one(2, TIERFS_FORM_NONE, NULL, 0, TIERFS_BLOCK_IN_PLACE)->error, EINVAL);
	ck_assert_mem_eq(memory + read_one(2, TIERFS_ACCESS_ALSO_RESIDENT)->payload_at, content, BLOCK);
	/* Done: it stays where it is, with its age unless another one is given. */
	r = write_one(2, TIERFS_FORM_PLAIN, other, BLOCK, TIERFS_BLOCK_IN_PLACE);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_uint_eq(r->state, TIERFS_STATE_RESIDENT);
	ck_assert_uint_eq(r->tier, 1);
	ck_assert_mem_eq(memory + read_one(2, TIERFS_ACCESS_ALSO_RESIDENT)->payload_at, other, BLOCK);
	r = write_one(2, TIERFS_FORM_PLAIN, content, BLOCK, TIERFS_BLOCK_IN_PLACE | TIERFS_BLOCK_SET_AGE);
	ck_assert_uint_eq(r->generation, 17);
	ck_assert_uint_eq(r->tier, 2);
	ck_assert_uint_eq(atomic_load(&file->dram_blocks), dram_blocks);
	ck_assert_uint_eq(store_mem_count(store, ino), 0);
	/* A block that is not there is written as ever. */
	ck_assert_uint_eq(write_one(3, TIERFS_FORM_PLAIN, other, BLOCK, TIERFS_BLOCK_IN_PLACE)->state,
			  TIERFS_STATE_COLD);
	file_check(file);
}
END_TEST

static void must_refuse(uint64_t block, const uint8_t *value, size_t length)
{
	const struct tierfs_access_record *r = write_one(block, TIERFS_FORM_STORED, value, length, 0);

	ck_assert_uint_eq(r->result, TIERFS_ACCESS_ERROR);
	ck_assert(r->error == EBADMSG || r->error == EPROTONOSUPPORT || r->error == EINVAL);
}

START_TEST(hostile_values_are_refused)
{
	static uint8_t value[2 * BLOCK], other[BLOCK] __attribute__((aligned(64)));
	size_t length;

	write_content(1, true);
	memset(other, 0, sizeof(other));
	snprintf((char *)other, sizeof(other), "something else");
	length = make_value(1, other, ident_of(other, BLOCK), value);
	for (size_t bit = 0; bit < length * 8; bit++) {
		value[bit / 8] ^= (uint8_t)(1 << bit % 8);
		must_refuse(1, value, length);
		value[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t cut = 0; cut < length; cut++)
		must_refuse(1, value, cut);
	must_refuse(1, value, length + 1);
	must_refuse(1, value, sizeof(value));
	must_refuse(1, value, UINT32_MAX);
	/* Content beyond the end of the file. */
	memset(other, 'y', sizeof(other));
	length = make_value(BLOCKS - 1, other, ident_of(other, BLOCK), value);
	must_refuse(BLOCKS - 1, value, length);
	ck_assert_mem_eq(memory + read_one(1, 0)->payload_at, content, BLOCK);
	ck_assert_uint_eq(read_one(BLOCKS - 1, 0)->result, TIERFS_ACCESS_HOLE);
	file_check(file);
}
END_TEST

START_TEST(bad_records_are_refused)
{
	static const struct tierfs_access_record bad[] = {
		{ .block = 1, .form = 3 },
		{ .block = 1, .form = TIERFS_FORM_PLAIN, .payload_at = PAYLOAD_AT, .payload_bytes = BLOCK - 1 },
		{ .block = 1, .form = TIERFS_FORM_PLAIN, .payload_at = BUFFER_BYTES - 1, .payload_bytes = BLOCK },
		{ .block = 1, .form = TIERFS_FORM_PLAIN, .payload_at = UINT32_MAX, .payload_bytes = UINT32_MAX },
		{ .block = 1, .form = TIERFS_FORM_NONE, .payload_bytes = 1 },
		{ .block = 1, .tier = 4 },
		{ .block = 1, .flags = 0x80 },
		{ .block = BLOCKS, .form = TIERFS_FORM_NONE },
		{ .block = UINT64_MAX, .form = TIERFS_FORM_NONE },
	};
	struct access_buffer buffer = buffer_of(sizeof(bad) / sizeof(bad[0]));

	write_content(1, true);
	memcpy(memory, bad, sizeof(bad));
	ck_assert_int_eq(access_write(file, 0, &buffer), 0);
	for (size_t i = 0; i < buffer.records; i++) {
		ck_assert_uint_eq(record(i)->result, TIERFS_ACCESS_ERROR);
		ck_assert(record(i)->error == EINVAL || record(i)->error == ENXIO);
	}
	ck_assert_mem_eq(memory + read_one(1, 0)->payload_at, content, BLOCK);
}
END_TEST

START_TEST(named_twice_is_written_twice)
{
	struct access_buffer buffer = buffer_of(2);

	memset(memory + PAYLOAD_AT, 'a', BLOCK);
	memset(memory + PAYLOAD_AT + BLOCK, 'b', BLOCK);
	for (uint32_t i = 0; i < 2; i++)
		*record(i) = (struct tierfs_access_record){ .block = 3,
							    .form = TIERFS_FORM_PLAIN,
							    .payload_at = PAYLOAD_AT + i * BLOCK,
							    .payload_bytes = BLOCK };
	ck_assert_int_eq(access_write(file, 0, &buffer), 0);
	ck_assert_uint_eq(record(0)->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_uint_eq(record(1)->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_uint_eq(memory[read_one(3, 0)->payload_at], 'b');
}
END_TEST

START_TEST(store_errors_are_those_of_their_block)
{
	const struct tierfs_access_record *r;

	write_content(1, true);
	memset(memory + PAYLOAD_AT, 'q', BLOCK);
	store_mem_fail_all(store, STORE_MEM_PUT, ENOSPC);
	r = write_one(1, TIERFS_FORM_PLAIN, memory + PAYLOAD_AT, BLOCK, 0);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_ERROR);
	ck_assert_uint_eq(r->error, ENOSPC);
	store_mem_fail_all(store, STORE_MEM_PUT, 0);
	ck_assert_mem_eq(memory + read_one(1, 0)->payload_at, content, BLOCK);
	ck_assert_int_eq(store_mem_damage(store, (struct store_key){ ino, 1 }, 300), 0);
	r = read_one(1, 0);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_ERROR);
	ck_assert_uint_eq(r->error, EBADMSG);
	ck_assert_uint_eq(read_one(1, TIERFS_ACCESS_STORED)->error, EBADMSG);
	/* It was the way here: the same bit is right again. */
	ck_assert_int_eq(store_mem_damage(store, (struct store_key){ ino, 1 }, 300), 0);
	r = read_one(1, 0);
	ck_assert_uint_eq(r->result, TIERFS_ACCESS_READ_OK);
	ck_assert_uint_eq(r->flags & TIERFS_BLOCK_DAMAGED, 0);
	ck_assert_int_eq(store_mem_damage(store, (struct store_key){ ino, 1 }, 300), 0);
	ck_assert_uint_eq(read_one(1, TIERFS_ACCESS_STORED)->error, EBADMSG);
	/* A whole new content heals it. */
	ck_assert_uint_eq(write_one(1, TIERFS_FORM_PLAIN, content, BLOCK, 0)->result, TIERFS_ACCESS_WRITE_OK);
	ck_assert_mem_eq(memory + read_one(1, 0)->payload_at, content, BLOCK);
}
END_TEST

START_TEST(ranges_merge_and_end)
{
	struct access_buffer buffer = buffer_of(16);
	size_t records = 0;
	uint64_t next = 0;

	write_content(4, true);
	ck_assert_int_eq(access_read(file, TIERFS_ACCESS_MERGE, 0, 1000, &buffer, &records, &next), 0);
	ck_assert_uint_eq(records, 3);
	ck_assert_uint_eq(record(0)->count, 4);
	ck_assert_uint_eq(record(2)->count, 3);
	ck_assert_uint_eq(next, 1000);
	buffer.records = 2;
	ck_assert_int_eq(access_read(file, 0, 0, 1000, &buffer, &records, &next), 0);
	ck_assert_uint_eq(records, 2);
	ck_assert_uint_eq(next, 2);
	/* No room for one payload. */
	buffer.payload_bytes = BLOCK;
	ck_assert_int_eq(access_read(file, 0, 4, 1, &buffer, &records, &next), -ENOBUFS);
	ck_assert_int_eq(access_read(file, TIERFS_ACCESS_NO_PAYLOAD, 4, 1, &buffer, &records, &next), 0);
	/* A list says it of the block. */
	*record(0) = (struct tierfs_access_record){ .block = 5 };
	*record(1) = (struct tierfs_access_record){ .block = 4 };
	ck_assert_int_eq(access_read_list(file, 0, &buffer), 0);
	ck_assert_uint_eq(record(0)->result, TIERFS_ACCESS_HOLE);
	ck_assert_uint_eq(record(1)->error, ENOBUFS);
	*record(0) = (struct tierfs_access_record){ .block = BLOCKS + 5 };
	ck_assert_int_eq(access_read_list(file, 0, &buffer), 0);
	ck_assert_uint_eq(record(0)->error, ENXIO);
}
END_TEST

START_TEST(ages_are_set_and_prove_nothing)
{
	struct access_buffer buffer = buffer_of(3);
	struct heat_filter filter = { .first = 2, .count = 1, .now_ns = clock_ns() + NS_PER_S, .mapped = true };
	uint32_t pick;

	write_content(1, true);
	write_content(2, false);
	for (uint64_t i = 0; i < 3; i++)
		*record(i) = (struct tierfs_access_record){ .block = i, .generation = 40, .tier = 3 };
	ck_assert_int_eq(access_set(file, 0, &buffer), 0);
	ck_assert_uint_eq(record(0)->result, TIERFS_ACCESS_HOLE);
	ck_assert_uint_eq(record(1)->result, TIERFS_ACCESS_SET_OK);
	ck_assert_uint_eq(record(2)->result, TIERFS_ACCESS_SET_OK);
	ck_assert_uint_eq(record(1)->generation, 40);
	ck_assert_uint_eq(record(2)->generation, 40);
	lock_get(&file->lock);
	ck_assert_uint_eq(heat_pick(&file->heat, &file->blocks, &filter, 0, &pick, 1), 0);
	heat_used(&file->blocks, 2);
	ck_assert_uint_eq(heat_age(&file->blocks, 2), 0);
	lock_put(&file->lock);
}
END_TEST

/* --- the socket ----------------------------------------------------------------------------------------------------
 */

static int dial(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/%s", scratch.path, TIERFS_ACCESS_SOCKET);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* The errno of the answer, 0 if it is a good one; -1: the connection is gone. */
static int ask(int sock, struct tierfs_access_msg *msg, int fd)
{
	int came = -1;

	if (wire_send_access(sock, msg, fd) || wire_recv_access(sock, msg, &came))
		return -1;
	ck_assert_int_eq(came, -1);
	return msg->type == TIERFS_ACCESS_FAILED ? msg->u.failed.code : 0;
}

static int make_memfd(size_t bytes, bool seal)
{
	int fd = memfd_create("buffer", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	ck_assert_int_eq(ftruncate(fd, (off_t)bytes), 0);
	if (seal)
		ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	return fd;
}

static int open_call(int sock, uint32_t rights, int fd, uint32_t bytes)
{
	struct tierfs_access_msg msg = { .type = TIERFS_ACCESS_OPEN };

	msg.u.open.abi_version = TIERFS_ACCESS_ABI;
	msg.u.open.buffer_bytes = bytes;
	token_issue(tokens, (struct token_grant){ ino, rights }, msg.u.open.token);
	return ask(sock, &msg, fd);
}

START_TEST(opens_are_checked)
{
	struct tierfs_access_msg msg = { .type = TIERFS_ACCESS_OPEN };
	int good = make_memfd(1 << 20, true), loose = make_memfd(1 << 20, false), sock, plain;

	plain = open(scratch.path, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	ck_assert_int_eq(ftruncate(plain, 1 << 20), 0);
	struct {
		int fd;
		uint32_t bytes;
	} bad[] = { { loose, 1 << 20 }, { plain, 1 << 20 }, { good, 2 << 20 }, { good, 4096 }, { -1, 1 << 20 } };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		sock = dial();
		ck_assert_int_eq(open_call(sock, TIERFS_RIGHT_READ, bad[i].fd, bad[i].bytes), EINVAL);
		close(sock);
	}
	sock = dial();
	msg.u.open.abi_version = TIERFS_ACCESS_ABI;
	msg.u.open.buffer_bytes = 1 << 20;
	ck_assert_int_eq(ask(sock, &msg, good), EACCES); /* no token */
	close(sock);
	sock = dial();
	msg = (struct tierfs_access_msg){ .type = TIERFS_ACCESS_CALL };
	ck_assert_int_eq(ask(sock, &msg, -1), EPROTO); /* not opened */
	close(sock);
	sock = dial();
	ck_assert_int_eq(open_call(sock, TIERFS_RIGHT_READ, good, 1 << 20), 0);
	ck_assert_int_eq(open_call(sock, TIERFS_RIGHT_READ, good, 1 << 20), EPROTO); /* a second time */
	close(sock);
	close(good);
	close(loose);
	close(plain);
}
END_TEST

static struct tierfs_access_msg call(uint32_t op, uint32_t records_at, uint32_t records, uint32_t payload_at,
				     uint32_t payload_bytes)
{
	struct tierfs_access_msg msg = { .type = TIERFS_ACCESS_CALL };

	msg.u.call.op = op;
	msg.u.call.count_blocks = op == TIERFS_ACCESS_OP_READ;
	msg.u.call.records_at = records_at;
	msg.u.call.records = records;
	msg.u.call.payload_at = payload_at;
	msg.u.call.payload_bytes = payload_bytes;
	return msg;
}

START_TEST(calls_are_checked)
{
	int buffer = make_memfd(1 << 20, true), sock = dial();
	struct tierfs_access_msg bad[] = {
		call(0, 0, 1, 65536, 65536),
		call(99, 0, 1, 65536, 65536),
		call(TIERFS_ACCESS_OP_READ, 4, 1, 65536, 65536),
		call(TIERFS_ACCESS_OP_READ, 0, 0, 65536, 65536),
		call(TIERFS_ACCESS_OP_READ, 0, 1, 65537, 65536),
		call(TIERFS_ACCESS_OP_READ, 0, 70000, 65536, 65536),
		call(TIERFS_ACCESS_OP_READ, 0, 2000, 65536, 65536), /* overlap */
		call(TIERFS_ACCESS_OP_READ, 0, 1, 65536, 1 << 20),
		call(TIERFS_ACCESS_OP_READ, 0xfffffff8, 1, 65536, 65536),
		call(TIERFS_ACCESS_OP_READ, 0, 1, 0xfffffff8, 65536),
		call(TIERFS_ACCESS_OP_AGES, 0, 0, 65536, 8),
	};
	struct tierfs_access_msg msg;

	ck_assert_int_eq(open_call(sock, TIERFS_RIGHT_READ, buffer, 1 << 20), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_int_eq(ask(sock, &bad[i], -1), EINVAL);
	msg = call(TIERFS_ACCESS_OP_WRITE, 0, 1, 0, 0);
	ck_assert_int_eq(ask(sock, &msg, -1), EACCES);
	msg = call(TIERFS_ACCESS_OP_READ, 0, 1, 65536, 65536);
	ck_assert_int_eq(ask(sock, &msg, -1), 0);
	ck_assert_uint_eq(msg.u.done.records, 1);
	msg = call(TIERFS_ACCESS_OP_AGES, 0, 0, 65536, 65536);
	ck_assert_int_eq(ask(sock, &msg, -1), 0);
	msg = call(TIERFS_ACCESS_OP_READ, 0, 1, 65536, 65536);
	ck_assert_int_eq(ask(sock, &msg, buffer), EPROTO); /* a descriptor that does not belong */
	ck_assert_int_eq(ask(sock, &msg, -1), -1);
	close(sock);
	close(buffer);
}
END_TEST

START_TEST(the_buffer_may_not_shrink_and_stop_is_quick)
{
	int buffer = make_memfd(1 << 20, true), sock = dial();
	struct tierfs_access_msg msg = call(TIERFS_ACCESS_OP_READ, 0, 1, 65536, 65536);

	ck_assert_int_eq(open_call(sock, TIERFS_RIGHT_READ, buffer, 1 << 20), 0);
	ck_assert_int_eq(ftruncate(buffer, 0), -1);
	write_content(0, true);
	ck_assert_int_eq(fallocate(buffer, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20), 0);
	ck_assert_int_eq(ask(sock, &msg, -1), 0);
	access_stop(server); /* with a client that says nothing */
	server = NULL;
	ck_assert_int_eq(ask(sock, &msg, -1), -1);
	close(sock);
	close(buffer);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("access");
	TCase *blocks = tcase_create("blocks"), *sock = tcase_create("socket");

	tcase_add_checked_fixture(blocks, setup, teardown);
	tcase_add_checked_fixture(sock, setup, teardown);
	tcase_set_timeout(blocks, 60);
	tcase_add_test(blocks, reads_say_where_a_block_is);
	tcase_add_test(blocks, a_block_on_its_way_is_busy);
	tcase_add_test(blocks, writes_leave_dram_alone);
	tcase_add_test(blocks, writes_to_dram_until_the_budget_says_no);
	tcase_add_test(blocks, as_stored_there_and_back);
	tcase_add_test(blocks, what_is_known_has_no_payload);
	tcase_add_test(blocks, resident_blocks_in_a_row_are_read_at_once);
	tcase_add_test(blocks, quickly_encoded_is_as_good);
	tcase_add_test(blocks, in_place_if_that_is_asked_for);
	tcase_add_test(blocks, hostile_values_are_refused);
	tcase_add_test(blocks, bad_records_are_refused);
	tcase_add_test(blocks, named_twice_is_written_twice);
	tcase_add_test(blocks, store_errors_are_those_of_their_block);
	tcase_add_test(blocks, ranges_merge_and_end);
	tcase_add_test(blocks, ages_are_set_and_prove_nothing);
	tcase_add_test(sock, opens_are_checked);
	tcase_add_test(sock, calls_are_checked);
	tcase_add_test(sock, the_buffer_may_not_shrink_and_stop_is_quick);
	suite_add_tcase(suite, blocks);
	suite_add_tcase(suite, sock);
	return check_run(suite);
}
