/* front/arguments.c - see arguments.h. */
#include "front/arguments.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

#define SUCCESSOR "successor"

static void print_help(void)
{
	printf("Usage: tierfs [-f] [-o OPTIONS] POOL MOUNTPOINT\n"
	       "       mount -t tierfs POOL MOUNTPOINT -o OPTIONS\n"
	       "\n"
	       "Mounts the pool of RAM files in the directory POOL (made if it is absent).\n"
	       "\n"
	       "  -f             stay in the foreground, log to standard error\n"
	       "  -s             ignore unknown options, as mount -s\n"
	       "  -o OPTIONS     comma-separated, see below; may be given more than once\n"
	       "  -h, --help     print this and exit\n"
	       "  -V, --version  print the version and exit\n"
	       "\n"
	       "Options (sizes take K, M, G, T):\n");
	options_help(stdout);
}

static bool join_options(char **joined, const char *more)
{
	char *text;

	if (asprintf(&text, "%s,%s", *joined ? *joined : "", more) < 0)
		return false;
	free(*joined);
	*joined = text;
	return true;
}

bool arguments_parse(int argc, char **argv, struct arguments *args, int *ret_status)
{
	static const struct option words[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ SUCCESSOR, no_argument, NULL, 'S' }, /* not for people: the holder's, and our own */
		{ NULL, 0, NULL, 0 },
	};
	int c;

	*ret_status = EXIT_FAILURE;
	options_init(&args->options);
	while ((c = getopt_long(argc, argv, "fsho:V", words, NULL)) != -1) {
		switch (c) {
		case 'f':
			args->start.foreground = true;
			break;
		case 's':
			args->options.sloppy = true;
			break;
		case 'o':
			if (!join_options(&args->option_text, optarg))
				return false;
			break;
		case 'S':
			args->start.successor = true;
			break;
		case 'h':
			print_help();
			*ret_status = EXIT_SUCCESS;
			return false;
		case 'V':
			printf("tierfs %s\n", TIERFS_VERSION);
			*ret_status = EXIT_SUCCESS;
			return false;
		default:
			return false; /* getopt_long() has said it */
		}
	}
	if (argc - optind != 2) {
		log_error("POOL and MOUNTPOINT are needed, and nothing else; see tierfs --help");
		return false;
	}
	args->start.pool_dir = argv[optind];
	args->start.mountpoint = argv[optind + 1];
	if (args->option_text && options_parse(&args->options, args->option_text) < 0)
		return false;
	if (options_finish(&args->options) < 0)
		return false;
	if (geteuid() != 0) {
		log_error("must be run as root: it mounts filesystems and hands out /dev/userfaultfd");
		return false;
	}
	return true;
}

int arguments_note_program(int argc, char **argv, struct arguments *args)
{
	char **copy = calloc((size_t)argc + 2, sizeof(*argv));
	int count = 0;

	args->start.program = realpath("/proc/self/exe", NULL);
	if (!copy || !args->start.program)
		return -errno;
	copy[count++] = argv[0];
	copy[count++] = (char *)"--" SUCCESSOR;
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--" SUCCESSOR) != 0)
			copy[count++] = argv[i];
	args->start.argv = copy;
	return 0;
}
