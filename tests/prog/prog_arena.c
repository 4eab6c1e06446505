/* prog_arena - a hostile client of attach.sock that makes memory with what it is given of a RAM file.
 *
 *	prog_arena FILE refused
 *	prog_arena FILE touch
 *	prog_arena FILE keep
 *	prog_arena FILE grow BYTES
 *
 * refused: everything but mmap(2) is refused of the descriptor that it is given, and what is mapped beyond the file is
 * nothing. 0 if that is so.
 * touch: maps the file once more without registering it, and touches all of it again and again.
 * keep: the same, when it has given back all else that it was given.
 * grow: makes the descriptor that long, also behind its end, and fills it, again and again.
 *
 * The latter three say "made" after the first time, and do not end.
 */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "prog.h"
#include "raw_client.h"

#define FAR_BYTES (64UL << 20)

static int wrong;

static void refused(const char *what, long rc)
{
	printf("%s: %s\n", what, rc < 0 ? strerror(errno) : "done");
	if (rc >= 0)
		wrong = 1;
}

/* Of another process, which has nothing of it. 0 or -1, with errno. */
static int open_elsewhere(int fd)
{
	char path[64];
	int status = 0;
	pid_t pid;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), fd);
	pid = fork();
	if (pid == 0) {
		close(fd);
		_exit(open(path, O_RDWR) < 0 ? errno : 0);
	}
	waitpid(pid, &status, 0);
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}

static void try_all(const struct raw_mapping *mapping)
{
	static char page[PROG_PAGE] __attribute__((aligned(PROG_PAGE)));
	int fd = mapping->arena, null = open("/dev/null", O_WRONLY | O_CLOEXEC), direct = dup(fd), reopened, tubes[2];
	char byte = 'x', path[64], name[PATH_MAX] = "";

	if (null < 0 || pipe(tubes) < 0 || write(tubes[1], page, PROG_PAGE) < 0)
		prog_die("pipe: %s", strerror(errno));
	fcntl(direct, F_SETFL, O_DIRECT);

	refused("ftruncate", ftruncate(fd, FAR_BYTES));
	refused("ftruncate to nothing", ftruncate(fd, 0));
	refused("fallocate", fallocate(fd, 0, 0, FAR_BYTES));
	refused("fallocate behind the end", fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, FAR_BYTES));
	refused("punch", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PROG_PAGE));
	refused("pwrite", pwrite(fd, &byte, 1, 0));
	refused("pwrite behind the end", pwrite(fd, &byte, 1, FAR_BYTES));
	refused("pread", pread(fd, &byte, 1, 0));
	refused("sendfile", sendfile(null, fd, &(off_t){ 0 }, PROG_PAGE) > 0 ? 0 : (errno = ENODATA, -1));
	refused("copy_file_range", copy_file_range(fd, &(off_t){ 0 }, fd, &(off_t){ 1 << 20 }, PROG_PAGE, 0) > 0
					   ? 0
					   : (errno = EBADF, -1));
	refused("splice", splice(fd, &(off_t){ 0 }, tubes[1], NULL, PROG_PAGE, 0) > 0 ? 0 : (errno = ENODATA, -1));
	refused("splice behind the end", splice(tubes[0], NULL, fd, &(off_t){ FAR_BYTES }, PROG_PAGE, 0));
	refused("O_DIRECT pread", pread(direct, page, PROG_PAGE, 0));
	refused("O_DIRECT pwrite", pwrite(direct, page, PROG_PAGE, FAR_BYTES));
	refused("lseek", lseek(fd, 0, SEEK_DATA));
	refused("lseek for a hole", lseek(fd, 0, SEEK_HOLE));
	refused("seal", fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
	refused("fchown", fchown(fd, getuid(), getgid()));
	refused("futimens", futimens(fd, NULL));
	refused("fsetxattr", fsetxattr(fd, "user.x", "x", 1, 0));
	refused("fchmod", fchmod(fd, 0666));
	refused("fsync", fsync(fd));
	refused("ioctl", ioctl(fd, TIERFS_IOC_INFO, &(struct tierfs_ioc_info){ 0 }));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	reopened = open(path, O_RDWR);
	refused("open by way of /proc", reopened);
	refused("open by another process", open_elsewhere(fd));
	if (readlink(path, name, sizeof(name) - 1) < 0)
		prog_die("readlink: %s", strerror(errno));
	refused("open by its name", open(name, O_RDWR));
	refused("stat by its name", access(name, F_OK));
	refused("unlink", unlink(name));
	refused("rename", rename(name, "renamed"));
	refused("link", linkat(AT_FDCWD, path, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW));
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)mapping->memory,
		 (unsigned long)mapping->memory + mapping->length_bytes);
	refused("open by way of the mapping", open(path, O_RDWR));
	close(null);
}

/* In a child: it ends by SIGBUS. */
static void touch_beyond(const struct raw_mapping *mapping)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		volatile char *memory = mmap(NULL, FAR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, mapping->arena, 0);

		if (memory != MAP_FAILED)
			memory[mapping->length_bytes] = 1;
		_exit(0);
	}
	waitpid(pid, &status, 0);
	printf("memory beyond the file: %s\n", WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "can be had");
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGBUS)
		wrong = 1;
}

static void touch(struct raw_mapping *mapping, int sock, bool gives_back)
{
	size_t length_bytes = mapping->length_bytes;
	volatile char *memory = mmap(NULL, length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, mapping->arena, 0);
	char ignored = 0;

	if (memory == MAP_FAILED)
		prog_die("mmap: %s", strerror(errno));
	if (gives_back) {
		raw_unmap(mapping);
		close(sock);
	}
	for (bool told = false;; told = true) {
		for (size_t at = 0; at < length_bytes; at += PROG_PAGE)
			ignored |= memory[at];
		if (!told)
			printf("made%s\n", ignored ? " nothing" : "");
	}
}

static void grow(const struct raw_mapping *mapping, uint64_t bytes)
{
	for (bool told = false;; told = true) {
		if (ftruncate(mapping->arena, (off_t)bytes) < 0 ||
		    fallocate(mapping->arena, FALLOC_FL_KEEP_SIZE, 0, (off_t)(2 * bytes)) < 0)
			prog_die("the arena: %s", strerror(errno));
		if (!told)
			printf("made\n");
	}
}

int main(int argc, char **argv)
{
	struct raw_mapping mapping;
	struct stat attr;
	int fd, sock, err;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 3)
		return PROG_USAGE;
	fd = open(argv[1], O_RDWR | O_DIRECT);
	if (fd < 0 || fstat(fd, &attr) < 0)
		prog_die("%s: %s", argv[1], strerror(errno));
	sock = raw_greet(fd);
	err = sock < 0 ? -ENOTCONN : raw_map(sock, fd, 0, (size_t)attr.st_size, &mapping);
	if (err)
		prog_die("%s: cannot be attached: %s", argv[1], strerror(-err));
	if (strcmp(argv[2], "touch") == 0)
		touch(&mapping, sock, false);
	if (strcmp(argv[2], "keep") == 0)
		touch(&mapping, sock, true);
	if (strcmp(argv[2], "grow") == 0 && argc > 3)
		grow(&mapping, strtoull(argv[3], NULL, 0));
	try_all(&mapping);
	touch_beyond(&mapping);
	mapping.memory[0] = 'y'; /* what was mapped is memory all the same */
	if (mapping.memory[0] != 'y')
		wrong = 1;
	printf("%s\n", wrong ? "WRONG" : "refused");
	return wrong ? PROG_WRONG : PROG_OK;
}
