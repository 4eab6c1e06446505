/* front/through_child.h - the process that opens doors (front/through.h). It holds neither /dev/fuse nor the pool. */
#pragma once

#include <limits.h>

/* A request is a path with its NUL, and a socket on which the answer is sent: 0 and the descriptor, or -errno. */
#define THROUGH_PATH_MAX PATH_MAX

/* Of a fork: serves requests that come to fd until the other end is closed. */
_Noreturn void through_child(int fd);
