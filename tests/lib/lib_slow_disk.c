#define FUSE_USE_VERSION 312

#include "lib_slow_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/loop.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib_scratch.h"

#define READS_MAX 64
#define LOOP_TRIES 100

struct held_read {
	fuse_req_t request;
	size_t bytes;
};

struct slow_disk {
	enum slow_disk_kind kind;
	uint64_t bytes;
	uint8_t fill;
	struct scratch scratch;
	char path[SCRATCH_PATH_LEN + 8]; /* of the FUSE file, the root of its file system */
	char device[32];
	int device_fd;
	struct fuse_session *session;
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	bool answering; /* under mutex, as are the reads */
	size_t reads;
	struct held_read read[READS_MAX];
};

/* --- the file ------------------------------------------------------------------------------------------------- */

static void slow_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct slow_disk *disk = fuse_req_userdata(request);
	struct stat st = { .st_ino = ino, .st_mode = S_IFREG | 0600, .st_nlink = 1, .st_size = (off_t)disk->bytes };

	(void)info;
	fuse_reply_attr(request, &st, 1000);
}

static void slow_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	(void)ino;
	fuse_reply_open(request, info);
}

static void answer(const struct slow_disk *disk, const struct held_read *held)
{
	char *data = malloc(held->bytes);

	memset(data, disk->fill, held->bytes);
	fuse_reply_buf(held->request, data, held->bytes);
	free(data);
}

static void slow_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info)
{
	struct slow_disk *disk = fuse_req_userdata(request);
	struct held_read held = { .request = request };

	(void)ino;
	(void)info;
	if ((uint64_t)offset < disk->bytes)
		held.bytes = size < disk->bytes - (uint64_t)offset ? size : disk->bytes - (uint64_t)offset;
	pthread_mutex_lock(&disk->mutex);
	if (!disk->answering && disk->reads < READS_MAX) {
		disk->read[disk->reads++] = held;
		held.request = NULL;
		pthread_cond_broadcast(&disk->cond);
	}
	pthread_mutex_unlock(&disk->mutex);
	if (held.request)
		answer(disk, &held);
}

static const struct fuse_lowlevel_ops operations = { .getattr = slow_getattr, .open = slow_open, .read = slow_read };

static void *serve(void *arg)
{
	struct slow_disk *disk = arg;

	fuse_session_loop(disk->session);
	return NULL;
}

static int mount_file(struct slow_disk *disk)
{
	char name[] = "slow_disk", *argv[] = { name, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	int fd;

	snprintf(disk->path, sizeof(disk->path), "%s/disk", disk->scratch.path);
	fd = open(disk->path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	close(fd);
	disk->session = fuse_session_new(&args, &operations, sizeof(operations), disk);
	fuse_opt_free_args(&args);
	if (!disk->session)
		return -ENOMEM;
	if (fuse_session_mount(disk->session, disk->path) == 0) {
		if (pthread_create(&disk->thread, NULL, serve, disk) == 0)
			return 0;
		fuse_session_unmount(disk->session);
	}
	fuse_session_destroy(disk->session);
	disk->session = NULL;
	return -ENODEV;
}

/* --- the loop device ------------------------------------------------------------------------------------------ */

/* Others may take the free number that the kernel names. */
static int set_up_loop(struct slow_disk *disk)
{
	struct loop_config config = { .info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), err = -ENODEV;

	config.fd = (uint32_t)open(disk->path, O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < LOOP_TRIES && control >= 0 && disk->device_fd < 0; i++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);

		if (number < 0)
			break;
		snprintf(disk->device, sizeof(disk->device), "/dev/loop%d", number);
		disk->device_fd = open(disk->device, O_RDONLY | O_CLOEXEC);
		if (disk->device_fd < 0) {
			err = -errno;
			break;
		}
		if (ioctl(disk->device_fd, LOOP_CONFIGURE, &config) == 0)
			break;
		err = -errno;
		close(disk->device_fd);
		disk->device_fd = -1;
		if (err != -EBUSY)
			break;
	}
	if (control >= 0)
		close(control);
	close((int)config.fd);
	return disk->device_fd >= 0 ? 0 : err;
}

/* --- life ----------------------------------------------------------------------------------------------------- */

int slow_disk_new(enum slow_disk_kind kind, uint64_t bytes, uint8_t fill, struct slow_disk **ret)
{
	struct slow_disk *disk = calloc(1, sizeof(*disk));
	int err;

	disk->kind = kind;
	disk->bytes = bytes;
	disk->fill = fill;
	disk->device_fd = -1;
	pthread_mutex_init(&disk->mutex, NULL);
	pthread_cond_init(&disk->cond, NULL);
	scratch_new(&disk->scratch, "slow_disk");
	err = mount_file(disk);
	if (!err && kind == SLOW_DISK_BLOCK)
		err = set_up_loop(disk);
	if (err) {
		slow_disk_free(disk);
		return err;
	}
	*ret = disk;
	return 0;
}

void slow_disk_free(struct slow_disk *disk)
{
	slow_disk_answer(disk);
	if (disk->device_fd >= 0)
		close(disk->device_fd);
	if (disk->session) {
		fuse_session_exit(disk->session);
		fuse_session_unmount(disk->session);
		pthread_join(disk->thread, NULL);
		fuse_session_destroy(disk->session);
	}
	scratch_free(&disk->scratch);
	pthread_cond_destroy(&disk->cond);
	pthread_mutex_destroy(&disk->mutex);
	free(disk);
}

int slow_disk_open(struct slow_disk *disk)
{
	int fd = open(disk->kind == SLOW_DISK_BLOCK ? disk->device : disk->path, O_RDONLY | O_DIRECT | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

void slow_disk_wait(struct slow_disk *disk)
{
	pthread_mutex_lock(&disk->mutex);
	while (!disk->reads)
		pthread_cond_wait(&disk->cond, &disk->mutex);
	pthread_mutex_unlock(&disk->mutex);
}

void slow_disk_answer(struct slow_disk *disk)
{
	pthread_mutex_lock(&disk->mutex);
	disk->answering = true;
	for (size_t i = 0; i < disk->reads; i++)
		answer(disk, &disk->read[i]);
	disk->reads = 0;
	pthread_mutex_unlock(&disk->mutex);
}
