/* front/control_options.c - get and set of control_ops.h: the mount's options. */
#include "front/control_options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "policy/tiering.h"

#define VALUE_LEN 512

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
		struct tiering_figures figures;

		tiering_figures(config->engine, &figures);
		format_bytes(figures.dram_bytes + config->warm_bytes, buf, cap);
		return 0;
	}
	if (!strcmp(name, "min_idle")) {
		snprintf(buf, cap, "%.9g", (double)engine_min_idle(config->engine) / (double)NS_PER_S);
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

int control_options_get(struct control_request *request, json_t **ret)
{
	const char *name = control_request_string(request, "name");
	char value[VALUE_LEN];
	int err;

	if (!name)
		return get_all(request, ret);
	err = get_value(request, name, value, sizeof(value));
	if (err)
		return control_request_fail(request, err, "%.64s: no such option", name);
	*ret = json_pack("{s:{s:s}}", "options", name, value);
	return *ret ? 0 : -ENOMEM;
}

int control_options_set(struct control_request *request, json_t **ret)
{
	const char *name = control_request_string(request, "name");
	const char *value = control_request_string(request, "value");
	uint64_t warm_bytes = request->config->warm_bytes, number;
	char unused[VALUE_LEN];
	int err;

	if (!name || !value)
		return control_request_fail(request, -EINVAL, "set needs a name and a value, both strings");
	if (!strcmp(name, "dram")) {
		err = size_parse(value, &number);
		if (!err && warm_bytes && number / 2 <= warm_bytes)
			err = -EINVAL;
		if (!err)
			err = tiering_set_dram(request->config->engine, number - warm_bytes);
	} else if (!strcmp(name, "min_idle")) {
		err = duration_parse(value, &number);
		if (!err)
			err = tiering_set_min_idle(request->config->engine, number);
	} else if (!get_value(request, name, unused, sizeof(unused))) {
		return control_request_fail(request, -EBUSY, "%.64s: cannot be changed while mounted", name);
	} else {
		return control_request_fail(request, -ENOENT, "%.64s: no such option", name);
	}
	if (err)
		return control_request_fail(request, err, "%.64s: %.64s: not a value it can have", name, value);
	return control_options_get(request, ret);
}
