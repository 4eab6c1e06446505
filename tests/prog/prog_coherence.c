/* prog_coherence - every way to write a RAM file against every way to read or copy it.
 *
 *	prog_coherence matrix DIR SCRATCH [WRITER [READER]]    prints "WRITER READER RESULT" for each cell
 *	prog_coherence writers                                 prints their names
 *	prog_coherence agent                                   a process that maps files, for the matrix
 *
 * DIR is in a mount, SCRATCH on another file system. For each cell a fresh file of holes is read, written with 1, read,
 * demoted, read, and written with 2 where it is cold, and read: by the same two ways, so that whatever a read leaves in
 * a cache meets the next write. What was written is the middle half of the file. RESULT is "right", as a tmpfs would
 * have it each time; the names of errors, if each read was right or failed with one of these; or "WRONG" with what was
 * read, and when.
 *
 * A writer is WAY@WHO: who else has the file mapped meanwhile and has touched all of it.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "prog.h"

#define SIZE (512U << 10)
#define FIRST (SIZE / 4)
#define LENGTH (SIZE / 2)
#define PATH_BYTES 4096
#define LINE_BYTES (PATH_BYTES + 64)

#ifndef SEEK_DATA
#define SEEK_DATA 3
#define SEEK_HOLE 4
#endif

enum { UNSET = -1 };

static char file[PATH_BYTES], other[PATH_BYTES], copy[PATH_BYTES], input[PATH_BYTES];
static const char *self;
static uint8_t *buffer; /* of SIZE */

/* --- a process that maps ---------------------------------------------------------------------------------------- */

static void agent_map(const char *path, uint8_t **ret)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	*ret = fd < 0 ? MAP_FAILED : mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
}

/* One value for the middle, zeros around it: the value; else -1. */
static int value_of(const volatile uint8_t *memory)
{
	int value = memory[FIRST];

	for (size_t i = 0; i < SIZE; i++)
		if (memory[i] != (i >= FIRST && i < FIRST + LENGTH ? value : 0))
			return UNSET;
	return value;
}

/* "map PATH", "unmap", "store VALUE", "load": a line each, answered by a line. */
static int agent(void)
{
	char line[LINE_BYTES], path[PATH_BYTES];
	uint8_t *memory = MAP_FAILED;
	int value;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "map %4095s", path) == 1) {
			agent_map(path, &memory);
			puts(memory == MAP_FAILED ? strerrorname_np(errno) : "ok");
		} else if (sscanf(line, "store %d", &value) == 1) {
			memset(memory + FIRST, value, LENGTH);
			puts("ok");
		} else if (strncmp(line, "load", 4) == 0) {
			printf("%d\n", value_of(memory));
		} else {
			munmap(memory, SIZE);
			puts("ok");
		}
	}
	return PROG_OK;
}

struct agent {
	const char *name;
	bool attached;
	pid_t pid;
	FILE *to, *from;
};

static struct agent agents[] = {
	{ .name = "plain" },
	{ .name = "plain2" },
	{ .name = "attached", .attached = true },
	{ .name = "attached2", .attached = true },
};
enum { PLAIN, PLAIN2, ATTACHED, ATTACHED2, NOBODY };

static void agent_start(struct agent *agent)
{
	int to[2], from[2];

	if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
		prog_die("pipe: %s", strerror(errno));
	agent->pid = fork();
	if (agent->pid == 0) {
		dup2(to[0], STDIN_FILENO);
		dup2(from[1], STDOUT_FILENO);
		if (agent->attached)
			execlp("tierctl", "tierctl", "run", "--", self, "agent", NULL);
		else
			execl(self, self, "agent", NULL);
		_exit(PROG_FAILED);
	}
	close(to[0]);
	close(from[1]);
	agent->to = fdopen(to[1], "w");
	agent->from = fdopen(from[0], "r");
}

static int agent_ask(struct agent *agent, const char *command, const char *argument)
{
	char line[LINE_BYTES];

	if (!agent->pid)
		agent_start(agent);
	fprintf(agent->to, "%s %s\n", command, argument);
	fflush(agent->to);
	if (!fgets(line, sizeof(line), agent->from))
		prog_die("the process %s has ended", agent->name);
	if (strcmp(line, "ok\n") == 0)
		return 0;
	if (line[0] >= 'A' && line[0] <= 'Z')
		prog_die("%s: %s: %s", agent->name, command, line);
	return atoi(line);
}

static void agent_store(struct agent *agent, int value)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", value);
	agent_ask(agent, "store", text);
}

