/* prog_access - cold access to a file under a verified load, checked (prog/slot.h).
 *
 * Reads ranges with flags and checks every payload against the versions that the load has written; or writes blocks of
 * a range that nobody else writes, and raises the versions of those alone that say WRITE_OK. What was refused must not
 * have changed, which every later check of the same slots sees. Exit status as that of prog_rmw.
 */
#include <getopt.h>

#include <tierfs/access.h>

#include "slot.h"

#define BATCH_MAX 64

static struct state *state;
static struct tierfs_access *reader, *writer;
static const struct tierfs_access_info *info;
static uint64_t results[16], wrong;

static uint64_t slots_in(uint64_t block)
{
	uint64_t end = (block + 1) * info->block_bytes;

	if (end > state->size_bytes)
		end = state->size_bytes;
	return (end - block * info->block_bytes) / SLOT_BYTES;
}

/* low: the versions before the call. */
static void check_payload(const struct tierfs_access_record *record, const uint64_t *payload, const uint32_t *low)
{
	uint64_t first = record->block * info->block_bytes / SLOT_BYTES;

	for (uint64_t i = 0; i < slots_in(record->block); i++) {
		uint64_t high = state->version[first + i];
		const uint64_t *slot = payload + i * SLOT_WORDS;

		if (slot_is_between(state, first + i, low[i], high + 1, slot))
			continue;
		wrong++;
		fprintf(stderr, "WRONG block %lu slot %lu, %s: version %u to %lu, found %s %lu\n", record->block, i,
			tierfs_access_result_name(record->result), low[i], high,
			slot_verdict_name(slot_judge(state, first + i, low[i], slot)), slot[1]);
		return;
	}
}

/* A hole must have been one at some time of the call. */
static void check_hole(const struct tierfs_access_record *record, const uint32_t *low)
{
	for (uint64_t i = 0; i < slots_in(record->block); i++)
		if (low[i]) {
			wrong++;
			fprintf(stderr, "WRONG block %lu slot %lu: a hole where version %u is\n", record->block, i,
				low[i]);
			return;
		}
}

static void note_versions(uint64_t first, uint64_t count, uint32_t *low)
{
	uint64_t per_block = info->block_bytes / SLOT_BYTES;

	for (uint64_t i = 0; i < count; i++)
		for (uint64_t j = 0; j < slots_in(first + i); j++)
			low[i * per_block + j] = state->version[(first + i) * per_block + j];
}

static void read_once(struct prog_rng *rng, uint64_t from, uint64_t blocks, uint32_t *low)
{
	uint64_t count = 1 + prog_below(rng, blocks < BATCH_MAX ? blocks : BATCH_MAX);
	uint64_t first = from + prog_below(rng, blocks - count + 1);
	uint32_t flags = (uint32_t)(prog_below(rng, 2) ? TIERFS_ACCESS_ALSO_RESIDENT : 0) |
			 (uint32_t)(prog_below(rng, 2) ? TIERFS_ACCESS_WAIT : 0) |
			 (uint32_t)(prog_below(rng, 4) ? 0 : TIERFS_ACCESS_COMPARE);
	struct tierfs_access_answer answer;
	int err;

	note_versions(first, count, low);
	err = tierfs_access_read(reader, first, count, flags, &answer);
	if (err)
		prog_die("read: %s", strerror(-err));
	for (size_t i = 0; i < answer.count; i++) {
		const struct tierfs_access_record *record = &answer.record[i];
		const uint32_t *versions = low + (record->block - first) * (info->block_bytes / SLOT_BYTES);

		results[record->result % 16]++;
		if (record->result == TIERFS_ACCESS_ERROR)
			prog_die("read of block %lu: %s", record->block, strerror(record->error));
		if (record->result == TIERFS_ACCESS_READ_OK && !record->payload_bytes)
			prog_die("block %lu: READ_OK without payload", record->block);
		if (record->payload_bytes)
			check_payload(record, tierfs_access_payload(reader, record), versions);
		else if (record->result == TIERFS_ACCESS_HOLE)
			check_hole(record, versions);
	}
}

static void add(const struct tierfs_access_record *record, const void *payload)
{
	int err = tierfs_access_add(writer, record, payload);

	if (err)
		prog_die("add: %s", strerror(-err));
}

/* Puts cold blocks back as they are stored: nothing may change. */
static void add_stored(uint64_t first, uint64_t count)
{
	struct tierfs_access_answer answer;
	int err = tierfs_access_read(reader, first, count, TIERFS_ACCESS_STORED, &answer);

	if (err)
		prog_die("read as stored: %s", strerror(-err));
	for (size_t i = 0; i < answer.count; i++) {
		struct tierfs_access_record record = answer.record[i];

		if (record.result != TIERFS_ACCESS_READ_OK)
			continue;
		record.flags = 0;
		add(&record, tierfs_access_payload(reader, &record));
	}
}

