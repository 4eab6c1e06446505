/* report.c - list, ls, stat, map. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "conn.h"
#include "table.h"
#include "tierctl.h"

/* The keys of a file's share, in the order of their columns. */
static const char *const share_keys[] = {
	"dram_min_bytes",
	"dram_max_bytes",
	"dram_weight",
	"cold_read_iops",
	"cold_read_bps",
	"cold_write_bps",
	"cold_write_day_bytes",
	"disk_max_bytes",
	"disk_used_bytes",
	"disk_left_bytes",
	"cold_write_day_used_bytes",
	"cold_write_day_left_bytes",
	"cold_write_day_next_free_ns",
};
#define SHARE_KEYS (sizeof(share_keys) / sizeof(share_keys[0]))
#define SHARE_COLUMNS 3 /* those of DRAM */
#define WEIGHT_DEFAULT 100

static uint64_t number(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

static const char *string(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), end_length = strlen(end);

	return length >= end_length && !strcmp(text + length - end_length, end);
}

/* One question on a connection of its own. */
static int ask(const char *path, const char *op, json_t *params, json_t **ret, struct conn_error *error)
{
	struct conn *conn;
	int err = conn_open(path, false, &conn, error);

	if (err) {
		json_decref(params);
		return err;
	}
	err = conn_ask(conn, op, params, NULL, NULL, ret, error);
	conn_close(conn);
	return err;
}

/* --- list ------------------------------------------------------------------------------------------------------- */

static int list_mount(void *arg, const char *mountpoint, const char *source)
{
	json_t *mounts = arg, *object;
	struct conn_error error;

	if (ask(mountpoint, "stat", NULL, &object, &error)) {
		object = json_object();
		json_object_set_new(object, "path", json_string(mountpoint));
		json_object_set_new(object, "state", json_string(error.why));
	} else {
		json_object_set_new(object, "state", json_string("ok"));
	}
	if (!json_object_get(object, "pool"))
		json_object_set_new(object, "pool", json_string(source));
	json_array_append_new(mounts, object);
	return 0;
}

static int print_mounts(json_t *mounts, bool bytes)
{
	static const struct table_column columns[] = {
		{ "MOUNTPOINT", false }, { "POOL", false },  { "FILES", true },    { "SIZE", true },
		{ "BLOCK", true },       { "DRAM", true },   { "RESIDENT", true }, { "COLD", true },
		{ "STORED", true },      { "STATE", false }, { NULL, false },
	};
	struct table *table = table_new(columns, bytes);
	json_t *mount;
	size_t i;

	if (!table)
		return fail("output", "out of memory", NULL);
	json_array_foreach(mounts, i, mount) {
		table_row(table);
		table_text(table, string(mount, "path"));
		table_text(table, string(mount, "pool"));
		table_number(table, number(mount, "files"));
		table_size(table, number(mount, "size_bytes"));
		table_size(table, number(mount, "block_bytes"));
		table_size(table, number(mount, "dram_bytes"));
		table_size(table, number(mount, "resident_bytes"));
		table_size(table, number(mount, "cold_bytes"));
		table_size(table, number(mount, "stored_bytes"));
		table_text(table, string(mount, "state"));
	}
	return table_print(table);
}

int list_run(const struct command *command, int argc, char **argv)
{
	json_t *mounts = json_array();
	struct args args;
	int rc = args_parse(command, argc, argv, 0, 0, &args);

	if (!rc) {
		int err = conn_mounts(list_mount, mounts);

		if (err)
			rc = -fail_errno("/proc/self/mountinfo", "cannot read", err);
		else if (args.json)
			return print_json(json_pack("{s:o}", "mounts", mounts));
		else
			rc = -print_mounts(mounts, args.bytes);
	}
	json_decref(mounts);
	return rc < 0;
}

/* --- ls --------------------------------------------------------------------------------------------------------- */

