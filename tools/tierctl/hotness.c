/* hotness.c - hotness export, import and show. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hotness_set.h"
#include "table.h"
#include "tierctl.h"

#define TIERS 4

/* --- export ------------------------------------------------------------------------------------------------------- */

static int export_run(const struct args *args)
{
	const char *path = args->operands[1], *out = args->operands[2];
	struct hotness_set set;
	int rc;

	if (hotness_set_read_ram(&set, path, args->compare))
		return 1;
	rc = hotness_set_save(&set, out);
	if (!rc && args->json && strcmp(out, "-"))
		rc = print_json(json_pack("{s:s, s:s, s:I, s:I, s:I}", "path", path, "file", out, "records",
					  (json_int_t)set.count, "size_bytes", (json_int_t)set.header.size_bytes,
					  "scans", (json_int_t)set.header.scans));
	hotness_set_free(&set);
	return rc;
}

/* --- import ------------------------------------------------------------------------------------------------------- */

struct import {
	const struct hotness_set *set;
	struct tierfs_access *access;
	const struct tierfs_access_info *info;
	size_t next; /* the first record that may reach into the block */
	uint64_t set_blocks, hole_blocks, busy_blocks, error_blocks;
};

/* The age of a block is that of the youngest memory in it, its tier the highest. False: the file says nothing of it. */
static bool age_of(struct import *import, uint64_t block, struct tierfs_access_record *ret)
{
	uint64_t begin = block * import->info->block_bytes, end = begin + import->info->block_bytes;
	const struct hotness_set *set = import->set;
	bool known = false;

	*ret = (struct tierfs_access_record){ .block = block, .generation = UINT8_MAX };
	while (import->next < set->count &&
	       set->record[import->next].offset + set->record[import->next].length <= begin)
		import->next++;
	for (size_t i = import->next; i < set->count && set->record[i].offset < end; i++) {
		const struct tierfs_hotness_record *record = &set->record[i];

		if (record->state == TIERFS_STATE_HOLE)
			continue;
		known = true;
		if (record->generation < ret->generation)
			ret->generation = record->generation;
		if (record->tier > ret->tier)
			ret->tier = record->tier;
	}
	return known;
}

static int send_ages(struct import *import)
{
	struct tierfs_access_answer answer = {};
	int err = tierfs_access_set(import->access, TIERFS_ACCESS_WAIT, &answer);

	for (size_t i = 0; !err && i < answer.count; i++) {
		switch (answer.record[i].result) {
		case TIERFS_ACCESS_SET_OK:
			import->set_blocks++;
			break;
		case TIERFS_ACCESS_HOLE:
			import->hole_blocks++;
			break;
		case TIERFS_ACCESS_ERROR:
			import->error_blocks++;
			break;
		default:
			import->busy_blocks++;
		}
	}
	return err;
}

static int import_blocks(struct import *import)
{
	int err = 0;

	for (uint64_t block = 0; !err && block < import->info->blocks; block++) {
		struct tierfs_access_record record;

		if (!age_of(import, block, &record))
			continue;
		err = tierfs_access_add(import->access, &record, NULL);
		if (err == -ENOBUFS) {
			err = send_ages(import);
			if (!err)
				err = tierfs_access_add(import->access, &record, NULL);
		}
	}
	return err ? err : send_ages(import);
}

static int print_import(const struct args *args, const struct import *import)
{
	uint64_t unit = import->info->block_bytes;
	const char *path = args->operands[1];
	struct table *table;

	if (args->json)
		return print_json(json_pack("{s:s, s:I, s:I, s:I, s:I}", "path", path, "set_bytes",
					    (json_int_t)(import->set_blocks * unit), "hole_bytes",
					    (json_int_t)(import->hole_blocks * unit), "busy_bytes",
					    (json_int_t)(import->busy_blocks * unit), "error_bytes",
					    (json_int_t)(import->error_blocks * unit)));
	table = table_new(
		(struct table_column[]){
			{ "PATH", false }, { "SET", true }, { "HOLE", true }, { "BUSY", true }, { "ERROR", true }, {} },
		args->bytes);
	if (!table)
		return fail(path, "output", "out of memory");
	table_row(table);
	table_text(table, path);
	table_size(table, import->set_blocks * unit);
	table_size(table, import->hole_blocks * unit);
	table_size(table, import->busy_blocks * unit);
	table_size(table, import->error_blocks * unit);
	return table_print(table);
}

static int import_run(const struct args *args)
{
	const char *path = args->operands[1];
	struct hotness_set set;
	struct import import = { .set = &set };
	int fd, err, rc;

	/* All of the file is checked before the first block is touched. */
	if (hotness_set_load(&set, args->operands[2]))
		return 1;
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	err = fd < 0 ? -errno : tierfs_access_open(fd, 0, &import.access);
	if (fd >= 0)
		close(fd);
	if (!err) {
		import.info = tierfs_access_info(import.access);
		err = import_blocks(&import);
	}
	rc = err ? fail_errno(path, "cannot set its hotness", err) : print_import(args, &import);
	tierfs_access_close(import.access);
	hotness_set_free(&set);
	return rc;
}

/* --- show --------------------------------------------------------------------------------------------------------- */

struct sums {
	uint64_t resident[TIERFS_HOTNESS_GENERATIONS], cold[TIERFS_HOTNESS_GENERATIONS];
	uint64_t tier[TIERFS_HOTNESS_GENERATIONS][TIERS];
	uint64_t hole_bytes, pinned_bytes, copy[TIERFS_COPY_UNKNOWN + 1];
};

