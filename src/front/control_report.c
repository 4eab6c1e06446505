/* front/control_report.c - stat, ls and map of control_ops.h. */
#include "front/control_report.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cold/stores.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/hist.h"
#include "engine/ramfile.h"
#include "engine/stages.h"
#include "front/control_shares.h"
#include "front/figures.h"
#include "names/names.h"
#include "policy/tiering.h"

/* A map is asked for in pieces of this many bytes, so that its runs need bounded memory however large the file is. */
#define MAP_PIECE_BYTES (UINT64_C(1) << 30)
#define RUNS_A_LINE 256

static const char *mapping_name(const struct ramfile_figures *figures)
{
	if (figures->mappers)
		return "attached";
	return figures->cached_opens ? "plain" : "none";
}

/* A name as JSON, which is UTF-8, while a file name may be any bytes: those that are not text become question marks. */
static json_t *path_string(const char *path)
{
	json_t *string = json_string(path);
	char *text;

	if (string || !(text = strdup(path)))
		return string;
	for (char *c = text; *c; c++)
		if (*c & 0x80)
			*c = '?';
	string = json_string(text);
	free(text);
	return string;
}

/* What is told as mappers: of a file that is mapped plain, the opens. */
static struct ramfile_figures shown(const struct ramfile_figures *figures)
{
	struct ramfile_figures copy = *figures;

	if (!copy.mappers)
		copy.mappers = copy.cached_opens;
	return copy;
}

#define BEFORE_MAPPING 2 /* figures, in the order of the format document */

/* An object for each use of the store. */
static json_t *traffic_object(const struct store_traffic *traffic)
{
	json_t *object = json_object();

	for (int use = 0; use < STORE_USES; use++)
		json_object_set_new(object, store_use_name((enum store_use)use),
				    json_pack("{s:I, s:I, s:I, s:I}", "reads", (json_int_t)traffic[use].reads,
					      "read_bytes", (json_int_t)traffic[use].read_bytes, "writes",
					      (json_int_t)traffic[use].writes, "written_bytes",
					      (json_int_t)traffic[use].written_bytes));
	return object;
}

/* The keys of one RAM file or of a sum, in the order of the format document. NULL: no memory. */
static json_t *figures_object(const char *path, const struct ramfile_figures *figures)
{
	json_t *object = json_pack("{s:o}", "path", path_string(path));
	struct ramfile_figures values = shown(figures);

	if (!object)
		return NULL;
	figures_json(&figures_of_file, &values, 0, BEFORE_MAPPING, object);
	json_object_set_new(object, "mapping", json_string(mapping_name(figures)));
	figures_json(&figures_of_file, &values, BEFORE_MAPPING, SIZE_MAX, object);
	json_object_set_new(object, "traffic", traffic_object(figures->traffic));
	return object;
}

/* --- lists of files --------------------------------------------------------------------------------------------- */

/* What ls and the sums need of each file, copied out so that no lock of the namespace is held while files are opened.
 */
struct entry {
	uint64_t ino;
	char *path;
	struct stat attr;
	bool lost, fell_back;
	unsigned int opens;
};

struct listing {
	struct entry *entries;
	size_t count, cap;
	uid_t uid; /* 0: everybody's */
};

static void free_listing(struct listing *listing)
{
	for (size_t i = 0; i < listing->count; i++)
		free(listing->entries[i].path);
	free(listing->entries);
}

static int collect(void *arg, const struct ns_file *file)
{
	struct listing *listing = arg;
	char *path;

	if (listing->uid != 0 && file->attr.st_uid != listing->uid)
		return 0;
	if (listing->count == listing->cap) {
		size_t cap = listing->cap ? listing->cap * 2 : 64;
		struct entry *entries = reallocarray(listing->entries, cap, sizeof(*entries));

		if (!entries)
			return -ENOMEM;
		listing->entries = entries;
		listing->cap = cap;
	}
	path = strdup(file->path);
	if (!path)
		return -ENOMEM;
	listing->entries[listing->count++] = (struct entry){ file->ino,       path,       file->attr, file->lost,
							     file->fell_back, file->opens };
	return 0;
}

