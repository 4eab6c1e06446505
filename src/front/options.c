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

#define KIB UINT64_C(1024)
/* Less is not worth a file. */
#define WARM_MIN (4096 * KIB)
#define ID_MAX (UINT32_MAX - 1) /* the last one means "unchanged" to chown(2) */

static const char *const map_words[] = { "auto", "attached", "plain", NULL };

const struct option_spec option_table[OPTION_COUNT] = {
	[OPTION_DRAM] = {
		.name = "dram", .kind = OPTION_KIND_SIZE, .min = 1024 * KIB, .max = INT64_MAX, .required = true,
		.argument = "SIZE",
		.help = "DRAM that blocks may use, for all files together",
	},
	[OPTION_BLOCK] = {
		.name = "block", .kind = OPTION_KIND_SIZE, .fallback = 16 * KIB, .min = 4 * KIB, .max = 64 * KIB,
		.power_of_two = true, .argument = "SIZE",
		.help = "unit of tiering, 4K to 64K; fixed when the pool is created",
	},
	[OPTION_LEVEL] = {
		.name = "level", .kind = OPTION_KIND_NUMBER, .fallback = 1, .max = 19, .argument = "N",
		.help = "compression: 1 to 19 are levels of zstd, 0 is LZ4, faster and larger; 0 with warm=",
	},
	[OPTION_MAP] = {
		.name = "map", .kind = OPTION_KIND_CHOICE, .fallback = OPTION_MAP_AUTO, .max = OPTION_MAP_PLAIN,
		.choices = map_words, .argument = "auto|attached|plain",
		.help = "how files may be mapped",
	},
	[OPTION_MIN_IDLE] = {
		.name = "min_idle", .kind = OPTION_KIND_DURATION, .min = NS_PER_S / 10,
		.max = 24 * 3600 * NS_PER_S, .argument = "SECONDS",
		.help = "idle time before a mapped block is demoted (default 0.2 where the kernel shows pins, else 30)",
	},
	[OPTION_WARM] = {
		.name = "warm", .kind = OPTION_KIND_SIZE, .max = INT64_MAX, .argument = "SIZE",
		.help = "part of dram for compressed blocks in front of the SSD, 4M to less than half",
	},
	[OPTION_ALLOW_OTHER] = {
		.name = "allow_other", .kind = OPTION_KIND_FLAG, .max = 1,
		.help = "let other users than root in; file modes then decide",
	},
	[OPTION_UID] = {
		.name = "uid", .kind = OPTION_KIND_NUMBER, .max = ID_MAX, .argument = "N",
		.help = "owner of the root directory and of new files, instead of who makes them",
	},
	[OPTION_GID] = {
		.name = "gid", .kind = OPTION_KIND_NUMBER, .max = ID_MAX, .argument = "N",
		.help = "group of the root directory and of new files, instead of that of who makes them",
	},
	[OPTION_MODE] = {
		.name = "mode", .kind = OPTION_KIND_OCTAL, .fallback = 0600, .max = 0777, .argument = "OCTAL",
		.help = "mode of new files, whatever the program asks for",
	},
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
		if (value % KIB == 0 && value < 1000 * KIB)
			snprintf(buf, cap, "%s", size_format(value, size));
		else if (value % (KIB * KIB) == 0)
			snprintf(buf, cap, "%" PRIu64 "M", value / (KIB * KIB));
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
	int rc;

	rc = parse_value(spec, text, &value);
	if (rc == -EINVAL) {
		log_error("option %s=%s: not a value for it; use %s=%s", spec->name, text, spec->name, spec->argument);
		return -EINVAL;
	}
	if (rc < 0 || value < spec->min || value > spec->max) {
		log_out_of_range(spec, text);
		return -EINVAL;
	}
	if (spec->power_of_two && (value & (value - 1)) != 0) {
		log_error("option %s=%s: must be a power of two", spec->name, text);
		return -EINVAL;
	}
	if (id == OPTION_WARM && value != 0 && value < WARM_MIN) {
		log_error("option warm=%s: must be 0, or at least 4M", text);
		return -EINVAL;
	}
	options->value[id] = value;
	options->given[id] = true;
	return 0;
}

static int parse_one(struct options *options, char *text)
{
	char *value = strchr(text, '=');
	size_t name_len = value ? (size_t)(value - text) : strlen(text);

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
	int rc = 0;

	if (!copy)
		return -ENOMEM;
	while (rc == 0 && (word = strsep(&rest, ",")))
		if (*word)
			rc = parse_one(options, word);
	return rc;
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
		/* An owner that was not given is not 0, which is root. */
		if (!options->given[i] && (i == OPTION_UID || i == OPTION_GID))
			text[0] = '\0';
		else
			format_value(&option_table[i], options->value[i], text, sizeof(text));
		if (strlen(text) >= cap)
			return -ENOBUFS;
		memcpy(buf, text, strlen(text) + 1);
		return 0;
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
}
