#include "map/holds.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "map/holds_prog.h"

#define PAGE 4096U

struct holds {
	int prog[2]; /* of each kind; immutable */
};

int holds_look(struct holds *holds, enum holds_kind kind, int fd, uint64_t first_page, uint64_t count,
	       enum holds_what what, uint8_t *pinned)
{
	uint64_t end = first_page + count;

	for (uint64_t page = first_page; page < end;) {
		uint64_t base = page / HOLDS_PROG_PAGES * HOLDS_PROG_PAGES;
		uint32_t answer;
		int err = holds_prog_run(holds->prog[kind], fd, base, what == HOLDS_OR_LARGE, &answer);

		if (err) {
			memset(pinned, 1, count);
			return err;
		}
		for (; page < end && page < base + HOLDS_PROG_PAGES; page++)
			pinned[page - first_page] = (answer >> (page - base)) & 1;
	}
	return 0;
}

/* --- test at the start ---------------------------------------------------------------------------------------- */

/* The file has pages in two leaves of the kernel's tree, absent ones between them, and pins across the border of a run.
 */
#define TEST_PAGES 160U
#define TEST_PRESENT 90U
#define TEST_PINNED 94U
#define TEST_PINNED_END 99U
#define TEST_PATIENCE_MS 2000

struct trial {
	int fd;
	uint8_t *memory;
};

/* True if exactly the pages from pinned_first to pinned_end are pinned. */
static bool trial_agrees(struct holds *holds, enum holds_kind kind, const struct trial *trial, uint64_t pinned_first,
			 uint64_t pinned_end)
{
	uint8_t pinned[TEST_PAGES];

	if (holds_look(holds, kind, trial->fd, 0, TEST_PAGES, HOLDS_ONLY, pinned))
		return false;
	for (uint64_t i = 0; i < TEST_PAGES; i++)
		if (pinned[i] != (i >= pinned_first && i < pinned_end))
			return false;
	return true;
}

/* A registered buffer is pinned until it is given back. */
static const char *trial_run(struct holds *holds, const struct trial *trial)
{
	struct io_uring_params params = { 0 };
	struct iovec buffer = { .iov_base = trial->memory + TEST_PINNED * PAGE,
				.iov_len = (TEST_PINNED_END - TEST_PINNED) * PAGE };
	CLEANUP_CLOSE int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	if (!trial_agrees(holds, HOLDS_PINNED, trial, 0, 0))
		return "pages of no file were found pinned";
	for (uint64_t page = TEST_PRESENT; page < TEST_PAGES; page++)
		trial->memory[page * PAGE] = 1;
	if (!trial_agrees(holds, HOLDS_PINNED, trial, 0, 0))
		return "pages that nobody pinned were found pinned";
	if (ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) < 0)
		return "io_uring cannot pin a page to try it out";
	if (!trial_agrees(holds, HOLDS_PINNED, trial, TEST_PINNED, TEST_PINNED_END))
		return "a pinned page was not seen";
	if (!trial_agrees(holds, HOLDS_REFERENCED, trial, TEST_PRESENT, TEST_PAGES)) /* all that are mapped */
		return "a referenced page was not seen";
	if (syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0) < 0)
		return "io_uring cannot let a page go";
	for (int waited_ms = 0; !trial_agrees(holds, HOLDS_PINNED, trial, 0, 0); waited_ms++) {
		if (waited_ms == TEST_PATIENCE_MS)
			return "pages that were let go were still found pinned";
		poll(NULL, 0, 1);
	}
	return NULL;
}

/* Returns what is wrong, or NULL. */
static const char *try_out(struct holds *holds)
{
	CLEANUP_CLOSE int fd = memfd_create("tierfs-pins", MFD_CLOEXEC);
	struct trial trial = { .fd = fd };
	const char *wrong;

	if (fd < 0 || ftruncate(fd, TEST_PAGES * PAGE) < 0)
		return "no memory to try it out";
	trial.memory = mmap(NULL, TEST_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (trial.memory == MAP_FAILED)
		return "no memory to try it out";
	wrong = trial_run(holds, &trial);
	munmap(trial.memory, TEST_PAGES * PAGE);
	return wrong;
}

/* --- life ----------------------------------------------------------------------------------------------------- */

int holds_open(struct holds **ret)
{
	struct holds *holds = malloc(sizeof(*holds));
	const char *reason = NULL;
	int err;

	if (!holds)
		return -ENOMEM;
	holds->prog[HOLDS_PINNED] = holds->prog[HOLDS_REFERENCED] = -1;
	err = holds_prog_load(HOLDS_PINNED, &holds->prog[HOLDS_PINNED], &reason);
	if (!err)
		err = holds_prog_load(HOLDS_REFERENCED, &holds->prog[HOLDS_REFERENCED], &reason);
	if (!err)
		reason = try_out(holds);
	if (reason) {
		log_warn("pages that a device writes into cannot be seen (%s): only min_idle protects them", reason);
		holds_close(holds);
		return -EOPNOTSUPP;
	}
	*ret = holds;
	return 0;
}

void holds_close(struct holds *holds)
{
	if (!holds)
		return;
	for (size_t i = 0; i < 2; i++)
		if (holds->prog[i] >= 0)
			close(holds->prog[i]);
	free(holds);
}