/* A file whose store is not here is loaded as one that is lost, and is none. */
static void set_not_lost(const struct control_request *request, uint64_t ino, struct ramfile_figures *figures)
{
	struct stores_where where = { .here = true };

	if (figures->lost && request->config->store)
		stores_where(request->config->store, ino, &where);
	figures->lost &= where.here;
}

static int file_figures(const struct control_request *request, uint64_t ino, struct ramfile_figures *ret)
{
	struct ramfile *file;
	int err = ns_open(request->config->ns, ino, &file);

	if (err)
		return err;
	ramfile_figures(file, ret);
	ret->shared_bytes = ramfile_shared_bytes(file);
	ns_put(request->config->ns, ino);
	set_not_lost(request, ino, ret);
	return 0;
}

static json_t *entry_object(const struct control_request *request, const struct entry *entry)
{
	struct ramfile_figures figures = { .size_bytes = (uint64_t)entry->attr.st_size };
	json_t *object;
	int err = file_figures(request, entry->ino, &figures);

	if (err == -ENOENT)
		return NULL; /* removed since it was listed */
	object = figures_object(entry->path, &figures);
	json_object_set_new(object, "ino", json_integer((json_int_t)entry->ino));
	json_object_set_new(object, "uid", json_integer((json_int_t)entry->attr.st_uid));
	json_object_set_new(object, "gid", json_integer((json_int_t)entry->attr.st_gid));
	json_object_set_new(object, "mode", json_integer((json_int_t)(entry->attr.st_mode & 07777)));
	json_object_set_new(object, "opens", json_integer((json_int_t)entry->opens));
	json_object_set_new(object, "lost", json_boolean(entry->lost || figures.lost));
	json_object_set_new(object, "fell_back", json_boolean(entry->fell_back));
	control_shares_figures(request, entry->ino, object);
	json_object_set_new(object, "loaded", json_boolean(!err));
	return object;
}

int control_report_ls(struct control_request *request, json_t **ret)
{
	struct listing listing = { .uid = request->uid };
	json_t *files = json_array();
	int err = ns_files(request->config->ns, collect, &listing);

	for (size_t i = 0; !err && i < listing.count; i++) {
		json_t *object;

		if (!control_request_wanted(request))
			err = -ECANCELED;
		else if ((object = entry_object(request, &listing.entries[i])))
			json_array_append_new(files, object);
	}
	free_listing(&listing);
	if (err) {
		json_decref(files);
		return err;
	}
	*ret = json_pack("{s:o, s:o}", "mountpoint", path_string(request->config->mountpoint), "files", files);
	return *ret ? 0 : -ENOMEM;
}

/* --- stat ------------------------------------------------------------------------------------------------------- */

static json_t *store_object(struct store *store)
{
	json_t *object = json_object();
	struct store_figures figures = { 0 };

	if (!store)
		return object;
	store->ops->figures(store, &figures);
	figures_json(&figures_of_store, &figures, 0, SIZE_MAX, object);
	json_object_set_new(object, "traffic", traffic_object(figures.traffic));
	return object;
}

/* An object for each store of the pool. */
static json_t *stores_array(struct store *store)
{
	json_t *array = json_array();

	for (unsigned int i = 0; store && i < stores_count(store); i++) {
		json_t *object = json_pack("{s:s, s:b, s:I}", "name", stores_name(store, i), "here",
					   (int)stores_here(store, i), "files", (json_int_t)stores_files(store, i));
		struct store_figures figures;

		stores_figures(store, i, &figures);
		figures_json(&figures_of_store, &figures, 0, SIZE_MAX, object);
		json_object_set_new(object, "traffic", traffic_object(figures.traffic));
		json_array_append_new(array, object);
	}
	return array;
}

static json_t *stages_object(struct stages *stages)
{
	json_t *object = json_object();

	for (unsigned int i = 0; i < STAGES; i++) {
		struct hist *hist = &stages->hist[i];

		json_object_set_new(object, stage_name((enum stage)i),
				    json_pack("{s:I, s:I, s:I, s:I}", "count", (json_int_t)atomic_load(&hist->count),
					      "p50_ns", (json_int_t)hist_percentile(hist, 50), "p90_ns",
					      (json_int_t)hist_percentile(hist, 90), "p99_ns",
					      (json_int_t)hist_percentile(hist, 99)));
	}
	return object;
}

