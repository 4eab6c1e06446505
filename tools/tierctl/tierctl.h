/* tierctl.h - the subcommands, and what all of them share: arguments, errors, output.
 *
 * A subcommand returns the exit status: 0, or 1 after exactly one line on stderr, "tierctl: PATH: what: why".
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

/* Options that a subcommand takes: bits of struct command.options. The help text comes from the same table (args.c). */
enum args_option {
	ARGS_JSON = 1 << 0,
	ARGS_BYTES = 1 << 1,
	ARGS_RANGE = 1 << 2, /* --offset and --length */
	ARGS_OFF = 1 << 3,
	ARGS_DEPTH = 1 << 4,
	ARGS_COMMAND =
		1 << 5, /* operands are a command with options of its own; --require, --plain, --memory and --mount */
	ARGS_COMPARE = 1 << 6,
	ARGS_PACE = 1 << 7,     /* --rate in promotions, --sample */
	ARGS_CHANNEL = 1 << 10, /* --listen, --connect, --rate */
	ARGS_SEND = 1 << 11,
	ARGS_RECV = 1 << 12,
	ARGS_LIVE = 1 << 13, /* --downtime, --post-copy */
	ARGS_MIGRATE = 1 << 14,
};

struct args {
	bool json, bytes, off, compare;
	double pace;         /* promotions a second */
	unsigned int sample; /* seconds; 0: no sample */
	bool has_range;
	uint64_t offset, length; /* length UINT64_MAX: to the end */
	unsigned int depth;
	bool plain, require;
	uint64_t memory;                                    /* bytes; 0: not given */
	const char *mount;                                  /* NULL: not given */
	const char *listen, *connect, *via, *since, *pause; /* NULL: not given */
	bool cold, all, live, answer, in_place, post_copy, resume;
	const char *qmp, *target_qmp, *uri; /* NULL: not given */
	bool dry_run;
	uint64_t rate, downtime_ns;
	char **operands;
	int count;
};

struct command {
	const char *name;
	int (*run)(const struct command *command, int argc, char **argv);
	const char *operands; /* for the usage line */
	unsigned int options;
	const char *help;
};

extern const struct command commands[]; /* ends with name NULL */

/* 0: go on. 1: done (help was printed), exit with 0. -1: an error was printed, exit with 1. */
int args_parse(const struct command *command, int argc, char **argv, int min, int max, struct args *ret);
void args_help(const struct command *command);

/* Prints the one line; returns 1. what or why may be NULL. */
int fail(const char *path, const char *what, const char *why);
/* The same with an errno value, of either sign. */
int fail_errno(const char *path, const char *what, int err);

/* Prints and frees. 0 or 1. */
int print_json(json_t *value);

#define COMMAND(name, ...) int name##_run(const struct command *command, int argc, char **argv);
#include "commands.def"
#undef COMMAND
