/* prog/prog_fs.c - single system calls for test scripts: prog_fs COMMAND ARGUMENT...
 *
 * Prints what the call returned. If it failed, prints the name of the error ("ENOTEMPTY") and exits 1.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <tierfs/ioctl.h>

static int failed(void)
{
	printf("%s\n", strerrorname_np(errno));
	return EXIT_FAILURE;
}

static int wrong(const char *what)
{
	printf("%s\n", what);
	return EXIT_FAILURE;
}

static int done(int rc)
{
	return rc < 0 ? failed() : EXIT_SUCCESS;
}

/* ---- names ---- */

static int do_rename(char **arg)
{
	unsigned int flags = strcmp(arg[0], "noreplace") == 0  ? RENAME_NOREPLACE
			     : strcmp(arg[0], "exchange") == 0 ? RENAME_EXCHANGE
			     : strcmp(arg[0], "whiteout") == 0 ? (1U << 2)
							       : 0;

	return done(renameat2(AT_FDCWD, arg[1], AT_FDCWD, arg[2], flags));
}

static int do_link(char **arg)
{
	return done(link(arg[0], arg[1]));
}

static int do_symlink(char **arg)
{
	return done(symlink(arg[0], arg[1]));
}

static int do_mknod(char **arg)
{
	return done(mknod(arg[1], (strcmp(arg[0], "fifo") == 0 ? S_IFIFO : S_IFREG) | 0644, 0));
}

static int do_mkdir(char **arg)
{
	return done(mkdir(arg[0], 0777));
}

static int do_rmdir(char **arg)
{
	return done(rmdir(arg[0]));
}

static int do_unlink(char **arg)
{
	return done(unlink(arg[0]));
}

/* As QEMU with a directory for mem-path: the file has no name from the start, and is whole until its last close. */
static int do_scratch(char **arg)
{
	size_t size = strtoull(arg[1], NULL, 0);
	char *path, *data = malloc(size), *back = malloc(size);
	struct stat attr;
	int fd;

	if (!data || !back || asprintf(&path, "%s/scratch.XXXXXX", arg[0]) < 0)
		return failed();
	fd = mkstemp(path);
	if (fd < 0 || unlink(path) < 0 || ftruncate(fd, (off_t)size) < 0 || fstat(fd, &attr) < 0)
		return failed();
	if (attr.st_nlink != 0 || (size_t)attr.st_size != size)
		return wrong("wrong attributes");
	for (size_t i = 0; i < size; i++)
		data[i] = (char)(i * 7 + i / 4096);
	if (pwrite(fd, data, size, 0) != (ssize_t)size || fsync(fd) < 0)
		return failed();
	if (pread(fd, back, size, 0) != (ssize_t)size)
		return failed();
	if (memcmp(data, back, size) != 0)
		return wrong("wrong content");
	if (fchmod(fd, 0640) < 0 || fstat(fd, &attr) < 0 || (attr.st_mode & 07777) != 0640)
		return failed();
	free(path);
	free(data);
	free(back);
	return done(close(fd));
}

/* Removes every entry while the directory is being read: none may be left out. */
static int do_prune(char **arg)
{
	DIR *dir = opendir(arg[0]);
	struct dirent *entry;
	unsigned int count = 0;

	if (!dir)
		return failed();
	while ((entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd(dir), entry->d_name, 0) < 0)
			return failed();
		count++;
	}
	closedir(dir);
	printf("%u\n", count);
	return EXIT_SUCCESS;
}

/* ---- content ---- */

static int open_for(const char *path, int flags, const char *direct)
{
	return open(path, flags | (direct && strcmp(direct, "direct") == 0 ? O_DIRECT : 0));
}

/* pwrite FILE OFFSET LENGTH BYTE [direct] */
static int do_pwrite(char **arg)
{
	size_t len = strtoull(arg[2], NULL, 0);
	int fd = open_for(arg[0], O_RDWR, arg[4]);
	void *data;
	ssize_t done_bytes;

	if (fd < 0 || posix_memalign(&data, 4096, len ? len : 1) != 0)
		return failed();
	memset(data, atoi(arg[3]), len);
	done_bytes = pwrite(fd, data, len, (off_t)strtoull(arg[1], NULL, 0));
	if (done_bytes < 0)
		return failed();
	printf("%zd\n", done_bytes);
	free(data);
	return done(close(fd));
}

