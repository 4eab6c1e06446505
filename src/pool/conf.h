/* pool/conf.h - the small text files of a pool: lines "key value", written once. 0 or -errno. */
#pragma once

#include <stddef.h>

/* Takes the line "key value" off *text; value must be made of the given characters alone. -EBADMSG. */
int conf_line(const char **text, const char *key, const char *chars, char *value, size_t cap);
/* A small file, whole and durable, or not there. */
int conf_write_whole(int dir_fd, const char *name, const char *tmp, const void *bytes, size_t len);
