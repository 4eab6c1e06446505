/* access.c - access: read or write blocks where they are, and say what became of each. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <tierfs/access.h>
#include <tierfs/tierfs.h>

#include "table.h"
#include "tierctl.h"

/* Neighbours with the same result. */
struct run {
	uint64_t block, count;
	unsigned int result, error;
};

struct job {
	const struct args *args;
	const char *path, *other;
	struct tierfs_access *access;
	const struct tierfs_access_info *info;
	uint64_t first, count; /* blocks */
	int other_fd;          /* -1: none */
	struct run *run;
	size_t runs, cap;
};

static int note_result(struct job *job, const struct tierfs_access_record *record)
{
	struct run *last = job->runs ? &job->run[job->runs - 1] : NULL;

	if (last && last->block + last->count == record->block && last->result == record->result &&
	    last->error == record->error) {
		last->count += record->count;
		return 0;
	}
	if (job->runs == job->cap) {
		size_t cap = job->cap ? job->cap * 2 : 256;
		struct run *grown = reallocarray(job->run, cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		job->run = grown;
		job->cap = cap;
	}
	job->run[job->runs++] = (struct run){ record->block, record->count, record->result, record->error };
	return 0;
}

/* --- read and write ----------------------------------------------------------------------------------------------- */

/* Where a block is in the other file: the range begins at its start. */
static off_t place_of(const struct job *job, uint64_t block)
{
	return (off_t)((block - job->first) * job->info->block_bytes);
}

static int read_answer(struct job *job, const struct tierfs_access_answer *answer)
{
	int err = 0;

	for (size_t i = 0; !err && i < answer->count; i++) {
		const struct tierfs_access_record *record = &answer->record[i];
		const void *payload = tierfs_access_payload(job->access, record);
		ssize_t done;

		if (payload && job->other_fd >= 0) {
			done = pwrite(job->other_fd, payload, record->payload_bytes, place_of(job, record->block));
			if (done != (ssize_t)record->payload_bytes)
				return done < 0 ? -errno : -EIO;
		}
		err = note_result(job, record);
	}
	return err;
}

static int read_blocks(struct job *job)
{
	uint32_t flags = TIERFS_ACCESS_MERGE | (job->other_fd < 0 ? TIERFS_ACCESS_NO_PAYLOAD : 0);
	uint64_t end = job->first + job->count;
	struct tierfs_access_answer answer;
	int err = 0;

	/* What is not read is a hole in the copy. */
	if (job->other_fd >= 0 && ftruncate(job->other_fd, place_of(job, end)) < 0)
		return -errno;
	for (uint64_t block = job->first; !err && block < end; block = answer.next_block) {
		err = tierfs_access_read(job->access, block, end - block, flags, &answer);
		if (!err)
			err = read_answer(job, &answer);
	}
	return err;
}

static int send_blocks(struct job *job)
{
	struct tierfs_access_answer answer = {};
	int err = tierfs_access_write(job->access, 0, &answer);

	for (size_t i = 0; !err && i < answer.count; i++)
		err = note_result(job, &answer.record[i]);
	return err;
}

/* Reads one block of the other file into the buffer. What it lacks is zeros. */
static int add_block(struct job *job, uint64_t block)
{
	uint64_t offset = block * job->info->block_bytes, length = job->info->block_bytes;
	struct tierfs_access_record record = { .block = block, .form = TIERFS_FORM_PLAIN };
	uint8_t *room;
	ssize_t got;

	if (length > job->info->size_bytes - offset)
		length = job->info->size_bytes - offset;
	room = tierfs_access_room(job->access, length);
	if (!room)
		return -ENOBUFS;
	got = pread(job->other_fd, room, length, place_of(job, block));
	if (got < 0)
		return -errno;
	memset(room + got, 0, length - (size_t)got);
	record.payload_bytes = (uint32_t)length;
	return tierfs_access_add(job->access, &record, room);
}

static int write_blocks(struct job *job)
{
	int err = 0;

	for (uint64_t block = job->first; !err && block < job->first + job->count; block++) {
		err = add_block(job, block);
		if (err == -ENOBUFS) {
			err = send_blocks(job);
			if (!err)
				err = add_block(job, block);
		}
	}
	return err ? err : send_blocks(job);
}

/* --- output ------------------------------------------------------------------------------------------------------- */

static int show_json(const struct job *job)
{
	json_t *runs = json_array(), *sums = json_object();
	uint64_t unit = job->info->block_bytes;

	for (unsigned int result = TIERFS_ACCESS_READ_OK; result <= TIERFS_ACCESS_ERROR; result++) {
		uint64_t blocks = 0;

		for (size_t i = 0; i < job->runs; i++)
			blocks += job->run[i].result == result ? job->run[i].count : 0;
		json_object_set_new(sums, tierfs_access_result_name(result), json_integer((json_int_t)(blocks * unit)));
	}
	for (size_t i = 0; i < job->runs; i++) {
		const struct run *run = &job->run[i];
		json_t *object = json_pack("{s:I, s:I, s:s}", "offset", (json_int_t)(run->block * unit), "length",
					   (json_int_t)(run->count * unit), "result",
					   tierfs_access_result_name(run->result));

		if (run->error)
			json_object_set_new(object, "errno", json_integer((json_int_t)run->error));
		json_array_append_new(runs, object);
	}
	return print_json(json_pack("{s:s, s:i, s:o, s:o}", "path", job->path, "block_bytes", (int)unit, "bytes", sums,
				    "runs", runs));
}

static int show_table(const struct job *job)
{
	struct table *table = table_new(
		(struct table_column[]){
			{ "OFFSET", true }, { "LENGTH", true }, { "RESULT", false }, { "WHY", false }, {} },
		job->args->bytes);

	if (!table)
		return fail(job->path, "output", "out of memory");
	for (size_t i = 0; i < job->runs; i++) {
		table_row(table);
		table_size(table, job->run[i].block * job->info->block_bytes);
		table_size(table, job->run[i].count * job->info->block_bytes);
		table_text(table, tierfs_access_result_name(job->run[i].result));
		table_text(table, job->run[i].error ? strerror((int)job->run[i].error) : NULL);
	}
	return table_print(table);
}

/* --- start and end ------------------------------------------------------------------------------------------------ */

static int set_range(struct job *job)
{
	uint64_t offset = job->args->offset, length = job->args->length, unit = job->info->block_bytes;

	if (offset > job->info->size_bytes)
		offset = job->info->size_bytes;
	if (length > job->info->size_bytes - offset)
		length = job->info->size_bytes - offset;
	if (offset % unit || (length % unit && offset + length != job->info->size_bytes))
		return fail(job->path, "the range is not made of whole blocks", "--offset and --length");
	job->first = offset / unit;
	job->count = (length + unit - 1) / unit;
	return 0;
}

static int open_job(struct job *job, bool writing)
{
	int fd = open(job->path, (writing ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
	int err;

	if (fd < 0)
		return fail(job->path, "cannot open", strerror(errno));
	err = tierfs_access_open(fd, 0, &job->access);
	close(fd);
	if (err == -ENOTTY)
		return fail(job->path, "not a RAM file of a tierfs mount", NULL);
	if (err)
		return fail_errno(job->path, "cold access", err);
	job->info = tierfs_access_info(job->access);
	if (set_range(job))
		return 1;
	if (job->other)
		job->other_fd = open(job->other,
				     writing ? O_RDONLY | O_CLOEXEC : O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	return job->other && job->other_fd < 0 ? fail(job->other, "cannot open", strerror(errno)) : 0;
}

int access_run(const struct command *command, int argc, char **argv)
{
	struct args args;
	struct job job = { .args = &args, .other_fd = -1 };
	int rc = args_parse(command, argc, argv, 2, 3, &args), err;
	bool writing;

	if (rc)
		return rc < 0;
	writing = !strcmp(args.operands[0], "write");
	if ((!writing && strcmp(args.operands[0], "read")) || (writing && args.count != 3))
		return fail(args.operands[0], "not understood", "see 'tierctl access --help'");
	job.path = args.operands[1];
	job.other = args.count == 3 ? args.operands[2] : NULL;
	rc = open_job(&job, writing);
	if (!rc) {
		err = writing ? write_blocks(&job) : read_blocks(&job);
		if (err)
			rc = fail_errno(job.path, writing ? "cannot write" : "cannot read", err);
	}
	if (!rc)
		rc = args.json ? show_json(&job) : show_table(&job);
	if (job.other_fd >= 0)
		close(job.other_fd);
	tierfs_access_close(job.access);
	free(job.run);
	return rc;
}
