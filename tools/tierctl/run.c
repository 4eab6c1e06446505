/* run.c - tierctl run: starts a program with the preload library, or without it in a memory cgroup. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cgroup.h"
#include "conn.h"
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

/* What stands in the way of attaching a program's memory. */
struct obstacle {
	const char *what; /* NULL: nothing */
	const char *why;
	bool is_fatal; /* not only with --require */
};

/* Go's compiler leaves a note. */
static bool is_go(int fd, const Elf64_Phdr *segment)
{
	struct {
		Elf64_Nhdr head;
		char name[4];
	} note;

	return segment->p_type == PT_NOTE &&
	       pread(fd, &note, sizeof(note), (off_t)segment->p_offset) == (ssize_t)sizeof(note) &&
	       note.head.n_namesz == sizeof(note.name) && !memcmp(note.name, "Go\0", sizeof(note.name));
}

/* Anything that is not an ELF file is left to exec. */
static struct obstacle check_elf(int fd)
{
	struct obstacle none = {}, go = { "makes its system calls without libc (Go)",
					  "mappings of its own are not attached", false };
	bool is_dynamic = false, found_go = false;
	Elf64_Ehdr head;

	if (pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) || memcmp(head.e_ident, ELFMAG, SELFMAG))
		return none;
	if (head.e_ident[EI_CLASS] != ELFCLASS64)
		return (struct obstacle){ "is a 32-bit program: the library cannot be loaded into it", NULL, true };
	for (unsigned int i = 0; i < head.e_phnum; i++) {
		Elf64_Phdr segment;

		if (pread(fd, &segment, sizeof(segment), (off_t)(head.e_phoff + (Elf64_Off)i * head.e_phentsize)) !=
		    (ssize_t)sizeof(segment))
			return none;
		is_dynamic = is_dynamic || segment.p_type == PT_INTERP;
		found_go = found_go || is_go(fd, &segment);
	}
	if (!is_dynamic)
		return (struct obstacle){ "is statically linked: the library cannot be loaded into it", NULL, true };
	return found_go ? go : none;
}

static struct obstacle check_program(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return (struct obstacle){}; /* may be run, not read */
	if (((st.st_mode & S_ISUID) && st.st_uid != geteuid()) || ((st.st_mode & S_ISGID) && st.st_gid != getegid()))
		return (struct obstacle){
			"changes its user or group when it starts: the library cannot be loaded into it", NULL, true
		};
	/* Root has them all: for it the program is as any other. */
	if (getuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0)
		return (struct obstacle){ "has file capabilities (setcap): the library is not loaded into it",
					  "its mappings are plain", false };
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

static int run_attached(char **argv, bool require)
{
	char library[PATH_MAX] = PRELOAD, program[PATH_MAX];
	struct obstacle obstacle;
	int err = find_preload(library);

	if (err)
		return fail_errno(library, "the preload library is not there", err);
	err = find_program(argv[0], program);
	if (err)
		return fail_errno(argv[0], "cannot run", err);
	obstacle = check_program(program);
	if (obstacle.what && (obstacle.is_fatal || require))
		return fail(argv[0], obstacle.what, NULL);
	if (obstacle.what)
		fail(argv[0], obstacle.what, obstacle.why); /* it is a warning: it runs all the same */
	if (require && setenv("TIERFS_REQUIRE", "1", 1) < 0)
		return fail_errno("TIERFS_REQUIRE", "cannot be set", errno);
	if (set_preload(library))
		return 1;
	execvp(argv[0], argv);
	return fail_errno(argv[0], "cannot run", errno);
}

/* --- plain: in a memory cgroup ------------------------------------------------------------------------------------ */

static int budget_of(const char *mountpoint, uint64_t *ret)
{
	struct conn_error error;
	struct conn *conn;
	json_t *result;
	int err = conn_open(mountpoint, false, &conn, &error);

	if (err)
		return fail(mountpoint, error.what, error.why);
	err = conn_ask(conn, "stat", NULL, NULL, NULL, &result, &error);
	conn_close(conn);
	if (err)
		return fail(mountpoint, error.what, error.why);
	*ret = (uint64_t)json_integer_value(json_object_get(result, "dram_bytes"));
	json_decref(result);
	return *ret ? 0 : fail(mountpoint, "has no budget", "it is not the mount point of a tierfs");
}

static volatile sig_atomic_t running_pid;

static void pass_on(int signal)
{
	int err = errno;

	kill((pid_t)running_pid, signal);
	errno = err;
}

/* A signal that asks us to end is meant for the program; we stay to remove the cgroup. */
static void pass_signals(pid_t pid)
{
	static const int numbers[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 };
	struct sigaction action = { .sa_handler = pass_on, .sa_flags = SA_RESTART };

	running_pid = pid;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaction(numbers[i], &action, NULL);
}

_Noreturn static void become_program(const struct cgroup *cgroup, const sigset_t *mask, char **argv)
{
	int err = cgroup_enter(cgroup);

	sigprocmask(SIG_SETMASK, mask, NULL);
	if (err)
		_exit(fail_errno(cgroup->path, "cannot enter", err));
	execvp(argv[0], argv);
	_exit(fail_errno(argv[0], "cannot run", errno));
}

static int run_in(const struct cgroup *cgroup, char **argv)
{
	sigset_t all, mask;
	int status = 0;
	pid_t pid;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &mask); /* none may come before it can be passed on */
	pid = fork();
	if (pid == 0)
		become_program(cgroup, &mask, argv);
	if (pid > 0)
		pass_signals(pid);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	if (pid < 0)
		return fail_errno(argv[0], "cannot run", errno);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int run_plain(const struct args *args)
{
	uint64_t limit_bytes = args->memory;
	struct cgroup cgroup;
	char what[PATH_MAX];
	int rc, err;

	if (!limit_bytes && !args->mount)
		return fail("run", "how much memory?", "give --memory=SIZE or --mount=MOUNTPOINT");
	if (!limit_bytes && budget_of(args->mount, &limit_bytes))
		return 1;
	err = cgroup_new(limit_bytes, &cgroup, what);
	if (err)
		return fail(what, "cannot limit memory",
			    err == -ENOENT ? "no memory cgroup of this host can be used" : strerror(-err));
	rc = run_in(&cgroup, args->operands);
	err = cgroup_remove(&cgroup);
	if (err)
		fail_errno(cgroup.path, "is left behind", err);
	return rc;
}

int run_run(const struct command *command, int argc, char **argv)
{
	struct args args;
	int rc = args_parse(command, argc, argv, 0, -1, &args);

	if (rc)
		return rc < 0;
	if (!args.count)
		return fail(command->name, "a command is missing", "see 'tierctl run --help'");
	if (!args.plain && (args.memory || args.mount))
		return fail(command->name, "--memory and --mount are for --plain", NULL);
	if (args.plain && args.require)
		return fail(command->name, "--plain and --require exclude each other", NULL);
	return args.plain ? run_plain(&args) : run_attached(args.operands, args.require);
}
