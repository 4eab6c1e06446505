/* front/control_options.c - get and set of control_ops.h: the mount's options, and shares by control_shares.h. */
#include "front/control_options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "front/control_shares.h"
#include "names/names.h"
#include "policy/tiering.h"

#define VALUE_LEN 512

/* --- what can be set while mounted: a row each ------------------------------------------------------------------- */

struct live {
	const char *name;
	void (*get)(const struct control_config *config, char *buf, size_t cap); /* as it is now, not as it was given */
	int (*set)(const struct control_config *config, const char *text);       /* -errno: no value for it */
};

static void get_dram(const struct control_config *config, char *buf, size_t cap)
{
	struct tiering_figures figures;
	char text[SIZE_EXACT_LEN];

	tiering_figures(config->engine, &figures);
	snprintf(buf, cap, "%s", size_format_exact(figures.dram_bytes + config->warm_bytes, text));
}

static int set_dram(const struct control_config *config, const char *text)
{
	uint64_t bytes;
	int err = size_parse(text, &bytes);

	if (err)
		return err;
	if (config->warm_bytes && bytes / 2 <= config->warm_bytes)
		return -EINVAL;
	return tiering_set_dram(config->engine, bytes - config->warm_bytes);
}

static void get_min_idle(const struct control_config *config, char *buf, size_t cap)
{
	snprintf(buf, cap, "%.9g", (double)engine_min_idle(config->engine) / (double)NS_PER_S);
}

static int set_min_idle(const struct control_config *config, const char *text)
{
	uint64_t ns;
	int err = duration_parse(text, &ns);

	return err ? err : tiering_set_min_idle(config->engine, ns);
}

static const struct live live[] = {
	{ "dram", get_dram, set_dram },
	{ "min_idle", get_min_idle, set_min_idle },
};
#define LIVE_COUNT (sizeof(live) / sizeof(live[0]))

static const struct live *find_live(const char *name)
{
	for (size_t i = 0; i < LIVE_COUNT; i++)
		if (!strcmp(name, live[i].name))
			return &live[i];
	return NULL;
}

/* --- the operations ---------------------------------------------------------------------------------------------- */

static int get_value(const struct control_request *request, const char *name, char *buf, size_t cap)
{
	const struct control_config *config = request->config;
	const struct live *row = find_live(name);

	if (row) {
		row->get(config, buf, cap);
		return 0;
	}
	return config->option ? config->option(config->option_arg, name, buf, cap) : -ENOENT;
}

/* Any file answers for its mount; a directory below the root has shares alone. */
static bool has_options(const struct control_request *request)
{
	struct stat attr;

	return request->ino == NS_ROOT_INO ||
	       (!ns_getattr(request->config->ns, request->ino, &attr) && S_ISREG(attr.st_mode));
}

static json_t *all_options(const struct control_request *request)
{
	const struct control_config *config = request->config;
	json_t *options = json_object();
	char value[VALUE_LEN];
	enum share_id share;
	const char *name;

	for (size_t i = 0; i < LIVE_COUNT; i++)
		if (!get_value(request, live[i].name, value, sizeof(value)))
			json_object_set_new(options, live[i].name, json_string(value));
	for (size_t i = 0; config->option_name && (name = config->option_name(config->option_arg, i)); i++)
		if (!json_object_get(options, name) && share_find(name, &share) &&
		    !get_value(request, name, value, sizeof(value)))
			json_object_set_new(options, name, json_string(value));
	return options;
}

/* What new files get: options that have the name of a share. */
static json_t *new_files(const struct control_request *request)
{
	json_t *object = json_object();
	char value[VALUE_LEN];

	for (unsigned int i = 0; i < SHARE_COUNT; i++) {
		const char *name = share_spec((enum share_id)i)->name;

		if (!get_value(request, name, value, sizeof(value)) && *value)
			json_object_set_new(object, name, json_string(value));
	}
	return object;
}

static int get_all(struct control_request *request, json_t **ret)
{
	json_t *object = json_object();

	if (has_options(request))
		json_object_set_new(object, "options", all_options(request));
	if (request->ino == NS_ROOT_INO)
		json_object_set_new(object, "new_files", new_files(request));
	return control_shares_tell(request, NULL, object, ret);
}

static int refuse_name(struct control_request *request, int err, const char *name)
{
	bool share = strchr(name, '.') && strncmp(name, "store.", 6) != 0;

	return control_request_fail(request, err, "%.64s: no such %s", name, share ? "share" : "option");
}

static int check_has_options(struct control_request *request, const char *name)
{
	if (has_options(request))
		return 0;
	return control_request_fail(request, -EINVAL, "%.64s: a directory has shares, and no options", name);
}

int control_options_get(struct control_request *request, json_t **ret)
{
	const char *name = control_request_string(request, "name");
	enum share_id share;
	char value[VALUE_LEN];
	int err;

	if (!name)
		return get_all(request, ret);
	if (!share_find(name, &share))
		return control_shares_tell(request, &share, json_object(), ret);
	err = get_value(request, name, value, sizeof(value));
	if (err)
		return refuse_name(request, err, name);
	err = check_has_options(request, name);
	if (err)
		return err;
	*ret = json_pack("{s:{s:s}}", "options", name, value);
	return *ret ? 0 : -ENOMEM;
}

static int set_option(struct control_request *request, const char *name, const char *value, json_t **ret)
{
	const struct live *row = find_live(name);
	char unused[VALUE_LEN];
	int err;

	if (!row && !get_value(request, name, unused, sizeof(unused)))
		return control_request_fail(request, -EBUSY, "%.64s: cannot be changed while mounted", name);
	if (!row)
		return refuse_name(request, -ENOENT, name);
	err = check_has_options(request, name);
	if (err)
		return err;
	err = row->set(request->config, value);
	if (err)
		return control_request_fail(request, err, "%.64s: %.64s: not a value it can have", name, value);
	return control_options_get(request, ret);
}

int control_options_set(struct control_request *request, json_t **ret)
{
	const char *name = control_request_string(request, "name");
	const char *value = control_request_string(request, "value");
	json_t *shares = json_object_get(request->params, "shares");

	if (shares ? name || value : !name || !value)
		return control_request_fail(request, -EINVAL,
					    "set needs a name and a value, both strings, or else shares");
	return shares ? control_shares_set(request, shares, ret) : set_option(request, name, value, ret);
}
