/* main.c - the table of subcommands, and dispatch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tierctl.h"

const struct command commands[] = {
#define COMMAND(name, ...) { #name, name##_run, __VA_ARGS__ },
#include "commands.def"
#undef COMMAND
	{ NULL, NULL, NULL, 0, NULL },
};

static int help(void)
{
	printf("Usage: tierctl COMMAND [OPTION...] [ARGUMENT...]\n\n"
	       "Looks at and moves the memory of virtual machines in tierfs mounts.\n\nCommands:\n");
	for (const struct command *command = commands; command->name; command++) {
		const char *dot = strchr(command->help, '.');

		printf("  %-8s %.*s\n", command->name, (int)(dot ? dot - command->help : 0), command->help);
	}
	printf("\n'tierctl COMMAND --help' says more; so does tierctl(1).\n");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return fail(NULL, "a command is missing", "'tierctl --help' lists them");
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
		return help();
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("tierctl %s\n", TIERFS_VERSION);
		return 0;
	}
	for (const struct command *command = commands; command->name; command++)
		if (!strcmp(command->name, argv[1]))
			return command->run(command, argc - 1, argv + 1);
	return fail(argv[1], "no such command", "'tierctl --help' lists them");
}
