/* front/fuse_operations.h - the operations that FUSE asks for, and the door that they find in their user data. */
#pragma once

#define FUSE_USE_VERSION 314

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>

#include "front/fuse.h"

struct fusedoor {
	struct door door;             /* immutable */
	struct fuse_session *session; /* immutable */
	char *mountpoint;             /* immutable */
	bool mounted;                 /* owner: the thread that made it */
	fusedoor_ready_fn *on_ready;
	void *on_ready_arg;
	fusedoor_keep_fn *keep;
	void *keep_arg;
	struct through *through; /* NULL: no passthrough. Immutable */
	struct session first;    /* the kernel's greeting, while it is answered; init_len 0: it was */
	struct session taken;    /* fuse_fd -1: mounted here */
	pthread_t runner;        /* set before running */
	_Atomic bool running;
};

/* Their user data is the struct fusedoor. */
extern const struct fuse_lowlevel_ops fuse_operations;
