/* What a program under `tierctl run` may do with a mapping of a RAM file, call by call, and what it is refused.
 *
 *	tierctl run prog_mapping FILE            FILE is made, 8 MiB
 *	tierctl run prog_mapping FILE restart    says "ready", reads a line (the daemon was restarted), discards
 *	tierctl run prog_mapping FILE read-only  tries to map a file that is open for reading; exit 1 if that is refused
 *
 * Prints each check that fails; exit 0 if none did.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILE_BYTES ((size_t)8 << 20)
#define PAGE ((size_t)4096)
#define RW (PROT_READ | PROT_WRITE)

static int failures;

#define CHECK(condition) \
	do { \
		errno = 0; \
		if (!(condition)) { \
			printf("line %d: %s (errno %s)\n", __LINE__, #condition, strerrorname_np(errno)); \
			failures++; \
		} \
	} while (0)

static bool refused(void *memory, int err)
{
	return memory == MAP_FAILED && errno == err;
}

static bool is_mapped(void *addr)
{
	return msync(addr, PAGE, MS_ASYNC) == 0;
}

/* True if the line of /proc/self/smaps for addr has a file of the daemon's runtime directory, and the flag that fork
 * drops it. */
static bool is_arena(void *addr)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	bool here = false, arena = false, dropped = false;
	char line[512], path[256];
	unsigned long from, to;

	while (file && fgets(line, sizeof(line), file)) {
		path[0] = '\0';
		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %255s", &from, &to, path) >= 2) {
			here = (uintptr_t)addr >= from && (uintptr_t)addr < to;
			arena = arena || (here && (strstr(path, "/run/tierfs/") || strstr(path, "/.tierfs-arena-")));
		} else if (here && !strncmp(line, "VmFlags:", 8)) {
			dropped = strstr(line, " dc") != NULL;
		}
	}
	if (file)
		fclose(file);
	return arena && dropped;
}

static bool has_agent(void)
{
	char comm[64] = "";
	FILE *pipe = popen("cat /proc/$PPID/task/*/comm | grep -c '^tierfs-agent$'", "re");
	bool one = pipe && fgets(comm, sizeof(comm), pipe) && atoi(comm) == 1;

	if (pipe)
		pclose(pipe);
	return one;
}

static void check_memory(int fd, char *memory)
{
	char byte = 0;

	CHECK(is_arena(memory));
	CHECK(has_agent());
	memory[5 * PAGE + 7] = 'm';
	CHECK(pread(fd, &byte, 1, (off_t)(5 * PAGE + 7)) == 1 && byte == 'm');
	CHECK(pwrite(fd, "w", 1, (off_t)(6 * PAGE)) == 1 && memory[6 * PAGE] == 'w');
	CHECK(madvise(memory, FILE_BYTES, MADV_HUGEPAGE) == 0);
	CHECK(madvise(memory, FILE_BYTES, MADV_DONTFORK) == 0);
	CHECK(madvise(memory, FILE_BYTES, MADV_DOFORK) == -1 && errno == EINVAL);
	CHECK(madvise(memory + 5 * PAGE, PAGE, MADV_DONTNEED) == 0 && memory[5 * PAGE + 7] == 'm');
	CHECK(posix_madvise(memory, FILE_BYTES, POSIX_MADV_RANDOM) == 0);
	CHECK(mprotect(memory, PAGE, PROT_READ) == 0 && mprotect(memory, PAGE, RW) == 0);
	CHECK(msync(memory, FILE_BYTES, MS_SYNC) == 0);
}

static void check_discard(int fd, char *memory)
{
	/* The C API is the preload library's own here: one table of attached memory, whichever way it is asked. */
	int (*discard)(void *, size_t) = (int (*)(void *, size_t))dlsym(RTLD_DEFAULT, "tierfs_discard");

	memory[0] = 1;
	memory[64 * PAGE] = 1;
	memory[128 * PAGE] = 1;
	CHECK(madvise(memory, 64 * PAGE, MADV_REMOVE) == 0 && memory[0] == 0 && memory[64 * PAGE] == 1);
	CHECK(madvise(memory + 1, PAGE, MADV_REMOVE) == -1 && errno == EINVAL);
	CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(64 * PAGE), (off_t)(64 * PAGE)) == 0);
	CHECK(memory[64 * PAGE] == 0 && memory[128 * PAGE] == 1);
	CHECK(discard && discard(memory + 128 * PAGE, PAGE) == 0 && memory[128 * PAGE] == 0);
}