/* --- small things ----------------------------------------------------------------------------------------------- */

static int run(const char *format, ...)
{
	char command[4 * PATH_BYTES];
	va_list ap;
	int status;

	va_start(ap, format);
	vsnprintf(command, sizeof(command), format, ap);
	va_end(ap);
	fflush(stdout);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void must_run(const char *command, int status)
{
	if (status)
		prog_die("%s: exit %d", command, status);
}

static int open_file(int flags)
{
	int fd = open(file, flags | O_CLOEXEC);

	if (fd < 0)
		prog_die("%s: %s", file, strerror(errno));
	return fd;
}

static int value_of_path(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), value = UNSET;

	if (fd >= 0 && read(fd, buffer, SIZE) == SIZE)
		value = value_of(buffer);
	if (fd >= 0)
		close(fd);
	return value;
}

static sigjmp_buf on_bus;

static void bus(int number)
{
	(void)number;
	siglongjmp(on_bus, 1);
}

/* -EFAULT: a page cannot be had. */
static int value_of_mapping(const uint8_t *memory)
{
	struct sigaction action = { .sa_handler = bus }, before;
	int value = -EFAULT;

	sigaction(SIGBUS, &action, &before);
	if (sigsetjmp(on_bus, 1) == 0)
		value = value_of(memory);
	sigaction(SIGBUS, &before, NULL);
	return value;
}

/* --- who writes ------------------------------------------------------------------------------------------------- */

static int mapped_by; /* the agent that has the file mapped */

static void write_mapped(int value)
{
	agent_store(&agents[mapped_by], value);
}

/* By another process than the one that a reader asks. */
static void write_second(int value)
{
	agent_store(&agents[mapped_by + 1], value);
}

static void write_flags(int value, int flags)
{
	int fd = open_file(O_RDWR | flags);

	memset(buffer, value, LENGTH);
	if (pwrite(fd, buffer, LENGTH, FIRST) != LENGTH)
		prog_die("write: %s", strerror(errno));
	close(fd);
}

static void write_call(int value)
{
	write_flags(value, 0);
}

static void write_direct(int value)
{
	write_flags(value, O_DIRECT);
}

static void make_input(const char *path, int value)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	memset(buffer, value, LENGTH);
	if (fd < 0 || ftruncate(fd, SIZE) < 0 || pwrite(fd, buffer, LENGTH, FIRST) != LENGTH)
		prog_die("%s: %s", path, strerror(errno));
	close(fd);
}

static void write_received(int value)
{
	make_input(other, value);
	must_run("send and recv",
		 run("tierctl send '%s' 2>/dev/null | tierctl recv --in-place '%s' >/dev/null", other, file));
}

static void write_copied(int value)
{
	int from, to = open_file(O_RDWR);

	make_input(other, value);
	from = open(other, O_RDONLY | O_CLOEXEC);
	for (loff_t in = FIRST, out = FIRST; in < FIRST + LENGTH;)
		if (copy_file_range(from, &in, to, &out, (size_t)(FIRST + LENGTH - in), 0) <= 0)
			prog_die("copy_file_range: %s", strerror(errno));
	close(from);
	close(to);
}

static void write_cloned(int value)
{
	make_input(other, value);
	unlink(file);
	must_run("clone", run("tierctl clone '%s' '%s' >/dev/null", other, file));
}

static void write_spliced(int value)
{
	int pipes[2], to = open_file(O_RDWR);
	loff_t at = FIRST;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		prog_die("pipe: %s", strerror(errno));
	memset(buffer, value, 4 * PROG_PAGE);
	while (at < FIRST + LENGTH)
		if (write(pipes[1], buffer, 4 * PROG_PAGE) < 0 ||
		    splice(pipes[0], NULL, to, &at, 4 * PROG_PAGE, 0) != 4 * (ssize_t)PROG_PAGE)
			prog_die("splice: %s", strerror(errno));
	close(pipes[0]);
	close(pipes[1]);
	close(to);
}

