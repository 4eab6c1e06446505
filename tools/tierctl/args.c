/* args.c - options of the subcommands, their help, and the one line that an error is. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "tierctl.h"

#define DEPTH_DEFAULT 16
#define DEPTH_MAX 256
#define PACE_DEFAULT 10
#define SAMPLE_MAX 3600
#define DOWNTIME_DEFAULT_NS (300 * NS_PER_MS)

struct option_text {
	unsigned int bit; /* 0: everywhere */
	const char *name;
	const char *argument; /* NULL: takes none */
	char letter;
	const char *help;
};

static const struct option_text option_texts[] = {
	{ ARGS_JSON, "json", NULL, 'j', "print JSON" },
	{ ARGS_BYTES, "bytes", NULL, 'b', "print sizes in bytes" },
	{ ARGS_RANGE, "offset", "SIZE", 'o', "begin at this offset in the file (default 0)" },
	{ ARGS_RANGE, "length", "SIZE", 'l', "this much of the file (default: to its end)" },
	{ ARGS_OFF, "off", NULL, 'u', "undo: let the blocks go" },
	{ ARGS_DEPTH, "depth", "N", 'd', "requests of 1 MiB in flight, 1 to 256 (default 16)" },
	{ ARGS_COMPARE, "compare", NULL, 'k', "read resident blocks and say which changed since they were stored" },
	{ ARGS_PACE, "rate", "N", 'R', "promotions a second that are acceptable (default 10)" },
	{ ARGS_PACE, "sample", "SECONDS", 'S', "count promotions for so long, and compare" },
	{ ARGS_COMMAND, "plain", NULL, 'p', "without the library, in a memory cgroup" },
	{ ARGS_COMMAND, "require", NULL, 'E', "refuse what would not be tiered, and say why" },
	{ ARGS_COMMAND, "memory", "SIZE", 'm', "limit of the cgroup" },
	{ ARGS_COMMAND, "mount", "PATH", 'M', "the limit is the budget of this mount" },
	{ ARGS_SEND, "all", NULL, 'a', "cold and resident blocks (this is the default)" },
	{ ARGS_SEND, "cold", NULL, 'c', "cold blocks alone" },
	{ ARGS_SEND, "since", "LIST", 's', "only what differs from this list (see tierctl stamp)" },
	{ ARGS_SEND, "live", NULL, 'i', "of a running machine: in rounds, then pause it" },
	{ ARGS_SEND, "pause", "COMMAND", 'P', "pauses the machine before the last round" },
	{ ARGS_LIVE, "downtime", "TIME", 'D', "the last round shall fit into it (default 300ms)" },
	{ ARGS_LIVE, "post-copy", NULL, 'y', "cold blocks last: when they are needed there, and else one by one" },
	{ ARGS_SEND | ARGS_RECV, "resume", NULL, 'e', "go on with cold blocks that come last, after a break" },
	{ ARGS_SEND | ARGS_MIGRATE, "via", "COMMAND", 'v', "send to this command, which runs recv --answer" },
	{ ARGS_CHANNEL, "connect", "HOST:PORT", 'C', "over TCP (in the clear)" },
	{ ARGS_CHANNEL, "listen", "HOST:PORT", 'L', "over TCP: wait for the other side" },
	{ ARGS_CHANNEL, "rate", "SIZE", 'r', "at most so many bytes a second" },
	{ ARGS_MIGRATE, "qmp", "SOCKET", 'q', "QMP of the machine that moves" },
	{ ARGS_MIGRATE, "target-qmp", "SOCKET", 'Q', "QMP of the one that waits (-incoming defer)" },
	{ ARGS_MIGRATE, "uri", "URI", 'U', "for the state of devices, as QEMU's migrate has it" },
	{ ARGS_MIGRATE, "dry-run", NULL, 'n', "predict bytes and downtime; move nothing" },
	{ ARGS_RECV, "answer", NULL, 'A', "answer on standard output (for send --via)" },
	{ ARGS_RECV, "in-place", NULL, 'I', "into FILE itself, which is there and may be mapped" },
	{ 0, "help", NULL, 'h', "print this" },
};

#define OPTION_COUNT (sizeof(option_texts) / sizeof(option_texts[0]))

int fail(const char *path, const char *what, const char *why)
{
	fflush(stdout);
	fprintf(stderr, "tierctl: %s%s%s%s%s\n", path ? path : "", path && what ? ": " : "", what ? what : "",
		why && (path || what) ? ": " : "", why ? why : "");
	return 1;
}

int fail_errno(const char *path, const char *what, int err)
{
	return fail(path, what, strerror(err < 0 ? -err : err));
}

int print_json(json_t *value)
{
	int err = value ? json_dumpf(value, stdout, JSON_INDENT(2)) : -1;

	json_decref(value);
	putchar('\n');
	if (err || fflush(stdout))
		return fail("output", "cannot print JSON", err ? NULL : strerror(errno));
	return 0;
}

void args_help(const struct command *command)
{
	printf("Usage: tierctl %s%s %s\n\n%s\n\nOptions:\n", command->name, command->options ? " [OPTION...]" : "",
	       command->operands, command->help);
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		const struct option_text *text = &option_texts[i];
		char name[32];

		if (text->bit && !(command->options & text->bit))
			continue;
		snprintf(name, sizeof(name), "%s%s%s", text->name, text->argument ? "=" : "",
			 text->argument ? text->argument : "");
		printf("  -%c, --%-14s %s\n", text->letter, name, text->help);
	}
}

