/* Attached memory of which parts are treated in every way that splits its areas in the kernel, under `tierctl run`:
 * what is left goes on being demoted and promoted, and every page keeps its content.
 *
 *	tierctl run prog_split FILE MIB     FILE is there, of MIB MiB, at least 32
 *
 * Says "split" when it has done everything to the parts and worked on the rest twice; waits for a line; verifies all
 * pages. Prints each page that is wrong, and each call that does not answer as it should; exit 0 if there was none.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "prog.h"

#define MIB ((size_t)1 << 20)
#define RW (PROT_READ | PROT_WRITE)

#define CHECK(condition) \
	do { \
		errno = 0; \
		if (!(condition)) { \
			printf("line %d: %s (errno %s)\n", __LINE__, #condition, strerror(errno)); \
			failures++; \
		} \
	} while (0)

static int failures;
static char *memory;
static size_t length;
static uint8_t *turns; /* of each page: what was last written */

static uint64_t word_of(size_t at, size_t i)
{
	return (at / PROG_PAGE * 512 + i) * 0x9e3779b97f4a7c15ULL + turns[at / PROG_PAGE];
}

static void write_page(size_t at)
{
	uint64_t *words = (uint64_t *)(memory + at);

	turns[at / PROG_PAGE]++;
	for (size_t i = 0; i < 512; i++)
		words[i] = word_of(at, i);
}

static void verify(size_t from, size_t to)
{
	for (size_t at = from; at < to; at += PROG_PAGE)
		for (size_t i = 0; i < 512; i++)
			if (((uint64_t *)(memory + at))[i] != word_of(at, i)) {
				printf("page %zu, word %zu is wrong\n", at / PROG_PAGE, i);
				failures++;
				break;
			}
}

static void rewrite(size_t from, size_t to)
{
	verify(from, to);
	for (size_t at = from; at < to; at += PROG_PAGE)
		write_page(at);
}

static void split(void)
{
	char *at = memory;

	CHECK(mprotect(at + 2 * MIB, MIB, PROT_READ) == 0);
	CHECK(mprotect(at + 4 * MIB + PROG_PAGE, 3 * PROG_PAGE, PROT_NONE) == 0);
	for (size_t i = 0; i < 64; i++)
		CHECK(mprotect(at + 5 * MIB + i * 2 * PROG_PAGE, PROG_PAGE, PROT_READ) == 0);
	CHECK(mlock(at + 6 * MIB, PROG_PAGE) == 0);
	CHECK(mlock(at + 6 * MIB + 5 * PROG_PAGE, 7 * PROG_PAGE) == 0);
	CHECK(mlock(at + 8 * MIB - PROG_PAGE, MIB) == 0);
	CHECK(mlock(at + 10 * MIB, MIB) == 0 && munlock(at + 10 * MIB + 16 * PROG_PAGE, 16 * PROG_PAGE) == 0);
	CHECK(madvise(at + 12 * MIB, MIB, MADV_RANDOM) == 0);
	CHECK(madvise(at + 13 * MIB, MIB, MADV_SEQUENTIAL) == 0);
	CHECK(madvise(at + 14 * MIB, MIB, MADV_DONTFORK) == 0);
	CHECK(madvise(at + 15 * MIB, MIB, MADV_DOFORK) == -1 && errno == EINVAL);
	CHECK(madvise(at + 15 * MIB, MIB, MADV_DODUMP) == 0);
	CHECK(mremap(at + 16 * MIB, MIB, 2 * MIB, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
	CHECK(mremap(at + 16 * MIB, MIB, MIB, MREMAP_MAYMOVE | MREMAP_FIXED, at + 20 * MIB) == MAP_FAILED &&
	      errno == EINVAL);
	CHECK(mremap(at + 18 * MIB, 2 * MIB, MIB, 0) == at + 18 * MIB); /* leaves a hole of 1 MiB */
	CHECK(madvise(at + 22 * MIB, MIB, MADV_REMOVE) == 0);           /* zeros */
	for (size_t page = 22 * MIB; page < 23 * MIB; page += PROG_PAGE) {
		CHECK(at[page] == 0 && at[page + PROG_PAGE - 1] == 0);
		write_page(page);
	}
	CHECK(mremap(at + length - 2 * MIB, 2 * MIB, MIB, MREMAP_MAYMOVE) == at + length - 2 * MIB);
	CHECK(msync(at + 19 * MIB, MIB, MS_ASYNC) == -1 && errno == ENOMEM);
}

int main(int argc, char **argv)
{
	int fd = argc == 3 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
	char line[16];

	if (fd < 0)
		prog_die("prog_split FILE MIB");
	length = (size_t)atol(argv[2]) * MIB;
	turns = calloc(length / PROG_PAGE, 1);
	memory = mmap(NULL, length, RW, MAP_SHARED, fd, 0);
	if (length < 32 * MIB || !turns || memory == MAP_FAILED)
		prog_die("%s: %s", argv[1], strerror(errno));
	for (size_t at = 0; at < length; at += PROG_PAGE)
		write_page(at);
	split();
	for (int turn = 0; turn < 2; turn++) {
		verify(0, 4 * MIB);
		rewrite(6 * MIB, 19 * MIB);
		rewrite(20 * MIB, length - MIB);
	}
	puts("split");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		prog_die("nobody says go on");
	CHECK(mprotect(memory + 2 * MIB, 4 * MIB, RW) == 0);
	verify(0, 19 * MIB);
	verify(20 * MIB, length - MIB);
	CHECK(munlock(memory + 6 * MIB, 5 * MIB) == 0);
	rewrite(0, 19 * MIB);
	rewrite(20 * MIB, length - MIB);
	verify(0, 19 * MIB);
	return failures ? PROG_WRONG : PROG_OK;
}
