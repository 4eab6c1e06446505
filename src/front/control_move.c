/* front/control_move.c - demote, promote, clone, pin, get and set of control_ops.h. */
#include "front/control_ops.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "engine/clone.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/load.h"
#include "engine/ramfile.h"
#include "names/names.h"
#include "policy/demand.h"
#include "policy/tier.h"

#define PROGRESS_NS (200 * NS_PER_MS)
#define VALUE_LEN 512

/* --- moving blocks ---------------------------------------------------------------------------------------------- */

struct piece {
	struct ramfile *file;
	uint64_t offset, length;
};

static int open_piece(struct control_request *request, struct piece *ret)
{
	uint64_t size;
	int err;

	err = control_ops_number(request, "offset", 0, &ret->offset);
	if (!err)
		err = control_ops_number(request, "length", UINT64_MAX, &ret->length);
	if (!err)
		err = ns_open(request->config->ns, request->ino, &ret->file);
	if (err)
		return err;
	size = file_size(ret->file);
	if (ret->offset > size)
		ret->offset = size;
	if (ret->length > size - ret->offset)
		ret->length = size - ret->offset;
	return 0;
}

static bool progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
	struct control_request *request = arg;
	uint64_t now_ns = clock_ns();

	if (!control_ops_wanted(request))
		return false;
	if (now_ns - request->progress_ns < PROGRESS_NS)
		return true;
	request->progress_ns = now_ns;
	return !control_line_write(request->line,
				   json_pack("{s:{s:I, s:I}}", "progress", "done_bytes", (json_int_t)done_bytes,
					     "total_bytes", (json_int_t)total_bytes));
}

typedef int move_fn(struct ramfile *file, uint64_t offset, uint64_t len, file_progress_fn *fn, void *arg,
		    struct file_moved *ret);

static int move(struct control_request *request, move_fn *fn, json_t **ret)
{
	struct file_moved moved = {};
	struct piece piece;
	int err = open_piece(request, &piece);

	if (err)
		return err;
	request->progress_ns = clock_ns();
	err = fn(piece.file, piece.offset, piece.length, progress, request, &moved);
	ns_put(request->config->ns, request->ino);
	if (err)
		return err;
	if (!control_ops_wanted(request))
		return -ECANCELED;
	*ret = json_pack("{s:I, s:I}", "moved_bytes", (json_int_t)moved.moved_bytes, "skipped_bytes",
			 (json_int_t)moved.skipped_bytes);
	return *ret ? 0 : -ENOMEM;
}

int control_move_demote(struct control_request *request, json_t **ret)
{
	return move(request, demand_demote, ret);
}

int control_move_promote(struct control_request *request, json_t **ret)
{
	return move(request, load_promote, ret);
}

static int explain_clone(struct control_request *request, int err)
{
	switch (err) {
	case -EINVAL:
		return control_ops_fail(request, err, "a file cannot be a clone of itself");
	case -ENOTEMPTY:
		return control_ops_fail(request, err, "the new file is not empty");
	case -EISDIR:
		return control_ops_fail(request, err, "the new file is not a RAM file");
	case -EIO:
		return control_ops_fail(request, err, "the file is lost or damaged, or the store failed");
	case -EBUSY:
		return control_ops_fail(request, err,
					"a process that maps the file is not back after a restart; try again");
	case -EREMOTE:
		return control_ops_fail(request, err, "some of its content is still on another host");
	default:
		return err;
	}
}

/* The token "into" is that of an empty RAM file, open for writing. */
int control_move_clone(struct control_request *request, json_t **ret)
{
	struct ramfile_cloned cloned;
	uint64_t into;
	int err = control_ops_token(request, "into", TIERFS_RIGHT_WRITE, &into);

	if (err)
		return err;
	request->progress_ns = clock_ns();
	err = ns_clone(request->config->ns, request->ino, into, progress, request, &cloned);
	if (err)
		return explain_clone(request, err);
	*ret = json_pack("{s:I, s:I, s:I}", "size_bytes", (json_int_t)cloned.size_bytes, "stored_bytes",
			 (json_int_t)cloned.stored_bytes, "shared_bytes", (json_int_t)cloned.shared_bytes);
	return *ret ? 0 : -ENOMEM;
}