struct listing {
	json_t *files;      /* all that were found */
	const char *wanted; /* absolute path below a mount; NULL: all mounts */
	bool found;         /* a mount that holds it */
	struct conn_error error;
	int err;
};

/* True if path is directory, or lies below it. */
static bool is_below(const char *path, const char *directory)
{
	size_t length = strlen(directory);

	while (length > 0 && directory[length - 1] == '/')
		length--;
	return !strncmp(path, directory, length) && (path[length] == '/' || path[length] == '\0');
}

static void add_files(struct listing *listing, const char *mountpoint, json_t *files)
{
	char path[2 * PATH_MAX];
	json_t *file;
	size_t i;

	json_array_foreach(files, i, file) {
		snprintf(path, sizeof(path), "%s%s", mountpoint, string(file, "path") ? string(file, "path") : "");
		if (listing->wanted && !is_below(path, listing->wanted))
			continue;
		json_object_set_new(file, "path", json_string(path));
		json_array_append(listing->files, file);
	}
}

static int ls_mount(void *arg, const char *mountpoint, const char *source)
{
	struct listing *listing = arg;
	json_t *result;
	int err;

	(void)source;
	if (listing->wanted && !is_below(listing->wanted, mountpoint))
		return 0;
	err = ask(mountpoint, "ls", NULL, &result, &listing->error);
	if (err) {
		/* A mount that does not answer spoils only a question about itself. */
		listing->err = err;
		return 0;
	}
	listing->found = true;
	listing->err = 0;
	add_files(listing, mountpoint, json_object_get(result, "files"));
	json_decref(result);
	return 0;
}

/* Whether a key of a share says more than that nothing is set. */
static bool share_says(const char *key, const json_t *value)
{
	if (!strcmp(key, "dram_min_bytes"))
		return json_integer_value(value) != 0;
	if (strcmp(key, "dram_weight") != 0)
		return json_is_integer(value);
	return json_is_integer(value) && json_integer_value(value) != WEIGHT_DEFAULT;
}

static bool is_share_key(const char *key)
{
	for (size_t i = 0; i < SHARE_KEYS; i++)
		if (!strcmp(key, share_keys[i]))
			return true;
	return false;
}

static bool has_share(const json_t *file)
{
	for (size_t i = 0; i < SHARE_COLUMNS; i++)
		if (share_says(share_keys[i], json_object_get(file, share_keys[i])))
			return true;
	return false;
}

static void add_share(struct table *table, const json_t *file)
{
	for (size_t i = 0; i < SHARE_COLUMNS; i++) {
		json_t *value = json_object_get(file, share_keys[i]);

		if (!share_says(share_keys[i], value))
			table_text(table, NULL);
		else if (ends_with(share_keys[i], "_bytes"))
			table_size(table, (uint64_t)json_integer_value(value));
		else
			table_number(table, (uint64_t)json_integer_value(value));
	}
}

/* Somewhere else than in the pool's own store, or on its way. */
static bool is_elsewhere(const json_t *file)
{
	const char *store = string(file, "store");

	return string(file, "store_from") || (store && strcmp(store, "default") != 0);
}

/* "slow", "default>slow 40%". */
static void add_store(struct table *table, const json_t *file)
{
	const char *store = string(file, "store"), *from = string(file, "store_from");
	uint64_t size = number(file, "size_bytes"), moved = number(file, "store_moved_bytes");
	char text[96];

	if (from)
		snprintf(text, sizeof(text), "%s>%s %u%%", from, store,
			 size ? (unsigned int)((double)moved / (double)size * 100) : 0);
	else
		snprintf(text, sizeof(text), "%s%s", store ? store : "-",
			 json_is_false(json_object_get(file, "store_here")) ? " (not here)" : "");
	table_text(table, text);
}

