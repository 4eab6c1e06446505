/* Runs a fuzz target over the inputs that are kept for it, without libFuzzer: "replay_NAME" reads
 * tests/fuzz/corpus/NAME. The empty input comes first, so that a target without inputs is run too. */
#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define INPUT_MAX_BYTES (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *dir, const char *name)
{
	CLEANUP_FREE uint8_t *data = malloc(INPUT_MAX_BYTES);
	char path[PATH_MAX];
	size_t size;
	FILE *file;

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return -1;
	file = fopen(path, "re");
	if (!data || !file) {
		perror(path);
		return -1;
	}
	size = fread(data, 1, INPUT_MAX_BYTES, file);
	fclose(file);
	printf("%s (%zu bytes)\n", name, size);
	fflush(stdout); /* names the input if the next line ends the program */
	LLVMFuzzerTestOneInput(data, size);
	return 0;
}

int main(int argc, char **argv)
{
	const char *source = getenv("TIERFS_SRC"), *name = strrchr(argv[0], '/');
	struct dirent *entry;
	char path[PATH_MAX / 2];
	int failed = 0;
	DIR *dir;

	(void)argc;
	name = name ? name + 1 : argv[0];
	if (!strncmp(name, "replay_", strlen("replay_")))
		name += strlen("replay_");
	LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
	snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/%s", source ? source : ".", name);
	dir = opendir(path);
	if (!dir)
		return 0;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && replay_file(path, entry->d_name))
			failed = 1;
	closedir(dir);
	return failed;
}
