/* front/options.h - the mount options: one table (options.def) that parses them, prints the help, and answers "get".
 *
 * The man page tierfs(8) lists the same names; a test compares. Pure, but for the one line that options_parse() logs.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* min_idle where it is not given: if pinned pages can be seen, and if not. */
#define IDLE_SEEN_NS UINT64_C(200000000)
#define IDLE_UNSEEN_NS UINT64_C(30000000000)

enum option_id {
#define OPTION(id, ...) OPTION_##id,
#include "front/options.def"
#undef OPTION
	OPTION_COUNT,
};

enum option_kind {
	OPTION_KIND_SIZE,     /* bytes */
	OPTION_KIND_DURATION, /* nanoseconds */
	OPTION_KIND_NUMBER,
	OPTION_KIND_OCTAL,
	OPTION_KIND_CHOICE, /* index into the words of choices */
	OPTION_KIND_FLAG,   /* no value; 1 if given */
};

enum option_map { OPTION_MAP_AUTO, OPTION_MAP_ATTACHED, OPTION_MAP_PLAIN };

struct option_spec {
	const char *name;
	enum option_kind kind;
	uint64_t fallback; /* value when it is not given */
	uint64_t min, max;
	uint64_t min_if_any; /* less than that, but 0, is refused */
	bool power_of_two;
	bool required;
	bool unset; /* not given it is nothing, not its fallback: an owner that was not given is not 0, which is root */
	const char *const *choices; /* NULL-terminated */
	const char *argument;       /* for the help: "SIZE" */
	const char *help;
};

extern const struct option_spec option_table[OPTION_COUNT];

/* store.NAME=DIR */
#define OPTION_STORES_MAX 15
struct option_store {
	char option[6 + 32]; /* "store.NAME" */
	char dir[PATH_MAX];
};

struct options {
	uint64_t value[OPTION_COUNT];
	bool given[OPTION_COUNT];
	struct option_store store[OPTION_STORES_MAX];
	unsigned int store_count;
	bool sloppy; /* unknown options are ignored, as mount -s asks for */
};

/* Parses "a=1,b" as mount(8) has it; may be called more than once, later ones win. Options that mount(8) and fstab use
 * for themselves are accepted and have no effect; "ro" is refused. -EINVAL: one line that names the option was logged.
 */
void options_init(struct options *options);
int options_parse(struct options *options, const char *text);
/* After all: what is required must be given, what must fit together fits, and defaults that hang on other options are
 * set. */
int options_finish(struct options *options);

/* Value as text, as one would type it. -ENOENT: no such option; -ENOBUFS: cap is too small. */
int options_format(const struct options *options, const char *name, char *buf, size_t cap);
/* The index-th option: those of the table, then the stores that were given. NULL: there are no more. */
const char *options_name(const struct options *options, size_t index);
/* The name of a store that was given. */
const char *options_store_name(const struct option_store *store);
void options_help(FILE *out);
