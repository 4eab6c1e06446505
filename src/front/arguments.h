/* front/arguments.h - the command line of tierfs. Before there are threads. */
#pragma once

#include <stdbool.h>

#include "front/keeper.h"
#include "front/options.h"

struct arguments {
	struct options options;
	char *option_text; /* of all -o together; -s counts wherever it stands */
	struct keeper_config start;
};

/* What a successor is started with. To be called first: arguments_parse() changes the order. 0 or -errno. */
int arguments_note_program(int argc, char **argv, struct arguments *args);
/* False: there is nothing to mount; *ret_status is the exit status, and what was wrong is logged. What args has is the
 * caller's to free, also then. */
bool arguments_parse(int argc, char **argv, struct arguments *args, int *ret_status);
