/* prog_queue - a hostile client that keeps the lock of a directory.
 *
 *	prog_queue DIRECTORY
 *
 * It lists the directory into memory of which it does not serve the faults, so the kernel waits with the directory
 * locked for reading. Then it makes a file there, which waits for the lock, and all who look up a name that the kernel
 * does not know wait behind that. Says "held" when both wait, and does not end.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "prog.h"

#define PAUSE_NS (10 * 1000 * 1000)

static const char *directory;
static char *memory;
static _Atomic pid_t maker;

/* An area that nobody fills. Returns its userfaultfd. */
static int make_memory(void)
{
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register area = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	memory = mmap(NULL, PROG_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (uffd < 0 || memory == MAP_FAILED || ioctl(uffd, UFFDIO_API, &api) < 0)
		prog_die("userfaultfd: %s", strerror(errno));
	area.range.start = (uintptr_t)memory;
	area.range.len = PROG_PAGE;
	if (ioctl(uffd, UFFDIO_REGISTER, &area) < 0)
		prog_die("userfaultfd: %s", strerror(errno));
	return uffd;
}

static void *list(void *arg)
{
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	(void)arg;
	if (fd < 0)
		prog_die("%s: %s", directory, strerror(errno));
	if (syscall(SYS_getdents64, fd, memory, PROG_PAGE) < 0)
		prog_die("%s: cannot be listed: %s", directory, strerror(errno));
	prog_die("%s: was listed", directory);
}

static void *make(void *arg)
{
	char path[4096];

	(void)arg;
	snprintf(path, sizeof(path), "%s/queued", directory);
	maker = (pid_t)syscall(SYS_gettid);
	if (open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) < 0)
		prog_die("%s: %s", path, strerror(errno));
	prog_die("%s: was made", path);
}

/* In the kernel, where no signal wakes it. */
static bool waits(pid_t tid)
{
	char path[64], state = '?';
	FILE *stat;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	stat = fopen(path, "re");
	if (!stat || fscanf(stat, "%*d (%*[^)]) %c", &state) != 1)
		prog_die("%s: cannot be read", path);
	fclose(stat);
	return state == 'D';
}

/* Ten times in a row: it asks the daemon first, and waits for that, too. */
static void wait_until_queued(void)
{
	for (int times = 0; times < 10; times = maker && waits(maker) ? times + 1 : 0)
		nanosleep(&(struct timespec){ .tv_nsec = PAUSE_NS }, NULL);
}

int main(int argc, char **argv)
{
	struct uffd_msg fault;
	pthread_t lister, writer;
	int uffd;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 2)
		return PROG_USAGE;
	directory = argv[1];
	uffd = make_memory();
	if (pthread_create(&lister, NULL, list, NULL) != 0)
		prog_die("no thread");
	if (read(uffd, &fault, sizeof(fault)) != sizeof(fault) || fault.event != UFFD_EVENT_PAGEFAULT)
		prog_die("userfaultfd: no fault");
	if (pthread_create(&writer, NULL, make, NULL) != 0)
		prog_die("no thread");
	wait_until_queued();
	printf("held\n");
	for (;;)
		pause();
}
