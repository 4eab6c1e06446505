/* prog_arena - a hostile client of attach.sock that makes memory with what it is given of a RAM file.
 *
 *	prog_arena FILE refused
 *	prog_arena FILE touch
 *	prog_arena FILE grow BYTES
 *
 * refused: everything but mmap(2) is refused of the descriptor that it is given, and what is mapped beyond the file is
 * nothing. 0 if that is so.
 * touch: maps the file once more without registering it, and touches all of it again and again.
 * grow: makes the descriptor that long, also behind its end, and fills it, again and again.
 *
 * The latter two say "made" after the first time, and do not end.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>

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

static void try_all(const struct raw_mapping *mapping)
{
	char byte = 'x', path[64];
	int fd = mapping->arena, null = open("/dev/null", O_WRONLY | O_CLOEXEC), reopened;

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
	refused("lseek", lseek(fd, 0, SEEK_DATA));
	refused("fchmod", fchmod(fd, 0666));
	refused("fsync", fsync(fd));
	refused("ioctl", ioctl(fd, TIERFS_IOC_INFO, &(struct tierfs_ioc_info){ 0 }));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	reopened = open(path, O_RDWR);
	refused("open by way of /proc", reopened);
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

static void touch(const struct raw_mapping *mapping)
{
	volatile char *memory = mmap(NULL, mapping->length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, mapping->arena,
				     0);
	char ignored = 0;

	if (memory == MAP_FAILED)
		prog_die("mmap: %s", strerror(errno));
	for (bool told = false;; told = true) {
		for (size_t at = 0; at < mapping->length_bytes; at += PROG_PAGE)
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
		touch(&mapping);
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