static const struct writer {
	const char *name;
	void (*write)(int value);
	int mapped_by;
	bool second; /* another process maps the file, too */
	bool fresh;  /* each write makes a new file */
} writers[] = {
	{ "mapping@plain", write_mapped, PLAIN, false, false },
	{ "mapping2@plain", write_second, PLAIN, true, false },
	{ "mapping@attached", write_mapped, ATTACHED, false, false },
	{ "mapping2@attached", write_second, ATTACHED, true, false },
	{ "write@nobody", write_call, NOBODY, false, false },
	{ "write@plain", write_call, PLAIN, false, false },
	{ "write@attached", write_call, ATTACHED, false, false },
	{ "direct@nobody", write_direct, NOBODY, false, false },
	{ "direct@plain", write_direct, PLAIN, false, false },
	{ "direct@attached", write_direct, ATTACHED, false, false },
	{ "splice@nobody", write_spliced, NOBODY, false, false },
	{ "splice@plain", write_spliced, PLAIN, false, false },
	{ "splice@attached", write_spliced, ATTACHED, false, false },
	{ "copy_file_range@nobody", write_copied, NOBODY, false, false },
	{ "copy_file_range@plain", write_copied, PLAIN, false, false },
	{ "copy_file_range@attached", write_copied, ATTACHED, false, false },
	{ "recv@nobody", write_received, NOBODY, false, false },
	{ "recv@plain", write_received, PLAIN, false, false },
	{ "recv@attached", write_received, ATTACHED, false, false },
	{ "clone@nobody", write_cloned, NOBODY, false, true },
};

/* --- who reads: the value, -1 for what is no value, or -errno --------------------------------------------------- */

static int kept_fd = -1;      /* opened before the file was written */
static uint8_t *kept_private; /* mapped before */

static int read_fd(int fd)
{
	return pread(fd, buffer, SIZE, 0) == SIZE ? value_of(buffer) : -errno;
}

static int with_fd(int flags, int (*fn)(int fd))
{
	int fd = open_file(flags), value = fn(fd);

	close(fd);
	return value;
}

static int read_call(void)
{
	return with_fd(O_RDONLY, read_fd);
}

static int read_kept(void)
{
	return read_fd(kept_fd);
}

static int read_direct(void)
{
	return with_fd(O_RDONLY | O_DIRECT, read_fd);
}

static int read_mapped(void)
{
	return mapped_by == NOBODY ? read_call() : agent_ask(&agents[mapped_by], "load", "");
}

static int map_and_read(int fd, int kind)
{
	uint8_t *memory = mmap(NULL, SIZE, PROT_READ, kind, fd, 0);
	int value = memory == MAP_FAILED ? -errno : value_of_mapping(memory);

	if (memory != MAP_FAILED)
		munmap(memory, SIZE);
	return value;
}

static int shared_fd(int fd)
{
	return map_and_read(fd, MAP_SHARED);
}

static int private_fd(int fd)
{
	return map_and_read(fd, MAP_PRIVATE);
}

static int read_shared(void)
{
	return with_fd(O_RDWR, shared_fd);
}

static int read_private(void)
{
	return with_fd(O_RDONLY, private_fd);
}

static int read_private_rw(void)
{
	return with_fd(O_RDWR, private_fd);
}

static int read_private_kept(void)
{
	return kept_private == MAP_FAILED ? -EFAULT : value_of_mapping(kept_private);
}

static int new_copy(void)
{
	int fd = open(copy, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, SIZE) < 0)
		prog_die("%s: %s", copy, strerror(errno));
	return fd;
}

static int sendfile_fd(int fd)
{
	int to = new_copy();
	off_t at = 0;
	ssize_t sent = 1;

	while (at < SIZE && sent > 0)
		sent = sendfile(to, fd, &at, (size_t)(SIZE - at));
	sent = sent < 0 ? -errno : 0;
	close(to);
	return sent < 0 ? (int)sent : value_of_path(copy);
}

static int read_sendfile(void)
{
	return with_fd(O_RDONLY, sendfile_fd);
}

static int read_sendfile_kept(void)
{
	return sendfile_fd(kept_fd);
}

static int splice_fd(int fd)
{
	int pipes[2], error = 0;
	size_t got = 0;
	loff_t at = 0;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		prog_die("pipe: %s", strerror(errno));
	while (got < SIZE && !error) {
		ssize_t moved = splice(fd, &at, pipes[1], NULL, 4 * PROG_PAGE, 0);

		if (moved <= 0)
			error = moved < 0 ? -errno : -ENODATA;
		else if (read(pipes[0], buffer + got, (size_t)moved) != moved)
			prog_die("pipe: %s", strerror(errno));
		else
			got += (size_t)moved;
	}
	close(pipes[0]);
	close(pipes[1]);
	return error ? error : value_of(buffer);
}

static int read_splice(void)
{
	return with_fd(O_RDONLY, splice_fd);
}