static struct table *files_table(bool shares, bool stores, bool bytes)
{
	static const struct table_column figures[] = {
		{ "FILE", false },   { "SIZE", true },   { "MAPPING", false }, { "RESIDENT", true },
		{ "COLD", true },    { "HOLE", true },   { "STORED", true },   { "PROMOTED", true },
		{ "DEMOTED", true }, { "FAULTS", true }, { "P99", true },      { "ERRORS", true },
	};
	static const struct table_column share[] = { { "MIN", true }, { "MAX", true }, { "WEIGHT", true } };
	struct table_column columns[TABLE_COLUMNS_MAX + 1] = {};
	size_t count = sizeof(figures) / sizeof(figures[0]);

	memcpy(columns, figures, sizeof(figures));
	if (shares) {
		memcpy(columns + count, share, sizeof(share));
		count += sizeof(share) / sizeof(share[0]);
	}
	if (stores)
		columns[count++] = (struct table_column){ "STORE", false };
	columns[count] = (struct table_column){ "STATE", false };
	return table_new(columns, bytes);
}

static int print_files(json_t *files, bool bytes)
{
	bool shares = false, stores = false;
	struct table *table;
	json_t *file;
	size_t i;

	json_array_foreach(files, i, file) {
		shares |= has_share(file);
		stores |= is_elsewhere(file);
	}
	table = files_table(shares, stores, bytes);
	if (!table)
		return fail("output", "out of memory", NULL);
	json_array_foreach(files, i, file) {
		table_row(table);
		table_text(table, string(file, "path"));
		table_size(table, number(file, "size_bytes"));
		table_text(table, string(file, "mapping"));
		table_size(table, number(file, "resident_bytes"));
		table_size(table, number(file, "cold_bytes"));
		table_size(table, number(file, "hole_bytes"));
		table_size(table, number(file, "stored_bytes"));
		table_number(table, number(file, "promotions"));
		table_number(table, number(file, "demotions"));
		table_number(table, number(file, "fault_count"));
		table_duration(table, number(file, "fault_p99_ns"));
		table_number(table, number(file, "errors"));
		if (shares)
			add_share(table, file);
		if (stores)
			add_store(table, file);
		table_text(table, json_is_true(json_object_get(file, "lost"))          ? "lost"
				  : json_is_false(json_object_get(file, "store_here")) ? "no store"
				  : json_is_true(json_object_get(file, "fell_back"))   ? "fell back"
										       : "ok");
	}
	return table_print(table);
}

int ls_run(const struct command *command, int argc, char **argv)
{
	struct listing listing = { .files = json_array() };
	char wanted[PATH_MAX];
	struct args args;
	int rc = args_parse(command, argc, argv, 0, 1, &args);

	if (!rc && args.count) {
		listing.wanted = realpath(args.operands[0], wanted);
		if (!listing.wanted)
			rc = -fail_errno(args.operands[0], "cannot find", errno);
	}
	if (!rc) {
		conn_mounts(ls_mount, &listing);
		if (listing.err && (listing.wanted || !listing.found))
			rc = -fail(listing.wanted ? args.operands[0] : "tierfs mounts", listing.error.what,
				   listing.error.why);
		else if (listing.wanted && !listing.found)
			rc = -fail(args.operands[0], "not in a tierfs mount", "it is of another filesystem");
		else if (args.json)
			return print_json(json_pack("{s:o}", "files", listing.files));
		else
			rc = -print_files(listing.files, args.bytes);
	}
	json_decref(listing.files);
	return rc < 0;
}

/* --- stat ------------------------------------------------------------------------------------------------------- */

/* A value as people read it: the unit is in the key. */
static void format_value(const char *key, const json_t *value, bool bytes, char *buf, size_t cap)
{
	char size[SIZE_TEXT_LEN], duration[TABLE_DURATION_LEN];
	uint64_t integer = (uint64_t)json_integer_value(value);

	if (json_is_string(value))
		snprintf(buf, cap, "%s", json_string_value(value));
	else if (json_is_boolean(value))
		snprintf(buf, cap, "%s", json_is_true(value) ? "yes" : "no");
	else if (ends_with(key, "_bytes") && !bytes)
		snprintf(buf, cap, "%s", size_format(integer, size));
	else if (ends_with(key, "_ns") && !bytes)
		snprintf(buf, cap, "%s", table_format_duration(integer, duration));
	else
		snprintf(buf, cap, "%llu", (unsigned long long)integer);
}