/* pread FILE OFFSET LENGTH [direct]: prints the number of bytes, and the byte that all of them are, or "mixed" */
static int do_pread(char **arg)
{
	size_t len = strtoull(arg[2], NULL, 0);
	int fd = open_for(arg[0], O_RDONLY, arg[3]);
	bool mixed = false;
	ssize_t got;
	void *data;

	if (fd < 0 || posix_memalign(&data, 4096, len ? len : 1) != 0)
		return failed();
	got = pread(fd, data, len, (off_t)strtoull(arg[1], NULL, 0));
	if (got < 0)
		return failed();
	for (ssize_t i = 1; i < got; i++)
		mixed |= ((uint8_t *)data)[i] != ((uint8_t *)data)[0];
	printf("%zd", got);
	if (mixed)
		printf(" mixed");
	else if (got > 0)
		printf(" %u", ((uint8_t *)data)[0]);
	printf("\n");
	free(data);
	return done(close(fd));
}

static int do_append(char **arg)
{
	size_t len = strtoull(arg[1], NULL, 0);
	int fd = open(arg[0], O_WRONLY | O_APPEND);
	char *data = calloc(1, len + 1);
	ssize_t done_bytes;

	if (fd < 0 || !data)
		return failed();
	done_bytes = write(fd, data, len);
	if (done_bytes < 0)
		return failed();
	printf("%zd\n", done_bytes);
	free(data);
	return done(close(fd));
}

static int do_truncate(char **arg)
{
	return done(truncate(arg[0], (off_t)strtoull(arg[1], NULL, 0)));
}

/* fallocate FILE MODE OFFSET LENGTH, MODE as a number */
static int do_fallocate(char **arg)
{
	int fd = open(arg[0], O_RDWR);

	if (fd < 0)
		return failed();
	return done(fallocate(fd, (int)strtol(arg[1], NULL, 0), (off_t)strtoull(arg[2], NULL, 0),
			      (off_t)strtoull(arg[3], NULL, 0)));
}

/* seek FILE data|hole OFFSET */
static int do_seek(char **arg)
{
	int fd = open(arg[0], O_RDONLY);
	off_t found;

	if (fd < 0)
		return failed();
	found = lseek(fd, (off_t)strtoull(arg[2], NULL, 0), strcmp(arg[1], "data") == 0 ? SEEK_DATA : SEEK_HOLE);
	if (found < 0)
		return failed();
	printf("%lld\n", (long long)found);
	return EXIT_SUCCESS;
}

static int do_mmap(char **arg)
{
	int fd = open(arg[0], O_RDWR);

	if (fd < 0)
		return failed();
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? failed() : EXIT_SUCCESS;
}

static int do_fsync(char **arg)
{
	int fd = open(arg[0], O_RDONLY);

	return fd < 0 ? failed() : done(fsync(fd));
}

/* info PATH [r|w]: prints inode number, rights, size, block size and the length of the runtime directory's name */
static int do_info(char **arg)
{
	int fd = open(arg[0], arg[1] && *arg[1] == 'w' ? O_WRONLY : O_RDONLY);
	struct tierfs_ioc_info info, again;

	if (fd < 0 || ioctl(fd, TIERFS_IOC_INFO, &info) < 0 || ioctl(fd, TIERFS_IOC_INFO, &again) < 0)
		return failed();
	if (memcmp(info.token, again.token, sizeof(info.token)) == 0)
		return wrong("the same token twice");
	if (strnlen(info.run_dir, sizeof(info.run_dir)) == sizeof(info.run_dir) ||
	    info.abi_version != TIERFS_ABI_VERSION)
		return wrong("malformed answer");
	printf("%llu %u %llu %u %s\n", (unsigned long long)info.ino, info.rights, (unsigned long long)info.size_bytes,
	       info.block_bytes, info.run_dir);
	return EXIT_SUCCESS;
}

static int do_other_ioctl(char **arg)
{
	int fd = open(arg[0], O_RDONLY);
	char buf[256] = "";

	return fd < 0 ? failed() : done(ioctl(fd, _IOR('t', 99, buf), buf));
}

static const struct {
	const char *name;
	int least; /* arguments */
	int (*fn)(char **arg);
} commands[] = {
	{ "append", 2, do_append }, { "fallocate", 4, do_fallocate }, { "fsync", 1, do_fsync },
	{ "info", 1, do_info },     { "link", 2, do_link },           { "mkdir", 1, do_mkdir },
	{ "mknod", 2, do_mknod },   { "mmap", 1, do_mmap },           { "other-ioctl", 1, do_other_ioctl },
	{ "pread", 3, do_pread },   { "prune", 1, do_prune },         { "pwrite", 4, do_pwrite },
	{ "rename", 3, do_rename }, { "rmdir", 1, do_rmdir },         { "scratch", 2, do_scratch },
	{ "seek", 3, do_seek },     { "symlink", 2, do_symlink },     { "truncate", 2, do_truncate },
	{ "unlink", 1, do_unlink },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (argc > 1 && strcmp(argv[1], commands[i].name) == 0 && argc - 2 >= commands[i].least)
			return commands[i].fn(argv + 2);
	fprintf(stderr, "usage: prog_fs COMMAND ARGUMENT...; see the source\n");
	return 2;
}