static int mount_object(const struct control_request *request, const struct ramfile_figures *sum,
			struct figures_mount *figures, json_t **ret)
{
	const struct control_config *config = request->config;
	const struct door_counts *counts = config->counts;
	json_t *object = figures_object(config->mountpoint, sum);

	if (!object)
		return -ENOMEM;
	tiering_figures(config->engine, &figures->engine);
	figures->min_idle_ns = engine_min_idle(config->engine);
	if (counts) {
		figures->fill_bytes = atomic_load(&counts->fill_bytes);
		figures->refused_fills = atomic_load(&counts->refused_fills);
		figures->write_back_bytes = atomic_load(&counts->write_back_bytes);
	}
	figures_json(&figures_of_mount, figures, 0, SIZE_MAX, object);
	json_object_set_new(object, "pool", path_string(config->pool));
	json_object_set_new(object, "store", store_object(config->store));
	json_object_set_new(object, "stores", stores_array(config->store));
	json_object_set_new(object, "fault_stages", stages_object(engine_stages(config->engine)));
	*ret = object;
	return 0;
}

/* The sums are over all files, whoever asks: they say nothing about any one of them. */
static int stat_mount(struct control_request *request, json_t **ret)
{
	struct ramfile_figures sum = { .block_bytes = engine_block_bytes(request->config->engine) };
	struct listing listing = {};
	struct figures_mount mount = { .files = 0 };
	int err = ns_files(request->config->ns, collect, &listing);

	for (size_t i = 0; !err && i < listing.count; i++) {
		struct ramfile_figures figures;

		mount.lost_files += listing.entries[i].lost;
		mount.fell_back_files += listing.entries[i].fell_back;
		if (!file_figures(request, listing.entries[i].ino, &figures)) {
			figures = shown(&figures);
			figures_add(&figures_of_file, &sum, &figures);
			for (int use = 0; use < STORE_USES; use++)
				store_traffic_add(&sum.traffic[use], &figures.traffic[use]);
		}
		if (!control_request_wanted(request))
			err = -ECANCELED;
	}
	mount.files = listing.count;
	if (!err)
		err = mount_object(request, &sum, &mount, ret);
	free_listing(&listing);
	return err;
}

static void full_path(const struct control_request *request, char *buf, size_t cap)
{
	char path[PATH_MAX] = "";

	if (ns_path(request->config->ns, request->ino, path, sizeof(path)) < 0)
		snprintf(path, sizeof(path), "(unlinked)");
	snprintf(buf, cap, "%s%s", path[0] == '/' ? request->config->mountpoint : "", path);
}

struct fell_back {
	uint64_t ino;
	bool yes;
};

static int see_fell_back(void *arg, const struct ns_file *file)
{
	struct fell_back *fell_back = arg;

	fell_back->yes |= file->ino == fell_back->ino && file->fell_back;
	return 0;
}

int control_report_stat(struct control_request *request, json_t **ret)
{
	struct ramfile_figures figures;
	struct fell_back fell_back = { .ino = request->ino };
	char path[2 * PATH_MAX];
	json_t *object;
	int err;

	if (request->ino == NS_ROOT_INO)
		return stat_mount(request, ret);
	err = file_figures(request, request->ino, &figures);
	if (!err)
		err = ns_files(request->config->ns, see_fell_back, &fell_back);
	if (err)
		return err;
	full_path(request, path, sizeof(path));
	object = figures_object(path, &figures);
	if (!object)
		return -ENOMEM;
	json_object_set_new(object, "ino", json_integer((json_int_t)request->ino));
	json_object_set_new(object, "lost", json_boolean(figures.lost));
	json_object_set_new(object, "fell_back", json_boolean(fell_back.yes));
	control_shares_figures(request, request->ino, object);
	*ret = object;
	return 0;
}

/* --- map -------------------------------------------------------------------------------------------------------- */

struct runs {
	struct ramfile_run *run;
	size_t count, cap;
};

