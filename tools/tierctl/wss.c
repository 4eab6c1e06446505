/* wss.c - working sets, and how small a budget may be. The estimate is curve.h's. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "curve.h"
#include "base/size.h"
#include "conn.h"
#include "hotness_set.h"
#include "table.h"
#include "tierctl.h"

#define TIERS 4
/* The demoter keeps a sixteenth of the budget free. */
#define RESERVE_SHARE (15.0 / 16)

static const unsigned int windows_s[] = { 60, 300, 900 };
#define WINDOWS (sizeof(windows_s) / sizeof(windows_s[0]))

struct estimate {
	const char *path;
	struct curve curve;
	uint32_t block_bytes;
	double used_bytes; /* resident and cold */
	double resident_bytes;
	double tier_bytes[TIERS];
	double working_set[WINDOWS];
	bool working_set_at_least[WINDOWS];
	double rate; /* asked for, blocks a second */
	double budget_bytes;
	bool budget_at_least;
	double now_rate; /* predicted for what is resident now, blocks a second */
	bool measured;
	double measured_rate;
};

static void sum_up(const struct hotness_set *set, struct estimate *estimate, uint64_t *bytes)
{
	for (size_t i = 0; i < set->count; i++) {
		const struct tierfs_hotness_record *record = &set->record[i];

		if (record->state == TIERFS_STATE_HOLE)
			continue;
		bytes[record->generation] += record->length;
		estimate->used_bytes += (double)record->length;
		estimate->tier_bytes[record->tier] += (double)record->length;
		if (record->state != TIERFS_STATE_COLD)
			estimate->resident_bytes += (double)record->length;
	}
}

static void make_estimate(const struct hotness_set *set, struct estimate *estimate)
{
	uint64_t bytes[TIERFS_HOTNESS_GENERATIONS] = { 0 };
	double unit = set->header.block_bytes;

	estimate->block_bytes = set->header.block_bytes;
	sum_up(set, estimate, bytes);
	curve_make(&estimate->curve, bytes, set->header.age_ns);
	for (size_t i = 0; i < WINDOWS; i++)
		estimate->working_set[i] = curve_working_set(&estimate->curve, windows_s[i],
							     &estimate->working_set_at_least[i]);
	estimate->budget_bytes = curve_budget(&estimate->curve, estimate->rate * unit, &estimate->budget_at_least) /
				 RESERVE_SHARE;
	estimate->now_rate = curve_rate(&estimate->curve, estimate->resident_bytes) / unit;
}

/* How many blocks really come back. */
static int measure(const struct args *args, const struct hotness_set *before, struct estimate *estimate)
{
	struct hotness_set after;

	sleep(args->sample);
	if (hotness_set_read_ram(&after, estimate->path, false))
		return 1;
	estimate->measured = true;
	estimate->measured_rate = (double)(after.live.promotions - before->live.promotions) /
				  ((double)(after.live.uptime_ns - before->live.uptime_ns) / 1e9);
	hotness_set_free(&after);
	return 0;
}

/* --- output ------------------------------------------------------------------------------------------------------- */

static json_t *curve_array(const struct curve *curve, double unit)
{
	json_t *array = json_array();

	for (unsigned int i = 0; i + 1 < curve->points; i++)
		json_array_append_new(array,
				      json_pack("{s:f, s:I, s:I, s:f}", "seconds", curve->age_s[i], "working_set_bytes",
						(json_int_t)curve->bytes[i], "budget_bytes", (json_int_t)curve->hull[i],
						"promotions_per_second", curve->slope[i] / unit));
	return array;
}

static json_t *to_json(const struct estimate *estimate)
{
	json_t *sets = json_array(), *tiers = json_array(), *object;

	for (size_t i = 0; i < WINDOWS; i++)
		json_array_append_new(sets, json_pack("{s:i, s:I, s:b}", "seconds", (int)windows_s[i], "bytes",
						      (json_int_t)estimate->working_set[i], "at_least",
						      (int)estimate->working_set_at_least[i]));
	for (size_t t = 0; t < TIERS; t++)
		json_array_append_new(tiers, json_integer((json_int_t)estimate->tier_bytes[t]));
	object = json_pack("{s:s, s:i, s:I, s:I, s:o, s:f, s:I, s:b, s:f, s:o, s:o}", "path", estimate->path,
			   "block_bytes", (int)estimate->block_bytes, "used_bytes", (json_int_t)estimate->used_bytes,
			   "resident_bytes", (json_int_t)estimate->resident_bytes, "working_sets", sets, "rate",
			   estimate->rate, "budget_bytes", (json_int_t)estimate->budget_bytes, "budget_at_least",
			   (int)estimate->budget_at_least, "predicted_promotions_per_second", estimate->now_rate,
			   "tier_bytes", tiers, "curve", curve_array(&estimate->curve, estimate->block_bytes));
	if (object && estimate->measured)
		json_object_set_new(object, "measured_promotions_per_second", json_real(estimate->measured_rate));
	return object;
}

