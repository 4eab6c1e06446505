/* front/session.h - what a FUSE session is made of, so that another daemon can go on with it. */
#pragma once

#include <stdint.h>

#define SESSION_INIT_MAX 1024

struct session {
	int fuse_fd;
	uint32_t number;   /* how many sessions the mount has had before */
	uint32_t init_len; /* bytes of init */
	/* the first request that the kernel ever sent (INIT), without which a new session could not begin */
	uint8_t init[SESSION_INIT_MAX] __attribute__((aligned(8)));
};