static int range_fd(int fd)
{
	int to = open(other, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t done = 1;

	for (loff_t in = 0, out = 0; in < SIZE && done > 0;)
		done = copy_file_range(fd, &in, to, &out, (size_t)(SIZE - in), 0);
	done = done < 0 ? -errno : 0;
	close(to);
	return done < 0 ? (int)done : value_of_path(other);
}

static int read_range(void)
{
	return with_fd(O_RDONLY, range_fd);
}

/* What a tool does that asks where data is. */
static int seek_fd(int fd)
{
	off_t at = 0, end;

	memset(buffer, 0, SIZE);
	while ((at = lseek(fd, at, SEEK_DATA)) >= 0) {
		end = lseek(fd, at, SEEK_HOLE);
		if (end <= at || pread(fd, buffer + at, (size_t)(end - at), at) != end - at)
			return -errno;
		at = end;
	}
	return errno == ENXIO ? value_of(buffer) : -errno;
}

static int read_seek(void)
{
	return with_fd(O_RDONLY, seek_fd);
}

static int read_seek_kept(void)
{
	return seek_fd(kept_fd);
}

/* No blocks means no data, to tar. */
static int read_blocks(void)
{
	struct stat attr;

	if (stat(file, &attr) < 0)
		return -errno;
	return attr.st_blocks ? read_call() : 0;
}

static int read_tool(const char *format, const char *to)
{
	unlink(to);
	must_run(format, run(format, file, to));
	return value_of_path(to);
}

static int read_cp(void)
{
	return read_tool("cp '%s' '%s'", copy);
}

static int read_cp_inside(void)
{
	return read_tool("cp --reflink=never '%s' '%s'", other);
}

static int read_tierctl_copy(void)
{
	return read_tool("tierctl copy '%s' '%s' >/dev/null", copy);
}

static int read_send(void)
{
	return read_tool("tierctl send '%s' 2>/dev/null | tierctl recv '%s' >/dev/null", other);
}

static int read_snapshot(void)
{
	return read_tool("tierctl snapshot '%s' '%s' >/dev/null", other);
}

/* What is not given is said to be in DRAM, and read; or a hole, and zeros. */
static int read_access(void)
{
	FILE *states;
	unsigned long offset, length;
	char line[256], result[32];
	int fd = open_file(O_RDONLY), value;

	unlink(copy);
	must_run("access", run("tierctl access --json read '%s' '%s' | jq -r '.runs[] | \"\\(.offset) \\(.length) "
			       "\\(.result)\"' >'%s'",
			       file, copy, input));
	value = value_of_path(copy);
	states = fopen(input, "r");
	while (states && fgets(line, sizeof(line), states))
		if (sscanf(line, "%lu %lu %31s", &offset, &length, result) != 3)
			prog_die("tierctl access said %s", line);
		else if (strcmp(result, "RESIDENT") == 0 || strcmp(result, "BUSY") == 0)
			value = pread(fd, buffer + offset, length, (off_t)offset) == (ssize_t)length ? value_of(buffer)
												     : UNSET;
	if (states)
		fclose(states);
	close(fd);
	return value;
}

static const struct reader {
	const char *name;
	int (*read)(void);
	bool kept; /* of what was opened or mapped before the first write */
} readers[] = {
	{ "read", read_call, false },
	{ "read-kept", read_kept, true },
	{ "direct", read_direct, false },
	{ "mapping", read_mapped, false },
	{ "shared", read_shared, false },
	{ "private", read_private, false },
	{ "private-rw", read_private_rw, false },
	{ "private-kept", read_private_kept, true },
	{ "sendfile", read_sendfile, false },
	{ "sendfile-kept", read_sendfile_kept, true },
	{ "splice", read_splice, false },
	{ "copy_file_range", read_range, false },
	{ "seek", read_seek, false },
	{ "seek-kept", read_seek_kept, true },
	{ "st_blocks", read_blocks, false },
	{ "cp", read_cp, false },
	{ "cp-inside", read_cp_inside, false },
	{ "tierctl-copy", read_tierctl_copy, false },
	{ "send", read_send, false },
	{ "snapshot", read_snapshot, false },
	{ "access", read_access, false },
};

/* --- a cell ----------------------------------------------------------------------------------------------------- */

struct verdict {
	char wrong[128];
	char refused[128]; /* names of errors */
};

static void judge(struct verdict *verdict, int got, int wanted, const char *when)
{
	const char *name = got == -EFAULT ? "SIGBUS" : got < UNSET ? strerrorname_np(-got) : "";

	if (got == wanted || verdict->wrong[0])
		return;
	if (got >= UNSET)
		snprintf(verdict->wrong, sizeof(verdict->wrong), "WRONG: %s: got %d, wanted %d", when, got, wanted);
	else if (!strstr(verdict->refused, name))
		snprintf(verdict->refused + strlen(verdict->refused),
			 sizeof(verdict->refused) - strlen(verdict->refused), "%s%s", verdict->refused[0] ? "," : "",
			 name);
}

static void cell_begin(const struct writer *writer, const struct reader *reader)
{
	int fd;

	unlink(file);
	fd = open(file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, SIZE) < 0)
		prog_die("%s: %s", file, strerror(errno));
	close(fd);
	kept_private = MAP_FAILED;
	if (reader->kept) {
		/* Before anybody maps the file: what the open is, and what the mapping has, is of that time. */
		kept_fd = open_file(O_RDONLY);
		kept_private = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, kept_fd, 0);
		if (kept_private != MAP_FAILED)
			value_of_mapping(kept_private);
	}
	mapped_by = writer->mapped_by;
	if (mapped_by != NOBODY)
		agent_ask(&agents[mapped_by], "map", file);
	if (writer->second)
		agent_ask(&agents[mapped_by + 1], "map", file);
	if (mapped_by != NOBODY)
		agent_ask(&agents[mapped_by], "load", "");
}

