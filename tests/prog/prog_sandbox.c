/* A VMM that shuts itself in after it mapped its memory, and goes on.
 *
 * usage: prog_sandbox FILE MODE [OTHER-FILE]
 *
 *   close        closes every descriptor from 3 on, with close_range(2)
 *   closefrom    the same with closefrom(3)
 *   loop         the same with close(2), one by one
 *   replace      puts descriptors of its own in all those places, with dup2(2)
 *   fork         the same as close, in a child, which ends; the memory is the parent's
 *   filter       a system-call filter of its own thread, as Cloud Hypervisor's and virtiofsd's: a list of what is
 *                allowed, and death for the rest
 *   filter-all   the same for all threads
 *
 * FILE is mapped and filled. After the first line on stdin the program does what MODE says, opens a hundred files
 * (which get the numbers that were closed), and reports. After the second line it looks at every word, discards,
 * unmaps, maps OTHER-FILE if there is one, and looks whether anybody wrote into its files. Exit 0 if all is right.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES ((size_t)16 << 20)
#define WORDS (BYTES / sizeof(uint64_t))
#define DISCARDED ((size_t)1 << 20)
#define OWN_FILES 100

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#else
#define ARCH AUDIT_ARCH_AARCH64
#endif

static int own[OWN_FILES];

static uint64_t word_at(size_t index)
{
	return index * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* --- shutting in ------------------------------------------------------------------------------------------------- */

static const int allowed[] = {
	SYS_read,      SYS_write,      SYS_close,          SYS_fstat,     SYS_newfstatat,      SYS_statfs,
	SYS_lseek,     SYS_mmap,       SYS_munmap,         SYS_mprotect,  SYS_madvise,         SYS_brk,
	SYS_futex,     SYS_openat,     SYS_rt_sigprocmask, SYS_fcntl,     SYS_rt_sigreturn,    SYS_exit,
	SYS_ftruncate, SYS_exit_group, SYS_clock_gettime,  SYS_fallocate, SYS_recvmsg,         SYS_sendmsg,
	SYS_socket,    SYS_connect,    SYS_ppoll,          SYS_shutdown,  SYS_restart_syscall,
#ifdef SYS_poll
	SYS_poll,
#endif
};

#define ALLOWED (sizeof(allowed) / sizeof(allowed[0]))

static void filter(unsigned int flags)
{
	struct sock_filter insns[ALLOWED + 5];
	struct sock_fprog program = { .len = ALLOWED + 5, .filter = insns };
	size_t at = 0;

	insns[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	insns[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 0, ALLOWED + 1);
	insns[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < ALLOWED; i++)
		insns[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned int)allowed[i],
							   (unsigned char)(ALLOWED - i), 0);
	insns[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	insns[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) != 0)
		die("seccomp");
}

static void close_all(const char *how)
{
	struct stat st;

	if (!strcmp(how, "close") && syscall(SYS_close_range, 3, ~0U, 0) < 0)
		die("close_range");
	if (!strcmp(how, "closefrom"))
		closefrom(3);
	for (int fd = 3; !strcmp(how, "loop") && fd < 1024; fd++)
		close(fd);
	for (int fd = 3; !strcmp(how, "replace") && fd < 1024; fd++)
		if (!fstat(fd, &st) && dup2(STDERR_FILENO, fd) < 0)
			die("dup2");
}

static void shut_in(const char *mode)
{
	int status;
	pid_t pid;

	if (!strcmp(mode, "filter")) {
		filter(0);
	} else if (!strcmp(mode, "filter-all")) {
		filter(SECCOMP_FILTER_FLAG_TSYNC);
	} else if (!strcmp(mode, "fork")) {
		pid = fork();
		if (pid == 0) {
			close_all("close");
			_exit(0);
		}
		if (waitpid(pid, &status, 0) != pid || status)
			die("child");
	} else {
		close_all(mode);
	}
}

/* --- going on ---------------------------------------------------------------------------------------------------- */

/* stdio would look at its descriptors in its own way. */
static void say(const char *text)
{
	if (write(STDOUT_FILENO, text, strlen(text)) < 0)
		_exit(1);
}

static void wait_for_line(void)
{
	char c;

	do
		if (read(STDIN_FILENO, &c, 1) != 1)
			_exit(1);
	while (c != '\n');
}

static uint64_t *map_file(int fd)
{
	uint64_t *words = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (words == MAP_FAILED)
		die("mmap");
	return words;
}

static int open_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, BYTES) < 0)
		die(path);
	return fd;
}

static void open_own(const char *mode)
{
	if (!strncmp(mode, "filter", 6))
		return; /* nothing was closed */
	for (int i = 0; i < OWN_FILES; i++) {
		own[i] = memfd_create("own", MFD_CLOEXEC);
		if (own[i] < 0)
			die("memfd_create");
	}
}

static size_t count_wrong(const uint64_t *words, size_t from, size_t to)
{
	size_t wrong = 0;

	for (size_t i = from; i < to; i++)
		wrong += words[i] != (i * sizeof(uint64_t) < DISCARDED && !from ? 0 : word_at(i));
	return wrong;
}

static void finish(const char *what, size_t wrong)
{
	char line[100];

	if (!wrong)
		return;
	snprintf(line, sizeof(line), "%s: %zu are wrong\n", what, wrong);
	say(line);
	_exit(1);
}

static void go_on(uint64_t *words, int other_fd)
{
	size_t split = DISCARDED / sizeof(uint64_t), wrong = 0;
	struct stat st;

	for (size_t i = 0; i < WORDS; i++)
		wrong += words[i] != word_at(i);
	finish("words", wrong);
	if (madvise(words, DISCARDED, MADV_REMOVE) < 0)
		die("madvise");
	finish("discarded words", count_wrong(words, 0, split));
	finish("other words", count_wrong(words, split, WORDS));
	if (munmap((char *)words + BYTES / 2, BYTES / 2) < 0)
		die("munmap");
	if (other_fd >= 0) {
		uint64_t *others = map_file(other_fd);

		others[1] = 1;
		if (munmap(others, BYTES) < 0)
			die("munmap");
	}
	if (munmap(words, BYTES / 2) < 0)
		die("munmap");
	for (int i = 0; i < OWN_FILES; i++)
		if (own[i] && (fstat(own[i], &st) < 0 || st.st_size))
			finish("files of the program's own", 1);
}

int main(int argc, char **argv)
{
	uint64_t *words;
	int other_fd;

	if (argc < 3) {
		fprintf(stderr, "usage: %s FILE MODE [OTHER-FILE]\n", argv[0]);
		return 1;
	}
	words = map_file(open_file(argv[1]));
	for (size_t i = 0; i < WORDS; i++)
		words[i] = word_at(i);
	say("written\n");
	wait_for_line();
	other_fd = argc > 3 ? open_file(argv[3]) : -1;
	shut_in(argv[2]);
	open_own(argv[2]);
	say("shut in\n");
	wait_for_line();
	go_on(words, other_fd);
	say("all is right\n");
	_exit(0);
}