static const char *run_state_name(enum ramfile_run_state state)
{
	switch (state) {
	case RAMFILE_RUN_HOLE:
		return "hole";
	case RAMFILE_RUN_COLD:
		return "cold";
	case RAMFILE_RUN_RESIDENT:
		return "resident";
	}
	return "?";
}

static bool continues(const struct ramfile_run *a, const struct ramfile_run *b)
{
	return a->offset + a->length == b->offset && a->state == b->state && a->generation == b->generation &&
	       a->tier == b->tier && a->pinned == b->pinned && a->damaged == b->damaged && a->away == b->away;
}

static int collect_run(void *arg, const struct ramfile_run *run)
{
	struct runs *runs = arg;

	if (runs->count && continues(&runs->run[runs->count - 1], run)) {
		runs->run[runs->count - 1].length += run->length;
		return 0;
	}
	if (runs->count == runs->cap) {
		size_t cap = runs->cap ? runs->cap * 2 : 1024;
		struct ramfile_run *grown = reallocarray(runs->run, cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		runs->run = grown;
		runs->cap = cap;
	}
	runs->run[runs->count++] = *run;
	return 0;
}

static json_t *run_object(const struct ramfile_run *run)
{
	return json_pack("{s:I, s:I, s:s, s:i, s:i, s:b, s:b, s:b}", "offset", (json_int_t)run->offset, "length",
			 (json_int_t)run->length, "state", run_state_name(run->state), "generation",
			 (int)run->generation, "tier", (int)run->tier, "pinned", (int)run->pinned, "damaged",
			 (int)run->damaged, "away", (int)run->away);
}

/* Sends all runs but the last keep ones, which may go on in the next piece. */
static int send_runs(struct control_request *request, struct runs *runs, size_t keep, uint64_t *sent)
{
	size_t end = runs->count > keep ? runs->count - keep : 0;
	int err;

	for (size_t i = 0; i < end; i += RUNS_A_LINE) {
		json_t *array = json_array();

		for (size_t j = i; j < end && j < i + RUNS_A_LINE; j++)
			json_array_append_new(array, run_object(&runs->run[j]));
		err = control_line_write(request->line, json_pack("{s:o}", "runs", array));
		if (err)
			return err;
	}
	*sent += end;
	memmove(runs->run, runs->run + end, (runs->count - end) * sizeof(*runs->run));
	runs->count -= end;
	return 0;
}

static int map_file(struct control_request *request, struct ramfile *file, uint64_t offset, uint64_t end,
		    uint64_t *sent)
{
	struct runs runs = {};
	int err = 0;

	while (!err && offset < end) {
		uint64_t length = end - offset < MAP_PIECE_BYTES ? end - offset : MAP_PIECE_BYTES;

		err = control_request_wanted(request) ? ramfile_map(file, offset, length, collect_run, &runs)
						      : -ECANCELED;
		offset += length;
		if (!err && runs.count)
			err = send_runs(request, &runs, 1, sent);
	}
	if (!err && runs.count)
		err = send_runs(request, &runs, 0, sent);
	free(runs.run);
	return err;
}

int control_report_map(struct control_request *request, json_t **ret)
{
	uint64_t offset, length, size, sent = 0;
	char path[2 * PATH_MAX];
	struct ramfile *file;
	int err;

	err = control_request_number(request, "offset", 0, &offset);
	if (!err)
		err = control_request_number(request, "length", UINT64_MAX, &length);
	if (!err)
		err = ns_open(request->config->ns, request->ino, &file);
	if (err)
		return err;
	size = file_size(file);
	if (offset > size)
		offset = size;
	if (length > size - offset)
		length = size - offset;
	err = map_file(request, file, offset, offset + length, &sent);
	ns_put(request->config->ns, request->ino);
	if (err)
		return err;
	full_path(request, path, sizeof(path));
	*ret = json_pack("{s:o, s:I, s:I, s:I}", "path", path_string(path), "size_bytes", (json_int_t)size,
			 "block_bytes", (json_int_t)engine_block_bytes(request->config->engine), "run_count",
			 (json_int_t)sent);
	return *ret ? 0 : -ENOMEM;
}
