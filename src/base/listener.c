/* base/listener.c - see listener.h. */
#include "base/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/un.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

static int option_of(int fd, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -1 : value;
}

/* A path can be made twice, and the socket knows its path only. To see its file is the right of CAP_NET_ADMIN; without
 * it the path has to do. */
static bool has_its_file(int fd, const char *path)
{
	CLEANUP_CLOSE int file = ioctl(fd, SIOCUNIXFILE, 0);
	int err = errno;
	struct stat at_path, own;

	if (lstat(path, &at_path) < 0 || !S_ISSOCK(at_path.st_mode))
		return false;
	if (file < 0)
		return err == EPERM;
	return fstat(file, &own) == 0 && own.st_dev == at_path.st_dev && own.st_ino == at_path.st_ino;
}

/* NULL: it is the one. */
static const char *what_is_wrong(int fd, const struct sockaddr_un *address, int type)
{
	struct sockaddr_un bound = { .sun_family = AF_UNSPEC };
	socklen_t len = sizeof(bound);

	if (option_of(fd, SO_DOMAIN) != AF_UNIX || option_of(fd, SO_TYPE) != type)
		return "it is of another type";
	if (option_of(fd, SO_ACCEPTCONN) != 1)
		return "it does not listen";
	if (getsockname(fd, (struct sockaddr *)&bound, &len) < 0 ||
	    strncmp(bound.sun_path, address->sun_path, sizeof(bound.sun_path)) != 0)
		return "it is of another place";
	if (!has_its_file(fd, address->sun_path))
		return "its file is gone";
	return NULL;
}

static int take_kept(const struct listener_keeper *keeper, const char *name, const struct sockaddr_un *address,
		     int type)
{
	CLEANUP_CLOSE int fd = keeper ? keeper->take(keeper->arg, name) : -1;
	const char *wrong = fd < 0 ? NULL : what_is_wrong(fd, address, type);

	if (wrong) {
		log_warn("%s: the socket that was kept is not used: %s", address->sun_path, wrong);
		return -1;
	}
	/* Whoever kept it may have changed this. */
	if (fd >= 0 && fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return -1;
	return STEAL_FD(fd);
}

static int bind_new(const struct sockaddr_un *address, int type, int *ret)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	unlink(address->sun_path);
	if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 || chmod(address->sun_path, 0666) < 0)
		return -errno;
	*ret = STEAL_FD(fd);
	return 0;
}

int listener_open(const char *dir, const char *name, int type, int backlog, const struct listener_keeper *keeper,
		  int *ret)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	CLEANUP_CLOSE int fd = -1;
	int err = 0;

	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, name) >= (int)sizeof(address.sun_path))
		return -ENAMETOOLONG;
	fd = take_kept(keeper, name, &address, type);
	if (fd < 0)
		err = bind_new(&address, type, &fd);
	if (err < 0)
		return err;
	/* Again on one that listens: who connects from now on sees this process at the other end. */
	if (listen(fd, backlog) < 0)
		return -errno;
	if (keeper)
		keeper->keep(keeper->arg, name, fd);
	*ret = STEAL_FD(fd);
	return 0;
}
