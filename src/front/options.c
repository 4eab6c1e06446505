/* front/options.c - see options.h. */
#include "front/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "cold/stores.h"

#define OPTION_KIB UINT64_C(1024)
#define OPTION_MIB (1024 * OPTION_KIB)
#define OPTION_TIB (1024 * 1024 * OPTION_MIB)
#define OPTION_ID_MAX (UINT32_MAX - 1) /* the last one means "unchanged" to chown(2) */

const struct option_spec option_table[OPTION_COUNT] = {
#define OPTION(id, ...) [OPTION_##id] = { __VA_ARGS__ },
#include "front/options.def"
#undef OPTION
};

/* What mount(8), fstab(5) and systemd put among the options of every filesystem. The mount is nosuid,nodev,noexec and
 * keeps no access times whatever they say. */
static const char *const generic_words[] = {
	"rw",          "defaults",      "auto",     "noauto",     "nofail",   "_netdev",    "user",     "nouser",
	"users",       "owner",         "group",    "dev",        "nodev",    "suid",       "nosuid",   "exec",
	"noexec",      "sync",          "async",    "dirsync",    "atime",    "noatime",    "relatime", "norelatime",
	"strictatime", "nostrictatime", "diratime", "nodiratime", "lazytime", "nolazytime", "iversion", "noiversion",
	"mand",        "nomand",        "loud",     "silent",     "private",  "shared",     "slave",    NULL,
};

static bool is_generic(const char *text)
{
	for (size_t i = 0; generic_words[i]; i++)
		if (strcmp(text, generic_words[i]) == 0)
			return true;
	return strncmp(text, "x-", 2) == 0 || strncmp(text, "X-", 2) == 0 || strncmp(text, "comment=", 8) == 0;
}

void options_init(struct options *options)
{
	memset(options, 0, sizeof(*options));
	for (size_t i = 0; i < OPTION_COUNT; i++)
		options->value[i] = option_table[i].fallback;
}

/* ---- parsing ---- */

static int parse_number(const char *text, int base, uint64_t *ret)
{
	char *end;
	unsigned long long value;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, base);
	if (errno)
		return -errno;
	if (*end != '\0')
		return -EINVAL;
	*ret = value;
	return 0;
}