static void add_plain(struct prog_rng *rng, uint64_t first, uint64_t count)
{
	uint64_t per_block = info->block_bytes / SLOT_BYTES;

	for (uint64_t block = first; block < first + count; block++) {
		struct tierfs_access_record record = {
			.block = block,
			.form = TIERFS_FORM_PLAIN,
			.payload_bytes = (uint32_t)(slots_in(block) * SLOT_BYTES),
			.generation = (uint8_t)prog_below(rng, 256),
			.tier = (uint8_t)prog_below(rng, 4),
			.flags = (uint8_t)((prog_below(rng, 2) ? TIERFS_BLOCK_SET_AGE : 0) |
					   (prog_below(rng, 4) ? 0 : TIERFS_BLOCK_TO_DRAM)),
		};
		uint64_t *room = tierfs_access_room(writer, record.payload_bytes);

		if (!room)
			prog_die("no room in the buffer");
		for (uint64_t i = 0; i < slots_in(block); i++)
			slot_write(state, block * per_block + i, state->version[block * per_block + i] + 1,
				   room + i * SLOT_WORDS);
		add(&record, room);
	}
}

static void write_once(struct prog_rng *rng, uint64_t from, uint64_t blocks)
{
	uint64_t count = 1 + prog_below(rng, blocks < BATCH_MAX ? blocks : BATCH_MAX);
	uint64_t first = from + prog_below(rng, blocks - count + 1);
	uint64_t per_block = info->block_bytes / SLOT_BYTES;
	bool stored = prog_below(rng, 3) == 0;
	struct tierfs_access_answer answer;
	int err;

	if (stored)
		add_stored(first, count);
	else
		add_plain(rng, first, count);
	err = tierfs_access_write(writer, prog_below(rng, 2) ? TIERFS_ACCESS_WAIT : 0, &answer);
	if (err)
		prog_die("write: %s", strerror(-err));
	for (size_t i = 0; i < answer.count; i++) {
		const struct tierfs_access_record *record = &answer.record[i];

		results[record->result % 16]++;
		if (record->result == TIERFS_ACCESS_ERROR)
			prog_die("write of block %lu: %s", record->block, strerror(record->error));
		if (record->result == TIERFS_ACCESS_WRITE_OK && !stored)
			for (uint64_t j = 0; j < slots_in(record->block); j++)
				atomic_fetch_add(&state->version[record->block * per_block + j], 1);
	}
}

static void open_all(const char *path, bool writes)
{
	int fd = open(path, (writes ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
	int err;

	if (fd < 0)
		prog_die("%s: %s", path, strerror(errno));
	err = tierfs_access_open(fd, 0, &reader);
	if (!err && writes)
		err = tierfs_access_open(fd, 0, &writer);
	if (err)
		prog_die("%s: cold access: %s", path, strerror(-err));
	close(fd);
	info = tierfs_access_info(reader);
}

int main(int argc, char **argv)
{
	uint64_t offset = 0, bytes = 0, end, calls = 0;
	struct prog_rng rng;
	uint32_t *low;
	bool writes;

	if (argc != 7)
		prog_die("usage: prog_access read|write STATE FILE OFFSET LENGTH SECONDS");
	writes = !strcmp(argv[1], "write");
	state = state_open(argv[2], 0, false);
	offset = prog_size(argv[4]);
	bytes = prog_size(argv[5]);
	open_all(argv[3], writes);
	rng.state = prog_mix((uint64_t)time(NULL) ^ (uint64_t)getpid() << 32);
	low = calloc(BATCH_MAX, info->block_bytes / SLOT_BYTES * sizeof(*low));
	if (!low || state->magic != STATE_MAGIC || !bytes || offset + bytes > state->size_bytes)
		prog_die("bad range or state file");
	end = prog_now_ns() + (uint64_t)(atof(argv[6]) * 1e9);
	for (; prog_now_ns() < end && !wrong; calls++) {
		if (writes && prog_below(&rng, 2))
			write_once(&rng, offset / info->block_bytes, bytes / info->block_bytes);
		else
			read_once(&rng, offset / info->block_bytes, bytes / info->block_bytes, low);
	}
	printf("{\"calls\": %lu, \"wrong\": %lu", calls, wrong);
	for (unsigned int i = 1; i <= TIERFS_ACCESS_ERROR; i++)
		printf(", \"%s\": %lu", tierfs_access_result_name(i), results[i]);
	printf("}\n");
	tierfs_access_close(reader);
	tierfs_access_close(writer);
	free(low);
	return wrong ? PROG_WRONG : PROG_OK;
}
