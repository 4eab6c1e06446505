/* client/preload.h - what the preload library's parts share: preload.c stands in front of what maps memory,
 * preload_calls.c in front of what would take memory or system calls away from the library.
 */
#pragma once

#define PRELOAD_EXPORT __attribute__((visibility("default")))

/* Set by `tierctl run --require`: what cannot be attached is not mapped at all. */
#define PRELOAD_REQUIRE "TIERFS_REQUIRE"

/* Sets errno to -err; returns -1. */
int preload_fail(int err);
/* The same for what a system call returned, if it is an error. */
long preload_result(long result);

/* One line on stderr, which names the file (fd -1: none) and what is the matter. Allocates nothing. */
void preload_say(int fd, const char *what, const char *why);
