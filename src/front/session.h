/* front/session.h - what a FUSE session is made of, so that another daemon can go on with it. */
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define SESSION_INIT_MAX 1024

struct session {
	int fuse_fd;
	uint32_t number;   /* how many sessions the mount has had before */
	uint32_t init_len; /* bytes of init */
	/* the first request that the kernel ever sent (INIT), without which a new session could not begin */
	uint8_t init[SESSION_INIT_MAX] __attribute__((aligned(8)));
};

/* A name beside a session, in the place that it has where the session is kept. -ENAMETOOLONG. */
static inline int session_put_text(char *to, size_t cap, const char *text)
{
	return snprintf(to, cap, "%s", text) >= (int)cap ? -ENAMETOOLONG : 0;
}