/* The tables that getopt wants, of what this command takes. */
static void build_getopt(const struct command *command, struct option *long_options, char *letters)
{
	if (command->options & ARGS_COMMAND)
		*letters++ = '+'; /* what follows the first operand is not ours */
	*letters++ = ':';         /* we print the errors */
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		const struct option_text *text = &option_texts[i];

		if (text->bit && !(command->options & text->bit))
			continue;
		*long_options++ = (struct option){ text->name, text->argument ? required_argument : no_argument, NULL,
						   text->letter };
		*letters++ = text->letter;
		if (text->argument)
			*letters++ = ':';
	}
	*letters = '\0';
	*long_options = (struct option){};
}

static int parse_depth(const char *text, unsigned int *ret)
{
	char *end;
	unsigned long depth;

	errno = 0;
	depth = strtoul(text, &end, 10);
	if (errno || *end || end == text || depth < 1 || depth > DEPTH_MAX)
		return -EINVAL;
	*ret = (unsigned int)depth;
	return 0;
}

/* Options that take no value or a string: true if it was one of them. */
static bool take_simple(int letter, const char *argument, struct args *args)
{
	const struct {
		char letter;
		bool *flag;
		const char **text;
	} simple[] = {
		{ 'j', &args->json, NULL },    { 'b', &args->bytes, NULL },      { 'u', &args->off, NULL },
		{ 'p', &args->plain, NULL },   { 'M', NULL, &args->mount },      { 'a', &args->all, NULL },
		{ 'c', &args->cold, NULL },    { 's', NULL, &args->since },      { 'i', &args->live, NULL },
		{ 'P', NULL, &args->pause },   { 'v', NULL, &args->via },        { 'C', NULL, &args->connect },
		{ 'L', NULL, &args->listen },  { 'A', &args->answer, NULL },     { 'I', &args->in_place, NULL },
		{ 'q', NULL, &args->qmp },     { 'Q', NULL, &args->target_qmp }, { 'U', NULL, &args->uri },
		{ 'n', &args->dry_run, NULL }, { 'k', &args->compare, NULL },    { 'y', &args->post_copy, NULL },
		{ 'e', &args->resume, NULL },  { 'E', &args->require, NULL },
	};

	for (size_t i = 0; i < sizeof(simple) / sizeof(simple[0]); i++) {
		if (simple[i].letter != letter)
			continue;
		if (simple[i].flag)
			*simple[i].flag = true;
		else
			*simple[i].text = argument;
		return true;
	}
	return false;
}

static int parse_pace(const char *text, double *ret)
{
	char *end;
	double pace = strtod(text, &end);

	if (*end || end == text || !(pace >= 0 && pace <= 1e12))
		return -EINVAL;
	*ret = pace;
	return 0;
}

static int parse_seconds(const char *text, unsigned int *ret)
{
	char *end;
	unsigned long seconds = strtoul(text, &end, 10);

	if (*end || end == text || seconds < 1 || seconds > SAMPLE_MAX)
		return -EINVAL;
	*ret = (unsigned int)seconds;
	return 0;
}

static const char *what_is_wrong(int letter)
{
	switch (letter) {
	case 'd':
		return "not a depth";
	case 'D':
		return "not a time";
	case 'R':
		return "not a rate";
	case 'S':
		return "not a number of seconds";
	default:
		return "not a size";
	}
}

/* 0, 1 (help), -1 (printed). */
static int take_option(const struct command *command, int letter, const char *argument, struct args *args)
{
	int err = 0;

	if (take_simple(letter, argument, args))
		return 0;
	switch (letter) {
	case 'h':
		args_help(command);
		return 1;
	case 'o':
		args->has_range = true;
		err = size_parse(argument, &args->offset);
		break;
	case 'l':
		args->has_range = true;
		err = size_parse(argument, &args->length);
		break;
	case 'm':
		err = size_parse(argument, &args->memory);
		break;
	case 'd':
		err = parse_depth(argument, &args->depth);
		break;
	case 'r':
		err = size_parse(argument, &args->rate);
		break;
	case 'R':
		err = parse_pace(argument, &args->pace);
		break;
	case 'S':
		err = parse_seconds(argument, &args->sample);
		break;
	case 'D':
		err = duration_parse(argument, &args->downtime_ns);
		break;
	}
	if (!err)
		return 0;
	fail(argument, what_is_wrong(letter), NULL);
	return -1;
}

int args_parse(const struct command *command, int argc, char **argv, int min, int max, struct args *ret)
{
	struct option long_options[OPTION_COUNT + 1];
	char letters[2 * OPTION_COUNT + 3];
	int letter, rc;

	*ret = (struct args){
		.length = UINT64_MAX, .depth = DEPTH_DEFAULT, .pace = PACE_DEFAULT, .downtime_ns = DOWNTIME_DEFAULT_NS
	};
	build_getopt(command, long_options, letters);
	opterr = 0;
	while ((letter = getopt_long(argc, argv, letters, long_options, NULL)) != -1) {
		if (letter == '?' || letter == ':') {
			fail(argv[optind - 1], letter == ':' ? "the option needs a value" : "unknown option",
			     "see 'tierctl COMMAND --help'");
			return -1;
		}
		rc = take_option(command, letter, optarg, ret);
		if (rc)
			return rc;
	}
	ret->operands = argv + optind;
	ret->count = argc - optind;
	if (ret->count < min || (max >= 0 && ret->count > max)) {
		fail(command->name, ret->count < min ? "an argument is missing" : "too many arguments",
		     "see 'tierctl COMMAND --help'");
		return -1;
	}
	return 0;
}