static int parse_choice(const struct option_spec *spec, const char *text, uint64_t *ret)
{
	for (size_t i = 0; spec->choices[i]; i++) {
		if (strcmp(text, spec->choices[i]) == 0) {
			*ret = i;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_value(const struct option_spec *spec, const char *text, uint64_t *ret)
{
	switch (spec->kind) {
	case OPTION_KIND_SIZE:
		return size_parse(text, ret);
	case OPTION_KIND_DURATION:
		return duration_parse(text, ret);
	case OPTION_KIND_NUMBER:
		return parse_number(text, 10, ret);
	case OPTION_KIND_OCTAL:
		return parse_number(text, 8, ret);
	case OPTION_KIND_CHOICE:
		return parse_choice(spec, text, ret);
	case OPTION_KIND_FLAG:
		break;
	}
	return -EINVAL;
}

static void format_value(const struct option_spec *spec, uint64_t value, char *buf, size_t cap)
{
	char size[SIZE_TEXT_LEN];

	switch (spec->kind) {
	case OPTION_KIND_SIZE:
		/* Exact where rounding would change it. */
		if (value % OPTION_KIB == 0 && value < 1000 * OPTION_KIB)
			snprintf(buf, cap, "%s", size_format(value, size));
		else if (value && value % OPTION_TIB == 0)
			snprintf(buf, cap, "%" PRIu64 "T", value / OPTION_TIB);
		else if (value % OPTION_MIB == 0)
			snprintf(buf, cap, "%" PRIu64 "M", value / OPTION_MIB);
		else
			snprintf(buf, cap, "%" PRIu64, value);
		return;
	case OPTION_KIND_DURATION:
		snprintf(buf, cap, "%g", (double)value / (double)NS_PER_S);
		return;
	case OPTION_KIND_NUMBER:
	case OPTION_KIND_FLAG:
		snprintf(buf, cap, "%" PRIu64, value);
		return;
	case OPTION_KIND_OCTAL:
		snprintf(buf, cap, "%04" PRIo64, value);
		return;
	case OPTION_KIND_CHOICE:
		snprintf(buf, cap, "%s", spec->choices[value]);
		return;
	}
}

static void log_out_of_range(const struct option_spec *spec, const char *text)
{
	char min[32], max[32];

	format_value(spec, spec->min, min, sizeof(min));
	format_value(spec, spec->max, max, sizeof(max));
	if (spec->max == INT64_MAX)
		log_error("option %s=%s: must be at least %s", spec->name, text, min);
	else
		log_error("option %s=%s: must be %s to %s", spec->name, text, min, max);
}

static int set_value(struct options *options, enum option_id id, const char *text)
{
	const struct option_spec *spec = &option_table[id];
	uint64_t value = 0;
	char min[32];
	int err;

	err = parse_value(spec, text, &value);
	if (err == -EINVAL) {
		log_error("option %s=%s: not a value for it; use %s=%s", spec->name, text, spec->name, spec->argument);
		return -EINVAL;
	}
	if (err < 0 || value < spec->min || value > spec->max) {
		log_out_of_range(spec, text);
		return -EINVAL;
	}
	if (spec->power_of_two && (value & (value - 1)) != 0) {
		log_error("option %s=%s: must be a power of two", spec->name, text);
		return -EINVAL;
	}
	if (value != 0 && value < spec->min_if_any) {
		format_value(spec, spec->min_if_any, min, sizeof(min));
		log_error("option %s=%s: must be 0, or at least %s", spec->name, text, min);
		return -EINVAL;
	}
	options->value[id] = value;
	options->given[id] = true;
	return 0;
}

/* ---- stores ---- */

#define STORE_PREFIX "store."
#define STORE_PREFIX_LEN (sizeof(STORE_PREFIX) - 1)

const char *options_store_name(const struct option_store *store)
{
	return store->option + STORE_PREFIX_LEN;
}

static const char *why_no_store(const char *name, const char *dir)
{
	if (!dir || !*dir)
		return "needs a value, store.NAME=DIR";
	if (!stores_name_valid(name))
		return "a store has a name of 1 to 31 of a-z, 0-9, _ and -";
	if (!strcmp(name, STORES_DEFAULT))
		return "is the pool's own store, in its directory";
	if (*dir != '/')
		return "the directory must be named from / on";
	return strlen(dir) >= PATH_MAX ? "the name of the directory is too long" : NULL;
}

static int parse_store(struct options *options, const char *text, char *value)
{
	struct option_store *store = NULL;
	const char *why;

	if (value)
		*value++ = '\0';
	why = why_no_store(text + STORE_PREFIX_LEN, value);
	for (unsigned int i = 0; !why && i < options->store_count; i++)
		if (!strcmp(options->store[i].option, text))
			store = &options->store[i];
	if (!why && !store && options->store_count == OPTION_STORES_MAX)
		why = "a pool has no more than 15 stores beside its own";
	if (why) {
		log_error("option %s: %s", text, why);
		return -EINVAL;
	}
	if (!store)
		store = &options->store[options->store_count++];
	snprintf(store->option, sizeof(store->option), "%s", text);
	snprintf(store->dir, sizeof(store->dir), "%s", value);
	return 0;
}

const char *options_name(const struct options *options, size_t index)
{
	if (index < OPTION_COUNT)
		return option_table[index].name;
	index -= OPTION_COUNT;
	return index < options->store_count ? options->store[index].option : NULL;
}

/* ---- all ---- */

static int parse_one(struct options *options, char *text)
{
	char *value = strchr(text, '=');
	size_t name_len = value ? (size_t)(value - text) : strlen(text);

	if (!strncmp(text, STORE_PREFIX, STORE_PREFIX_LEN))
		return parse_store(options, text, value);
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		const struct option_spec *spec = &option_table[i];

		if (strlen(spec->name) != name_len || strncmp(text, spec->name, name_len) != 0)
			continue;
		if (spec->kind != OPTION_KIND_FLAG) {
			if (value)
				return set_value(options, i, value + 1);
			log_error("option %s: needs a value, %s=%s", text, spec->name, spec->argument);
			return -EINVAL;
		}
		if (value) {
			log_error("option %s: takes no value", text);
			return -EINVAL;
		}
		options->value[i] = 1;
		options->given[i] = true;
		return 0;
	}
	if (is_generic(text) || (options->sloppy && strcmp(text, "ro") != 0))
		return 0;
	if (strcmp(text, "ro") == 0)
		log_error("option ro: guest memory cannot be mounted read-only");
	else
		log_error("option %s: unknown", text);
	return -EINVAL;
}

int options_parse(struct options *options, const char *text)
{
	CLEANUP_FREE char *copy = strdup(text);
	char *rest = copy, *word;
	int err = 0;

	if (!copy)
		return -ENOMEM;
	while (!err && (word = strsep(&rest, ",")))
		if (*word)
			err = parse_one(options, word);
	return err;
}

int options_finish(struct options *options)
{
	char warm[32], dram[32];

	for (size_t i = 0; i < OPTION_COUNT; i++) {
		const struct option_spec *spec = &option_table[i];

		if (!spec->required || options->given[i])
			continue;
		log_error("option %s=%s: is required (-o %s=%s)", spec->name, spec->argument, spec->name,
			  spec->argument);
		return -EINVAL;
	}
	if (options->value[OPTION_WARM] && options->value[OPTION_WARM] >= options->value[OPTION_DRAM] / 2) {
		format_value(&option_table[OPTION_WARM], options->value[OPTION_WARM], warm, sizeof(warm));
		format_value(&option_table[OPTION_DRAM], options->value[OPTION_DRAM], dram, sizeof(dram));
		log_error("option warm=%s: must be less than half of dram=%s, which it is a part of", warm, dram);
		return -EINVAL;
	}
	if (options->value[OPTION_WARM] &&
	    options->value[OPTION_WARM] / (options->store_count + 1) < option_table[OPTION_WARM].min_if_any) {
		format_value(&option_table[OPTION_WARM], options->value[OPTION_WARM], warm, sizeof(warm));
		log_error("option warm=%s: must be at least 4M for each of the %u stores", warm,
			  options->store_count + 1);
		return -EINVAL;
	}
	/* Warm values are there to be read back soon, and for that a codec counts by its speed. */
	if (options->value[OPTION_WARM] && !options->given[OPTION_LEVEL])
		options->value[OPTION_LEVEL] = 0;
	return 0;
}

/* ---- printing ---- */

int options_format(const struct options *options, const char *name, char *buf, size_t cap)
{
	char text[64];

	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if (strcmp(option_table[i].name, name) != 0)
			continue;
		if (!options->given[i] && option_table[i].unset)
			text[0] = '\0';
		else
			format_value(&option_table[i], options->value[i], text, sizeof(text));
		if (strlen(text) >= cap)
			return -ENOBUFS;
		memcpy(buf, text, strlen(text) + 1);
		return 0;
	}
	for (unsigned int i = 0; i < options->store_count; i++) {
		if (strcmp(options->store[i].option, name) != 0)
			continue;
		return snprintf(buf, cap, "%s", options->store[i].dir) < (int)cap ? 0 : -ENOBUFS;
	}
	return -ENOENT;
}

void options_help(FILE *out)
{
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		const struct option_spec *spec = &option_table[i];
		char left[48], fallback[32];

		snprintf(left, sizeof(left), "%s%s%s", spec->name, spec->argument ? "=" : "",
			 spec->argument ? spec->argument : "");
		fprintf(out, "  %-24s %s", left, spec->help);
		if (spec->required) {
			fprintf(out, " (required)");
		} else if (spec->fallback) {
			format_value(spec, spec->fallback, fallback, sizeof(fallback));
			fprintf(out, " (default %s)", fallback);
		}
		fputc('\n', out);
	}
	fprintf(out, "  %-24s %s\n", STORE_PREFIX "NAME=DIR",
		"one more store for what is cold, on another device; repeatable");
}
