#include "pool/conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

int conf_line(const char **text, const char *key, const char *chars, char *value, size_t cap)
{
	size_t key_len = strlen(key), len;
	const char *p = *text;

	if (strncmp(p, key, key_len) != 0 || p[key_len] != ' ')
		return -EBADMSG;
	p += key_len + 1;
	len = strspn(p, chars);
	if (len == 0 || len >= cap || p[len] != '\n')
		return -EBADMSG;
	memcpy(value, p, len);
	value[len] = '\0';
	*text = p + len + 1;
	return 0;
}

int conf_write_whole(int dir_fd, const char *name, const char *tmp, const void *bytes, size_t len)
{
	CLEANUP_CLOSE int fd = openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return -errno;
	errno = EIO; /* for a short write */
	if (write(fd, bytes, len) != (ssize_t)len || fsync(fd) < 0 || renameat(dir_fd, tmp, dir_fd, name) < 0 ||
	    fsync(dir_fd) < 0)
		return -errno;
	return 0;
}