static void cell_end(const struct writer *writer)
{
	if (writer->second)
		agent_ask(&agents[mapped_by + 1], "unmap", "");
	if (mapped_by != NOBODY)
		agent_ask(&agents[mapped_by], "unmap", "");
	if (kept_private != MAP_FAILED)
		munmap(kept_private, SIZE);
	if (kept_fd >= 0)
		close(kept_fd);
	kept_fd = -1;
}

static void demote(void)
{
	must_run("demote", run("tierctl demote '%s' >/dev/null", file));
}

static void do_cell(const struct writer *writer, const struct reader *reader)
{
	struct verdict verdict = { 0 };

	cell_begin(writer, reader);
	judge(&verdict, reader->read(), 0, "the holes");
	writer->write(1);
	judge(&verdict, reader->read(), 1, "the first write");
	demote();
	judge(&verdict, reader->read(), 1, "the first write, demoted");
	writer->write(2);
	judge(&verdict, reader->read(), 2, "the second write");
	cell_end(writer);
	printf("%s %s %s\n", writer->name, reader->name,
	       verdict.wrong[0]     ? verdict.wrong
	       : verdict.refused[0] ? verdict.refused
				    : "right");
}

static int matrix(const char *dir, const char *scratch, const char *only_writer, const char *only_reader)
{
	snprintf(file, sizeof(file), "%s/file.%d", dir, (int)getpid());
	snprintf(other, sizeof(other), "%s/other.%d", dir, (int)getpid());
	snprintf(copy, sizeof(copy), "%s/copy", scratch);
	snprintf(input, sizeof(input), "%s/states", scratch);
	for (size_t w = 0; w < sizeof(writers) / sizeof(writers[0]); w++)
		for (size_t r = 0; r < sizeof(readers) / sizeof(readers[0]); r++)
			if ((!only_writer || !strcmp(writers[w].name, only_writer)) &&
			    (!only_reader || !strcmp(readers[r].name, only_reader)) &&
			    !(writers[w].fresh && readers[r].kept))
				do_cell(&writers[w], &readers[r]);
	unlink(file);
	unlink(other);
	return PROG_OK;
}

static int list_writers(void)
{
	for (size_t w = 0; w < sizeof(writers) / sizeof(writers[0]); w++)
		puts(writers[w].name);
	return PROG_OK;
}

int main(int argc, char **argv)
{
	self = "/proc/self/exe";
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 2 && !strcmp(argv[1], "agent"))
		return agent();
	if (argc == 2 && !strcmp(argv[1], "writers"))
		return list_writers();
	if (argc < 4 || argc > 6 || strcmp(argv[1], "matrix") != 0) {
		fprintf(stderr, "usage: prog_coherence agent | writers | matrix DIR SCRATCH [WRITER [READER]]\n");
		return PROG_USAGE;
	}
	self = argv[0];
	if (posix_memalign((void **)&buffer, PROG_PAGE, SIZE) != 0)
		prog_die("no memory");
	return matrix(argv[2], argv[3], argc > 4 ? argv[4] : NULL, argc > 5 ? argv[5] : NULL);
}