static void add_size(struct table *table, double bytes, bool at_least, bool exact)
{
	char text[SIZE_TEXT_LEN], with[SIZE_TEXT_LEN + 4];

	if (!at_least) {
		table_size(table, (uint64_t)bytes);
		return;
	}
	if (exact)
		snprintf(text, sizeof(text), "%llu", (unsigned long long)bytes);
	snprintf(with, sizeof(with), ">=%s", exact ? text : size_format((uint64_t)bytes, text));
	table_text(table, with);
}

static void add_row(struct table *table, const struct estimate *estimate, bool exact)
{
	char text[32];

	table_row(table);
	table_text(table, estimate->path);
	table_size(table, (uint64_t)estimate->used_bytes);
	table_size(table, (uint64_t)estimate->resident_bytes);
	for (size_t i = 0; i < WINDOWS; i++)
		add_size(table, estimate->working_set[i], estimate->working_set_at_least[i], exact);
	add_size(table, estimate->budget_bytes, estimate->budget_at_least, exact);
	snprintf(text, sizeof(text), "%.1f", estimate->now_rate);
	table_text(table, text);
	snprintf(text, sizeof(text), "%.1f", estimate->measured_rate);
	table_text(table, estimate->measured ? text : NULL);
}

static struct table *new_table(bool exact)
{
	return table_new((struct table_column[]){ { "PATH", false },
						  { "USED", true },
						  { "RESIDENT", true },
						  { "1MIN", true },
						  { "5MIN", true },
						  { "15MIN", true },
						  { "BUDGET", true },
						  { "RATE", true },
						  { "MEASURED", true },
						  {} },
			 exact);
}

static int do_file(const struct args *args, const char *path, struct table *table, json_t *results)
{
	struct estimate estimate = { .path = path, .rate = args->pace };
	struct hotness_set set;
	int rc;

	rc = args->sample ? hotness_set_read_ram(&set, path, false) : hotness_set_read(&set, path);
	if (rc)
		return 1;
	make_estimate(&set, &estimate);
	if (args->sample)
		rc = measure(args, &set, &estimate);
	hotness_set_free(&set);
	if (rc)
		return 1;
	if (args->json)
		json_array_append_new(results, to_json(&estimate));
	else
		add_row(table, &estimate, args->bytes);
	return 0;
}

/* The root of a mount stands for all of its files. */
static int do_mount(const struct args *args, const char *path, struct table *table, json_t *results)
{
	struct conn_error error;
	struct conn *conn;
	json_t *list = NULL, *file;
	size_t i;
	int rc = 0;

	if (conn_open(path, false, &conn, &error))
		return fail(path, error.what, error.why);
	if (conn_ask(conn, "ls", NULL, NULL, NULL, &list, &error))
		rc = fail(path, error.what, error.why);
	conn_close(conn);
	json_array_foreach(json_object_get(list, "files"), i, file) {
		const char *name = json_string_value(json_object_get(file, "path"));
		char full[2 * PATH_MAX];

		if (rc || !name || json_is_true(json_object_get(file, "lost")))
			continue;
		snprintf(full, sizeof(full), "%s%s", path, name);
		rc = do_file(args, full, table, results);
	}
	json_decref(list);
	return rc;
}

static bool is_directory(const char *path)
{
	struct stat attr;

	return stat(path, &attr) == 0 && S_ISDIR(attr.st_mode);
}

int wss_run(const struct command *command, int argc, char **argv)
{
	struct args args;
	struct table *table = NULL;
	json_t *results = NULL;
	int rc = args_parse(command, argc, argv, 1, -1, &args);

	if (rc)
		return rc < 0;
	if (args.json)
		results = json_array();
	else
		table = new_table(args.bytes);
	if (!results && !table)
		return fail(NULL, "output", "out of memory");
	for (int i = 0; !rc && i < args.count; i++)
		rc = is_directory(args.operands[i]) ? do_mount(&args, args.operands[i], table, results)
						    : do_file(&args, args.operands[i], table, results);
	if (!rc && args.json)
		return print_json(json_pack("{s:o}", "files", results));
	if (!rc)
		return table_print(table);
	json_decref(results);
	table_free(table);
	return rc;
}
