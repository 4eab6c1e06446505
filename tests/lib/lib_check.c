#include "lib_check.h"

#include <stdlib.h>

#define EXIT_SKIPPED 77

int check_run(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	int failed;

	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

int check_skip(Suite *suite)
{
	srunner_free(srunner_create(suite));
	return EXIT_SKIPPED;
}