static void add_values(struct table *table, const char *prefix, json_t *object, bool bytes)
{
	char name[64], text[2 * PATH_MAX];
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value) {
		if (json_is_null(value) || (is_share_key(key) && !share_says(key, value)))
			continue;
		if (json_is_object(value)) {
			add_values(table, key, value, bytes);
			continue;
		}
		snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", key);
		format_value(key, value, bytes, text, sizeof(text));
		table_row(table);
		table_text(table, name);
		table_text(table, text);
	}
}

/* Of a mount: where the time of faults goes. */
static int print_stages(json_t *stages, bool bytes)
{
	static const struct table_column columns[] = {
		{ "FAULT STAGE", false }, { "COUNT", true }, { "P50", true },
		{ "P90", true },          { "P99", true },   { NULL, false },
	};
	struct table *table = table_new(columns, bytes);
	const char *stage;
	json_t *figures;

	if (!table)
		return fail("output", "out of memory", NULL);
	json_object_foreach(stages, stage, figures) {
		table_row(table);
		table_text(table, stage);
		table_number(table, number(figures, "count"));
		table_duration(table, number(figures, "p50_ns"));
		table_duration(table, number(figures, "p90_ns"));
		table_duration(table, number(figures, "p99_ns"));
	}
	putchar('\n');
	return table_print(table);
}

/* What goes to the store and comes from it, by what it is for. Of the device it has whole pages. */
static int print_traffic(const char *title, json_t *traffic, bool bytes)
{
	const struct table_column columns[] = {
		{ title, false },   { "READS", true },   { "READ", true },
		{ "WRITES", true }, { "WRITTEN", true }, { NULL, false },
	};
	struct table *table = table_new(columns, bytes);
	const char *use;
	json_t *figures;

	if (!table)
		return fail("output", "out of memory", NULL);
	json_object_foreach(traffic, use, figures) {
		table_row(table);
		table_text(table, use);
		table_number(table, number(figures, "reads"));
		table_size(table, number(figures, "read_bytes"));
		table_number(table, number(figures, "writes"));
		table_size(table, number(figures, "written_bytes"));
	}
	putchar('\n');
	return table_print(table);
}

/* Of a mount with more stores than the pool's own. */
static int print_stores(json_t *stores, bool bytes)
{
	static const struct table_column columns[] = {
		{ "STORE", false }, { "FILES", true },  { "ON DISK", true }, { "READ", true },
		{ "STORED", true }, { "ERRORS", true }, { "STATE", false },  { NULL, false },
	};
	struct table *table = table_new(columns, bytes);
	json_t *store;
	size_t i;

	if (!table)
		return fail("output", "out of memory", NULL);
	json_array_foreach(stores, i, store) {
		table_row(table);
		table_text(table, string(store, "name"));
		if (i)
			table_number(table, number(store, "files"));
		else
			table_text(table, NULL); /* all others */
		table_size(table, number(store, "disk_bytes"));
		table_size(table, number(store, "get_bytes"));
		table_size(table, number(store, "put_bytes"));
		table_number(table, number(store, "errors"));
		table_text(table, !json_is_true(json_object_get(store, "here"))  ? "not here"
				  : json_is_true(json_object_get(store, "full")) ? "full"
										 : "ok");
	}
	putchar('\n');
	return table_print(table);
}

/* Takes it out of the object. */
static json_t *take_out(json_t *object, const char *key)
{
	json_t *value = json_incref(json_object_get(object, key));

	json_object_del(object, key);
	return value;
}

