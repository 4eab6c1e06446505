/* lib/lib_check.h - the end of main() of a Check program. Both take the suite over. */
#pragma once

#include <check.h>

/* Runs all tests, as loud as CK_VERBOSITY says. Returns the program's exit status. */
int check_run(Suite *suite);
/* A suite that cannot run here. Returns the status that says skipped. */
int check_skip(Suite *suite);
