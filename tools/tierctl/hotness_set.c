/* hotness_set.c - see hotness_set.h. "-" stands for standard input and output. */
#include "hotness_set.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <tierfs/tierfs.h>

#include "tierctl.h"

#define PAGE_BYTES UINT64_C(4096)

static int append(struct hotness_set *set, const struct tierfs_hotness_record *record)
{
	if (set->count == set->cap) {
		size_t cap = set->cap ? set->cap * 2 : 1024;
		struct tierfs_hotness_record *grown = reallocarray(set->record, cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		set->record = grown;
		set->cap = cap;
	}
	set->record[set->count++] = *record;
	return 0;
}

void hotness_set_free(struct hotness_set *set)
{
	free(set->record);
	*set = (struct hotness_set){};
}

/* --- a RAM file ------------------------------------------------------------------------------------------------- */

/* Hotness is of pages. */
static uint64_t whole_pages(uint64_t bytes)
{
	return (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

static int take_answer(struct hotness_set *set, const struct tierfs_access_info *info,
		       const struct tierfs_access_answer *answer)
{
	uint64_t memory_bytes = whole_pages(info->size_bytes);

	for (size_t i = 0; i < answer->count; i++) {
		const struct tierfs_access_record *from = &answer->record[i];
		struct tierfs_hotness_record record = { .offset = from->block * info->block_bytes,
							.length = (uint64_t)from->count * info->block_bytes,
							.state = from->state,
							.generation = from->generation,
							.tier = from->tier,
							.flags = from->flags,
							.copy = from->copy };
		int err;

		if (record.offset >= memory_bytes)
			break; /* it grew meanwhile */
		if (record.length > memory_bytes - record.offset)
			record.length = memory_bytes - record.offset;
		err = append(set, &record);
		if (err)
			return err;
	}
	return 0;
}

static int read_blocks(struct hotness_set *set, struct tierfs_access *access, bool compare)
{
	const struct tierfs_access_info *info = tierfs_access_info(access);
	uint32_t flags = TIERFS_ACCESS_NO_PAYLOAD | TIERFS_ACCESS_MERGE | (compare ? TIERFS_ACCESS_COMPARE : 0);
	struct tierfs_access_answer answer;
	int err = tierfs_access_ages(access, &set->live);

	for (uint64_t block = 0; !err && block < info->blocks; block = answer.next_block) {
		err = tierfs_access_read(access, block, info->blocks - block, flags, &answer);
		if (!err)
			err = take_answer(set, info, &answer);
	}
	set->header.size_bytes = whole_pages(info->size_bytes);
	set->header.block_bytes = info->block_bytes;
	set->header.records = set->count;
	set->header.scans = set->live.scans;
	set->header.time_s = (uint64_t)time(NULL);
	memcpy(set->header.age_ns, set->live.age_ns, sizeof(set->header.age_ns));
	set->is_live = true;
	return err;
}

int hotness_set_read_ram(struct hotness_set *set, const char *path, bool compare)
{
	struct tierfs_access *access = NULL;
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	int err;

	*set = (struct hotness_set){};
	if (fd < 0)
		return fail(path, "cannot open", strerror(errno));
	err = tierfs_access_open(fd, 0, &access);
	close(fd);
	if (err)
		return err == -ENOTTY ? fail(path, "not a RAM file of a tierfs mount", NULL)
				      : fail_errno(path, "cold access", err);
	err = read_blocks(set, access, compare);
	tierfs_access_close(access);
	if (!err)
		return 0;
	hotness_set_free(set);
	return fail_errno(path, "cannot read its hotness", err);
}

/* --- an exported file --------------------------------------------------------------------------------------------- */

static int bad_record(const char *path, uint64_t number, const char *why)
{
	char what[64];

	snprintf(what, sizeof(what), "record %llu at byte %llu", (unsigned long long)number,
		 (unsigned long long)(TIERFS_HOTNESS_HEADER_BYTES + number * TIERFS_HOTNESS_RECORD_BYTES));
	return fail(path, what, why);
}

static int load_stream(struct hotness_set *set, FILE *stream, const char *path)
{
	uint8_t head[TIERFS_HOTNESS_HEADER_BYTES], bytes[TIERFS_HOTNESS_RECORD_BYTES];
	struct tierfs_hotness_record record;
	const char *why = NULL;
	uint64_t end = 0;

	if (fread(head, sizeof(head), 1, stream) != 1)
		return fail(path, "header", "the file ends within it");
	if (tierfs_hotness_unpack_header(head, &set->header, &why))
		return fail(path, "header", why);
	for (uint64_t i = 0; i < set->header.records; i++) {
		if (fread(bytes, sizeof(bytes), 1, stream) != 1)
			return bad_record(path, i, ferror(stream) ? strerror(errno) : "the file ends within it");
		if (tierfs_hotness_unpack_record(i, &set->header, end, bytes, &record, &why))
			return bad_record(path, i, why);
		if (append(set, &record))
			return fail(path, "records", "out of memory");
		end = record.offset + record.length;
	}
	if (getc(stream) != EOF)
		return bad_record(path, set->header.records, "the file goes on after its last record");
	return 0;
}

int hotness_set_load(struct hotness_set *set, const char *path)
{
	bool standard = !strcmp(path, "-");
	FILE *stream = standard ? stdin : fopen(path, "rbe");
	int rc;

	*set = (struct hotness_set){};
	if (!stream)
		return fail(path, "cannot open", strerror(errno));
	rc = load_stream(set, stream, standard ? "standard input" : path);
	if (!standard)
		fclose(stream);
	if (rc)
		hotness_set_free(set);
	return rc;
}

static bool save_stream(const struct hotness_set *set, FILE *stream)
{
	uint8_t head[TIERFS_HOTNESS_HEADER_BYTES], bytes[TIERFS_HOTNESS_RECORD_BYTES];

	tierfs_hotness_pack_header(&set->header, head);
	if (fwrite(head, sizeof(head), 1, stream) != 1)
		return false;
	for (size_t i = 0; i < set->count; i++) {
		tierfs_hotness_pack_record(i, &set->record[i], bytes);
		if (fwrite(bytes, sizeof(bytes), 1, stream) != 1)
			return false;
	}
	return fflush(stream) == 0;
}

int hotness_set_save(const struct hotness_set *set, const char *path)
{
	bool standard = !strcmp(path, "-");
	FILE *stream = standard ? stdout : fopen(path, "wbe");
	bool good;

	if (!stream)
		return fail(path, "cannot create", strerror(errno));
	good = save_stream(set, stream);
	if (!standard && fclose(stream))
		good = false;
	return good ? 0 : fail(standard ? "standard output" : path, "cannot write", strerror(errno));
}

int hotness_set_read(struct hotness_set *set, const char *path)
{
	int fd = strcmp(path, "-") ? open(path, O_RDONLY | O_DIRECT | O_CLOEXEC) : -1;
	bool ram = fd >= 0 && tierfs_info(fd, NULL) == 0;

	if (fd >= 0)
		close(fd);
	return ram ? hotness_set_read_ram(set, path, false) : hotness_set_load(set, path);
}