static int print_stat(json_t *object, bool bytes)
{
	static const struct table_column columns[] = { { "FIGURE", false }, { "VALUE", false }, { NULL, false } };
	json_t *stages = take_out(object, "fault_stages"), *traffic = take_out(object, "traffic");
	json_t *device = take_out(json_object_get(object, "store"), "traffic"), *stores = take_out(object, "stores");
	struct table *table = table_new(columns, bytes);
	int rc;

	if (!table)
		return fail("output", "out of memory", NULL);
	add_values(table, "", object, bytes);
	rc = table_print(table);
	if (!rc && stages)
		rc = print_stages(stages, bytes);
	if (!rc && traffic)
		rc = print_traffic("VALUES", traffic, bytes);
	if (!rc && device)
		rc = print_traffic("DEVICE", device, bytes);
	if (!rc && json_array_size(stores) > 1)
		rc = print_stores(stores, bytes);
	json_decref(stages);
	json_decref(stores);
	json_decref(traffic);
	json_decref(device);
	json_decref(object);
	return rc;
}

int stat_run(const struct command *command, int argc, char **argv)
{
	struct args args;
	int rc = args_parse(command, argc, argv, 1, -1, &args);

	for (int i = 0; !rc && i < args.count; i++) {
		struct conn_error error;
		json_t *result;

		if (ask(args.operands[i], "stat", NULL, &result, &error))
			return fail(args.operands[i], error.what, error.why);
		if (i > 0 && !args.json)
			putchar('\n');
		rc = args.json ? -print_json(result) : -print_stat(result, args.bytes);
	}
	return rc < 0;
}

/* --- map -------------------------------------------------------------------------------------------------------- */

static void append_runs(void *arg, json_t *line)
{
	json_array_extend(arg, json_object_get(line, "runs"));
}

static int print_runs(json_t *runs, bool bytes)
{
	static const struct table_column columns[] = {
		{ "OFFSET", true }, { "LENGTH", true },  { "STATE", false }, { "GENERATION", true },
		{ "TIER", true },   { "PINNED", false }, { NULL, false },
	};
	struct table *table = table_new(columns, bytes);
	json_t *run;
	size_t i;

	if (!table)
		return fail("output", "out of memory", NULL);
	json_array_foreach(runs, i, run) {
		bool hole = !strcmp(string(run, "state") ? string(run, "state") : "", "hole");

		table_row(table);
		table_number(table, number(run, "offset"));
		table_size(table, number(run, "length"));
		table_text(table, json_is_true(json_object_get(run, "damaged")) ? "damaged" : string(run, "state"));
		if (hole)
			table_text(table, NULL);
		else
			table_number(table, number(run, "generation"));
		if (hole)
			table_text(table, NULL);
		else
			table_number(table, number(run, "tier"));
		table_text(table, json_is_true(json_object_get(run, "pinned")) ? "yes" : "no");
	}
	return table_print(table);
}

static json_t *range_params(const struct args *args)
{
	json_t *params = json_object();

	json_object_set_new(params, "offset", json_integer((json_int_t)args->offset));
	if (args->length != UINT64_MAX)
		json_object_set_new(params, "length", json_integer((json_int_t)args->length));
	return params;
}

int map_run(const struct command *command, int argc, char **argv)
{
	json_t *runs = json_array(), *result = NULL;
	struct conn *conn = NULL;
	struct conn_error error;
	struct args args;
	int rc = args_parse(command, argc, argv, 1, 1, &args);

	if (!rc && (conn_open(args.operands[0], false, &conn, &error) ||
		    conn_ask(conn, "map", range_params(&args), append_runs, runs, &result, &error)))
		rc = -fail(args.operands[0], error.what, error.why);
	conn_close(conn);
	if (!rc && args.json) {
		json_object_set_new(result, "runs", runs);
		return print_json(result);
	}
	if (!rc)
		rc = -print_runs(runs, args.bytes);
	json_decref(result);
	json_decref(runs);
	return rc < 0;
}
