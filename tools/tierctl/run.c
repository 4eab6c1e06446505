/* run.c - tierctl run: starts a program with the preload library. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tierctl.h"

#define PRELOAD "lib/tierfs/libtierfs-preload.so"

/* bin/tierctl and lib/tierfs/ are neighbours, in an installation and in a build directory alike. */
static int find_preload(char ret[static PATH_MAX])
{
	char exe[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	char *slash;

	if (length < 0)
		return -errno;
	exe[length] = '\0';
	for (int i = 0; i < 2; i++) {
		slash = strrchr(exe, '/');
		if (!slash)
			return -ENOENT;
		*slash = '\0';
	}
	if (snprintf(ret, PATH_MAX, "%s/%s", exe, PRELOAD) >= PATH_MAX)
		return -ENAMETOOLONG;
	return access(ret, R_OK) < 0 ? -errno : 0;
}

/* Where execvp() will find it. */
static int find_program(const char *name, char ret[static PATH_MAX])
{
	const char *path = getenv("PATH");

	if (strchr(name, '/')) {
		snprintf(ret, PATH_MAX, "%s", name);
		return access(ret, X_OK) < 0 ? -errno : 0;
	}
	for (path = path ? path : "/usr/bin:/bin"; *path;) {
		size_t length = strcspn(path, ":");

		snprintf(ret, PATH_MAX, "%.*s/%s", length ? (int)length : 1, length ? path : ".", name);
		if (!access(ret, X_OK))
			return 0;
		path += length + (path[length] == ':');
	}
	return -ENOENT;
}

/* NULL, or why the library cannot be loaded into the program. Anything that is not an ELF file is left to exec. */
static const char *check_elf(int fd)
{
	Elf64_Ehdr head;

	if (pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) || memcmp(head.e_ident, ELFMAG, SELFMAG))
		return NULL;
	if (head.e_ident[EI_CLASS] != ELFCLASS64)
		return "is a 32-bit program: the library cannot be loaded into it";
	for (unsigned int i = 0; i < head.e_phnum; i++) {
		Elf64_Phdr segment;

		if (pread(fd, &segment, sizeof(segment), (off_t)(head.e_phoff + (Elf64_Off)i * head.e_phentsize)) !=
		    (ssize_t)sizeof(segment))
			return NULL;
		if (segment.p_type == PT_INTERP)
			return NULL;
	}
	return "is statically linked: the library cannot be loaded into it";
}

static const char *check_program(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return NULL; /* may be run, not read */
	if (((st.st_mode & S_ISUID) && st.st_uid != geteuid()) || ((st.st_mode & S_ISGID) && st.st_gid != getegid()))
		return "changes its user or group when it starts: the library cannot be loaded into it";
	return check_elf(fd);
}

static int set_preload(const char *library)
{
	const char *old = getenv("LD_PRELOAD");
	char *value = NULL;
	int rc;

	if (strpbrk(library, ": \t\n"))
		return fail(library, "cannot be preloaded", "its path has a space or a colon");
	if (asprintf(&value, "%s%s%s", library, old && *old ? ":" : "", old ? old : "") < 0)
		return fail(library, "out of memory", NULL);
	rc = setenv("LD_PRELOAD", value, 1);
	free(value);
	return rc < 0 ? fail_errno(library, "cannot be preloaded", errno) : 0;
}

int run_run(const struct command *command, int argc, char **argv)
{
	char library[PATH_MAX] = PRELOAD, program[PATH_MAX];
	const char *why;
	int err;

	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		args_help(command);
		return 0;
	}
	argv += argc > 1 && !strcmp(argv[1], "--") ? 2 : 1;
	if (!argv[0])
		return fail(command->name, "a command is missing", "see 'tierctl run --help'");
	err = find_preload(library);
	if (err)
		return fail_errno(library, "the preload library is not there", err);
	err = find_program(argv[0], program);
	if (err)
		return fail_errno(argv[0], "cannot run", err);
	why = check_program(program);
	if (why)
		return fail(argv[0], why, NULL);
	if (set_preload(library))
		return 1;
	execvp(argv[0], argv);
	return fail_errno(argv[0], "cannot run", errno);
}