static void sum_up(const struct hotness_set *set, struct sums *sums)
{
	*sums = (struct sums){};
	for (size_t i = 0; i < set->count; i++) {
		const struct tierfs_hotness_record *record = &set->record[i];

		if (record->flags & TIERFS_BLOCK_PINNED)
			sums->pinned_bytes += record->length;
		if (record->state == TIERFS_STATE_HOLE) {
			sums->hole_bytes += record->length;
			continue;
		}
		sums->copy[record->copy] += record->length;
		sums->tier[record->generation][record->tier] += record->length;
		if (record->state == TIERFS_STATE_COLD)
			sums->cold[record->generation] += record->length;
		else
			sums->resident[record->generation] += record->length;
	}
}

static json_t *generations_array(const struct hotness_set *set, const struct sums *sums)
{
	json_t *array = json_array();

	for (unsigned int g = 0; g < TIERFS_HOTNESS_GENERATIONS; g++) {
		json_t *tiers;

		if (!sums->resident[g] && !sums->cold[g])
			continue;
		tiers = json_array();
		for (unsigned int t = 0; t < TIERS; t++)
			json_array_append_new(tiers, json_integer((json_int_t)sums->tier[g][t]));
		json_array_append_new(array, json_pack("{s:i, s:I, s:I, s:I, s:o}", "generation", (int)g, "age_ns",
						       (json_int_t)set->header.age_ns[g], "resident_bytes",
						       (json_int_t)sums->resident[g], "cold_bytes",
						       (json_int_t)sums->cold[g], "tier_bytes", tiers));
	}
	return array;
}

static int show_json(const char *path, const struct hotness_set *set, const struct sums *sums)
{
	return print_json(
		json_pack("{s:s, s:I, s:i, s:I, s:I, s:I, s:{s:I, s:I, s:I, s:I}, s:o}", "path", path, "size_bytes",
			  (json_int_t)set->header.size_bytes, "block_bytes", (int)set->header.block_bytes, "scans",
			  (json_int_t)set->header.scans, "hole_bytes", (json_int_t)sums->hole_bytes, "pinned_bytes",
			  (json_int_t)sums->pinned_bytes, "copy", "none", (json_int_t)sums->copy[TIERFS_COPY_NONE],
			  "same", (json_int_t)sums->copy[TIERFS_COPY_SAME], "differs",
			  (json_int_t)sums->copy[TIERFS_COPY_DIFFERS], "unknown",
			  (json_int_t)sums->copy[TIERFS_COPY_UNKNOWN], "generations", generations_array(set, sums)));
}

/* Generations from..to, which are powers of two. */
static void show_row(struct table *table, const struct hotness_set *set, const struct sums *sums, unsigned int from,
		     unsigned int to)
{
	uint64_t resident = 0, cold = 0, tier[TIERS] = {};
	char text[32];

	for (unsigned int g = from; g <= to; g++) {
		resident += sums->resident[g];
		cold += sums->cold[g];
		for (unsigned int t = 0; t < TIERS; t++)
			tier[t] += sums->tier[g][t];
	}
	if (!resident && !cold)
		return;
	table_row(table);
	snprintf(text, sizeof(text), from == to ? "%u" : "%u-%u", from, to);
	table_text(table, text);
	table_duration(table, set->header.age_ns[from]);
	table_size(table, resident);
	table_size(table, cold);
	for (unsigned int t = 0; t < TIERS; t++)
		table_size(table, tier[t]);
}

static int show_table(const struct args *args, const struct hotness_set *set, const struct sums *sums)
{
	struct table *table = table_new((struct table_column[]){ { "GENERATION", true },
								 { "UNUSED-FOR", true },
								 { "RESIDENT", true },
								 { "COLD", true },
								 { "TIER0", true },
								 { "TIER1", true },
								 { "TIER2", true },
								 { "TIER3", true },
								 {} },
					args->bytes);

	if (!table)
		return fail(args->operands[1], "output", "out of memory");
	show_row(table, set, sums, 0, 0);
	for (unsigned int from = 1; from < TIERFS_HOTNESS_GENERATIONS; from *= 2)
		show_row(table, set, sums, from, 2 * from - 1);
	return table_print(table);
}

static int show_run(const struct args *args)
{
	const char *path = args->operands[1];
	struct hotness_set set;
	struct sums sums;
	int rc;

	rc = args->compare ? hotness_set_read_ram(&set, path, true) : hotness_set_read(&set, path);
	if (rc)
		return 1;
	sum_up(&set, &sums);
	rc = args->json ? show_json(path, &set, &sums) : show_table(args, &set, &sums);
	hotness_set_free(&set);
	return rc;
}

int hotness_run(const struct command *command, int argc, char **argv)
{
	struct args args;
	int rc = args_parse(command, argc, argv, 2, 3, &args);
	const char *verb;

	if (rc)
		return rc < 0;
	verb = args.operands[0];
	if (!strcmp(verb, "export") && args.count == 3)
		return export_run(&args);
	if (!strcmp(verb, "import") && args.count == 3)
		return import_run(&args);
	if (!strcmp(verb, "show") && args.count == 2)
		return show_run(&args);
	return fail(verb, "not understood", "see 'tierctl hotness --help'");
}