int control_move_pin(struct control_request *request, json_t **ret)
{
	json_t *on = json_object_get(request->params, "on");
	struct ramfile_figures figures;
	struct piece piece;
	int err;

	if (on && !json_is_boolean(on))
		return control_ops_fail(request, -EINVAL, "on: neither true nor false");
	err = open_piece(request, &piece);
	if (err)
		return err;
	err = ramfile_pin(piece.file, piece.offset, piece.length, !json_is_false(on));
	ramfile_figures(piece.file, &figures);
	ns_put(request->config->ns, request->ino);
	if (err)
		return err;
	*ret = json_pack("{s:I}", "pinned_bytes", (json_int_t)figures.pinned_bytes);
	return *ret ? 0 : -ENOMEM;
}

/* --- options ---------------------------------------------------------------------------------------------------- */

static void format_bytes(uint64_t bytes, char *buf, size_t cap)
{
	char text[SIZE_TEXT_LEN];
	uint64_t back;

	/* The short form where it is exact. */
	if (!size_parse(size_format(bytes, text), &back) && back == bytes)
		snprintf(buf, cap, "%s", text);
	else
		snprintf(buf, cap, "%llu", (unsigned long long)bytes);
}

static int get_value(const struct control_request *request, const char *name, char *buf, size_t cap)
{
	const struct control_config *config = request->config;

	if (!strcmp(name, "dram")) {
		struct tier_figures figures;

		tier_figures(config->tier, &figures);
		format_bytes(figures.dram_bytes + config->warm_bytes, buf, cap);
		return 0;
	}
	if (!strcmp(name, "min_idle")) {
		snprintf(buf, cap, "%.9g", (double)tier_min_idle(config->tier) / (double)NS_PER_S);
		return 0;
	}
	return config->option ? config->option(config->option_arg, name, buf, cap) : -ENOENT;
}

static int get_all(const struct control_request *request, json_t **ret)
{
	static const char *const own[] = { "dram", "min_idle" };
	const struct control_config *config = request->config;
	json_t *options = json_object();
	char value[VALUE_LEN];
	const char *name;

	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (!get_value(request, own[i], value, sizeof(value)))
			json_object_set_new(options, own[i], json_string(value));
	for (size_t i = 0; config->option_name && (name = config->option_name(config->option_arg, i)); i++)
		if (!json_object_get(options, name) && !get_value(request, name, value, sizeof(value)))
			json_object_set_new(options, name, json_string(value));
	*ret = json_pack("{s:o}", "options", options);
	return *ret ? 0 : -ENOMEM;
}

int control_move_get(struct control_request *request, json_t **ret)
{
	const char *name = control_ops_string(request, "name");
	char value[VALUE_LEN];
	int err;

	if (!name)
		return get_all(request, ret);
	err = get_value(request, name, value, sizeof(value));
	if (err)
		return control_ops_fail(request, err, "%.64s: no such option", name);
	*ret = json_pack("{s:{s:s}}", "options", name, value);
	return *ret ? 0 : -ENOMEM;
}

int control_move_set(struct control_request *request, json_t **ret)
{
	const char *name = control_ops_string(request, "name");
	const char *value = control_ops_string(request, "value");
	uint64_t warm_bytes = request->config->warm_bytes, number;
	char unused[VALUE_LEN];
	int err;

	if (!name || !value)
		return control_ops_fail(request, -EINVAL, "set needs a name and a value, both strings");
	if (!strcmp(name, "dram")) {
		err = size_parse(value, &number);
		if (!err && warm_bytes && number / 2 <= warm_bytes)
			err = -EINVAL;
		if (!err)
			err = tier_set_dram(request->config->tier, number - warm_bytes);
	} else if (!strcmp(name, "min_idle")) {
		err = duration_parse(value, &number);
		if (!err)
			err = tier_set_min_idle(request->config->tier, number);
	} else if (!get_value(request, name, unused, sizeof(unused))) {
		return control_ops_fail(request, -EBUSY, "%.64s: cannot be changed while mounted", name);
	} else {
		return control_ops_fail(request, -ENOENT, "%.64s: no such option", name);
	}
	if (err)
		return control_ops_fail(request, err, "%.64s: %.64s: not a value it can have", name, value);
	return control_move_get(request, ret);
}