static void check_parts(char *memory)
{
	char *anonymous;

	memory[100 * PAGE] = 'a';
	memory[103 * PAGE] = 'b';
	CHECK(munmap(memory + 101 * PAGE, 2 * PAGE) == 0);
	CHECK(!is_mapped(memory + 101 * PAGE) && memory[100 * PAGE] == 'a' && memory[103 * PAGE] == 'b');
	CHECK(munmap(memory + 101 * PAGE + 1, PAGE) == -1 && errno == EINVAL);
	CHECK(munmap(memory + 101 * PAGE, 0) == -1 && errno == EINVAL);
	/* Something else at a fixed place in it. */
	anonymous = mmap(memory + 200 * PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK(anonymous == memory + 200 * PAGE && anonymous[0] == 0 && !is_arena(anonymous) &&
	      is_arena(memory + 201 * PAGE));
}

static void check_remap(int fd)
{
	char *memory = mmap(NULL, 16 * PAGE, RW, MAP_SHARED, fd, 0);

	memory[3 * PAGE] = 'x';
	CHECK(refused(mremap(memory, 16 * PAGE, 32 * PAGE, MREMAP_MAYMOVE), ENOMEM));
	CHECK(refused(mremap(memory, 16 * PAGE, 16 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, memory + 64 * PAGE), EINVAL));
	CHECK(refused(mremap(memory, 0, 16 * PAGE, MREMAP_MAYMOVE), EINVAL));
	CHECK(mremap(memory, 16 * PAGE, 8 * PAGE, 0) == memory && memory[3 * PAGE] == 'x' &&
	      !is_mapped(memory + 8 * PAGE));
	CHECK(munmap(memory, 16 * PAGE) == 0 && !is_mapped(memory));
}

static void check_refusals(const char *path, int fd)
{
	int read_only = open(path, O_RDONLY | O_CLOEXEC), write_only = open(path, O_WRONLY | O_CLOEXEC);
	int error_fd = dup(STDERR_FILENO), null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

	dup2(null_fd, STDERR_FILENO); /* the library says one line for each */
	CHECK(refused(mmap(NULL, FILE_BYTES + PAGE, RW, MAP_SHARED, fd, 0), EINVAL));
	CHECK(refused(mmap(NULL, PAGE, RW, MAP_SHARED, fd, (off_t)FILE_BYTES), EINVAL));
	CHECK(refused(mmap(NULL, PAGE, RW, MAP_SHARED, fd, 1), EINVAL));
	CHECK(refused(mmap(NULL, 0, RW, MAP_SHARED, fd, 0), EINVAL));
	CHECK(refused(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, read_only, 0), EACCES));
	CHECK(refused(mmap(NULL, PAGE, RW, MAP_SHARED, write_only, 0), EACCES));
	dup2(error_fd, STDERR_FILENO);
	close(error_fd);
	close(null_fd);
	close(read_only);
	close(write_only);
}

/* Before the file is attached: afterwards a private mapping of it has no pages. */
static void check_private(int fd)
{
	char *private = mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0);

	CHECK(private != MAP_FAILED && !is_arena(private));
	private[0] = 'p';
	CHECK(munmap(private, PAGE) == 0);
}

/* Other memory works as it always did. */
static void check_others(int fd)
{
	char *private = mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0), *shared, *shm;
	int other = memfd_create("other", MFD_CLOEXEC);

	CHECK(private != MAP_FAILED && !is_arena(private));
	CHECK(ftruncate(other, (off_t)PAGE) == 0);
	shm = mmap(NULL, PAGE, RW, MAP_SHARED, other, 0);
	shared = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shm != MAP_FAILED && shared != MAP_FAILED && !is_arena(shm));
	shm[0] = 's';
	CHECK(madvise(shm, PAGE, MADV_REMOVE) == 0 && shm[0] == 0);
	CHECK(refused(mmap(NULL, PAGE, RW, MAP_SHARED, 9999, 0), EBADF));
	CHECK(munmap(private, PAGE) == 0 && munmap(shm, PAGE) == 0 && munmap(shared, PAGE) == 0);
	close(other);
}

static void check_fork(int fd, char *memory)
{
	int status = 0;
	pid_t pid;

	memory[0] = 'f';
	pid = fork();
	if (pid == 0) {
		char *own = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);

		_exit(!is_mapped(memory) && own != MAP_FAILED && own[0] == 'f' ? 0 : 1);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(memory[0] == 'f');
}

/* The descriptor is of a mount that is no more; the memory is not. */
static void check_restarted(int fd, char *memory)
{
	char line[16];

	memset(memory, 'r', 16 * PAGE);
	printf("ready\n");
	CHECK(fgets(line, sizeof(line), stdin));
	CHECK(memory[0] == 'r' && memory[15 * PAGE] == 'r');
	CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(4 * PAGE), (off_t)(4 * PAGE)) == 0);
	CHECK(memory[4 * PAGE] == 0 && memory[3 * PAGE] == 'r' && memory[8 * PAGE] == 'r');
	CHECK(madvise(memory + 8 * PAGE, 4 * PAGE, MADV_REMOVE) == 0 && memory[8 * PAGE] == 0 &&
	      memory[12 * PAGE] == 'r');
	/* What it does not map it cannot discard. */
	CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)FILE_BYTES, (off_t)PAGE) == -1 &&
	      errno == ENOTCONN);
	CHECK(fallocate(fd, 0, 0, (off_t)PAGE) == -1 && errno == ENOTCONN);
	CHECK(munmap(memory, FILE_BYTES) == 0);
}

int main(int argc, char **argv)
{
	char *memory, *again;
	int fd;

	if (argc < 2) {
		fprintf(stderr, "usage: tierctl run %s FILE [restart | read-only]\n", argv[0]);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 2 && !strcmp(argv[2], "read-only")) {
		fd = open(argv[1], O_RDONLY | O_CLOEXEC);
		return mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? 1 : 0;
	}
	fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)FILE_BYTES) < 0) {
		perror(argv[1]);
		return 2;
	}
	if (argc == 2)
		check_private(fd);
	memory = mmap(NULL, FILE_BYTES, RW, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	if (argc > 2) {
		check_restarted(fd, memory);
		return failures ? 1 : 0;
	}
	check_memory(fd, memory);
	check_discard(fd, memory);
	check_parts(memory);
	check_remap(fd);
	check_refusals(argv[1], fd);
	check_others(fd);
	check_fork(fd, memory);
	/* Two mappings of one file are one memory. */
	again = mmap(NULL, PAGE, RW, MAP_SHARED_VALIDATE, fd, (off_t)(16 * PAGE));
	again[9] = 't';
	CHECK(memory[16 * PAGE + 9] == 't');
	CHECK(munmap(memory, FILE_BYTES) == 0 && again[9] == 't');
	printf("%d checks failed\n", failures);
	return failures ? 1 : 0;
}
