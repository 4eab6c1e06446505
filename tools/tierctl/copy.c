/* copy.c - tierctl copy: opens both sides with O_DIRECT where they have it, and gives the destination its size. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/size.h"
#include "copier.h"
#include "tierctl.h"

struct copy {
	const char *source, *destination;
	struct copier copier;
	bool created; /* the destination was not there before */
	double seconds;
};

/* O_DIRECT where the filesystem has it. */
static int open_direct(const char *path, int flags, mode_t mode, bool *ret_direct)
{
	int fd = open(path, flags | O_DIRECT | O_CLOEXEC | O_NOCTTY, mode);

	*ret_direct = fd >= 0;
	if (fd < 0 && errno == EINVAL)
		fd = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
	return fd < 0 ? -errno : fd;
}

static int open_source(struct copy *copy, struct stat *ret)
{
	int fd = open_direct(copy->source, O_RDONLY, 0, &copy->copier.in_direct);

	if (fd < 0)
		return fail_errno(copy->source, "cannot open", fd);
	copy->copier.in_fd = fd;
	if (fstat(fd, ret) < 0)
		return fail_errno(copy->source, "cannot stat", errno);
	if (!S_ISREG(ret->st_mode))
		return fail(copy->source, "cannot be copied", "not a regular file");
	copy->copier.size_bytes = (uint64_t)ret->st_size;
	return 0;
}

/* An existing destination keeps its identity (a RAM file may be mapped): it is not truncated to nothing first. */
static int open_destination(struct copy *copy, const struct stat *source)
{
	bool *direct = &copy->copier.out_direct;
	struct stat st;
	int fd = open_direct(copy->destination, O_RDWR, 0, direct);

	if (fd == -ENOENT) {
		fd = open_direct(copy->destination, O_RDWR | O_CREAT | O_EXCL, source->st_mode & 0600, direct);
		/* A filesystem without O_DIRECT may refuse it only after it has made the file. */
		if (fd == -EEXIST)
			fd = open_direct(copy->destination, O_RDWR, 0, direct);
		copy->created = fd >= 0;
	}
	if (fd < 0)
		return fail_errno(copy->destination, "cannot open", fd);
	copy->copier.out_fd = fd;
	if (fstat(fd, &st) < 0)
		return fail_errno(copy->destination, "cannot stat", errno);
	if (!S_ISREG(st.st_mode))
		return fail(copy->destination, "cannot be copied to", "not a regular file");
	if (st.st_dev == source->st_dev && st.st_ino == source->st_ino)
		return fail(copy->destination, "cannot be copied to", "it is the source");
	copy->copier.punch = st.st_size > 0;
	if (st.st_size != source->st_size && ftruncate(fd, source->st_size) < 0)
		return fail_errno(copy->destination, "cannot be given its size", errno);
	return 0;
}

/* A direct write of the last page went beyond an odd size. */
static int finish(struct copy *copy, const struct stat *source)
{
	if (copy->copier.out_direct && source->st_size % 4096 && ftruncate(copy->copier.out_fd, source->st_size) < 0)
		return fail_errno(copy->destination, "cannot be given its size", errno);
	if (fsync(copy->copier.out_fd) < 0)
		return fail_errno(copy->destination, "cannot be written out", errno);
	return 0;
}

static int do_copy(struct copy *copy)
{
	struct progress progress;
	struct stat source;
	uint64_t start_ns;
	int err;

	if (open_source(copy, &source) || open_destination(copy, &source))
		return 1;
	start_ns = clock_ns();
	progress_start(&progress, "copied");
	copy->copier.progress = &progress;
	err = copier_run(&copy->copier);
	progress_end(&progress);
	if (err)
		return fail_errno(copy->copier.out_failed ? copy->destination : copy->source,
				  copy->copier.out_failed ? "cannot be written" : "cannot be read", err);
	if (finish(copy, &source))
		return 1;
	copy->seconds = (double)(clock_ns() - start_ns) / (double)NS_PER_S;
	return 0;
}

static int print_totals(const struct copy *copy, const struct args *args)
{
	const struct copier *copier = &copy->copier;
	char data[SIZE_TEXT_LEN], holes[SIZE_TEXT_LEN], rate[SIZE_TEXT_LEN];
	double speed = copy->seconds > 0 ? (double)copier->size_bytes / copy->seconds : 0;

	if (args->json)
		return print_json(json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:I, s:b, s:b}", "source", copy->source,
					    "destination", copy->destination, "size_bytes",
					    (json_int_t)copier->size_bytes, "data_bytes",
					    (json_int_t)copier->data_bytes, "hole_bytes",
					    (json_int_t)copier->hole_bytes, "seconds", copy->seconds,
					    "bytes_per_second", (json_int_t)speed, "direct_read",
					    (int)copier->in_direct, "direct_write", (int)copier->out_direct));
	if (args->bytes)
		printf("%s: %llu bytes copied, %llu bytes of holes, %.1f s, %.0f bytes/s\n", copy->destination,
		       (unsigned long long)copier->data_bytes, (unsigned long long)copier->hole_bytes, copy->seconds,
		       speed);
	else
		printf("%s: %s copied, %s of holes, %.1f s, %s/s\n", copy->destination,
		       size_format(copier->data_bytes, data), size_format(copier->hole_bytes, holes), copy->seconds,
		       size_format((uint64_t)speed, rate));
	return 0;
}

int copy_run(const struct command *command, int argc, char **argv)
{
	struct copy copy = { .copier = { .in_fd = -1, .out_fd = -1 } };
	struct args args;
	int rc = args_parse(command, argc, argv, 2, 2, &args);

	if (rc)
		return rc < 0;
	copy.source = args.operands[0];
	copy.destination = args.operands[1];
	copy.copier.depth = args.depth;
	rc = do_copy(&copy);
	/* Half a copy looks like a whole one. */
	if (rc && copy.created)
		unlink(copy.destination);
	cleanup_closep(&copy.copier.in_fd);
	cleanup_closep(&copy.copier.out_fd);
	return rc ? rc : print_totals(&copy, &args);
}
