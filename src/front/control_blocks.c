/* front/control_blocks.c - demote, promote, clone and pin of control_ops.h. */
#include "front/control_blocks.h"

#include <errno.h>

#include "base/clock.h"
#include "base/size.h"
#include "engine/interrupt.h"
#include "engine/clone.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/load.h"
#include "engine/ramfile.h"
#include "names/names.h"
#include "names/shares.h"
#include "policy/demand.h"

#define PROGRESS_NS (200 * NS_PER_MS)

struct piece {
	struct ramfile *file;
	uint64_t offset, length;
};

static int open_piece(struct control_request *request, struct piece *ret)
{
	uint64_t size;
	int err;

	err = control_request_number(request, "offset", 0, &ret->offset);
	if (!err)
		err = control_request_number(request, "length", UINT64_MAX, &ret->length);
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

	if (!control_request_wanted(request))
		return false;
	if (now_ns - request->progress_ns < PROGRESS_NS)
		return true;
	request->progress_ns = now_ns;
	return !control_line_write(request->line,
				   json_pack("{s:{s:I, s:I}}", "progress", "done_bytes", (json_int_t)done_bytes,
					     "total_bytes", (json_int_t)total_bytes));
}

typedef int range_fn(struct ramfile *file, uint64_t offset, uint64_t len, file_progress_fn *fn, void *arg,
		     struct file_done *ret);

static bool is_gone(void *arg)
{
	return !control_request_wanted(arg);
}

static int on_range(struct control_request *request, range_fn *fn, json_t **ret)
{
	struct file_done done = {};
	struct piece piece;
	int err = open_piece(request, &piece);

	if (err)
		return err;
	request->progress_ns = clock_ns();
	interrupt_on(is_gone, request); /* also while it waits for a limit */
	err = fn(piece.file, piece.offset, piece.length, progress, request, &done);
	interrupt_on(NULL, NULL);
	ns_put(request->config->ns, request->ino);
	if (err)
		return err;
	if (!control_request_wanted(request))
		return -ECANCELED;
	*ret = json_pack("{s:I, s:I}", "moved_bytes", (json_int_t)done.done_bytes, "skipped_bytes",
			 (json_int_t)done.skipped_bytes);
	return *ret ? 0 : -ENOMEM;
}

int control_blocks_demote(struct control_request *request, json_t **ret)
{
	return on_range(request, demand_demote, ret);
}

int control_blocks_promote(struct control_request *request, json_t **ret)
{
	return on_range(request, load_promote, ret);
}

/* What may still be stored of it. */
static const char *left_text(struct control_request *request, uint64_t ino, char buf[static SIZE_TEXT_LEN])
{
	struct quota_figures figures;

	if (shares_usage(request->config->ns, ino, &figures) || figures.stored_left_bytes == UINT64_MAX)
		return "any number of bytes";
	return size_format(figures.stored_left_bytes, buf);
}

static int explain_clone(struct control_request *request, uint64_t into, int err)
{
	char left[2][SIZE_TEXT_LEN];

	switch (err) {
	case -EINVAL:
		return control_request_fail(request, err, "a file cannot be a clone of itself");
	case -ENOTEMPTY:
		return control_request_fail(request, err, "the new file is not empty");
	case -EISDIR:
		return control_request_fail(request, err, "the new file is not a RAM file");
	case -EIO:
		return control_request_fail(request, err, "the file is lost or damaged, or the store failed");
	case -EBUSY:
		return control_request_fail(request, err,
					    "a process that maps the file is not back after a restart; try again");
	case -EREMOTE:
		return control_request_fail(request, err, "some of its content is still on another host");
	case -EFBIG:
		return control_request_fail(request, err, "it is larger than file_max of the mount allows a new file");
	case -EDQUOT:
		return control_request_fail(request, err,
					    "disk.max: left are %s for the new file, %s for this one; or the uid_space "
					    "of its owner is used up",
					    left_text(request, into, left[0]),
					    left_text(request, request->ino, left[1]));
	default:
		return err;
	}
}

/* The token "into" is that of an empty RAM file, open for writing. */
int control_blocks_clone(struct control_request *request, json_t **ret)
{
	struct ramfile_cloned cloned;
	uint64_t into;
	int err = control_request_token(request, "into", TIERFS_RIGHT_WRITE, &into);

	if (err)
		return err;
	request->progress_ns = clock_ns();
	interrupt_on(is_gone, request);
	err = ns_clone(request->config->ns, request->ino, into, progress, request, &cloned);
	interrupt_on(NULL, NULL);
	if (err)
		return explain_clone(request, into, err);
	*ret = json_pack("{s:I, s:I, s:I}", "size_bytes", (json_int_t)cloned.size_bytes, "stored_bytes",
			 (json_int_t)cloned.stored_bytes, "shared_bytes", (json_int_t)cloned.shared_bytes);
	return *ret ? 0 : -ENOMEM;
}

int control_blocks_pin(struct control_request *request, json_t **ret)
{
	json_t *on = json_object_get(request->params, "on");
	struct ramfile_figures figures;
	struct piece piece;
	int err;

	if (on && !json_is_boolean(on))
		return control_request_fail(request, -EINVAL, "on: neither true nor false");
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
