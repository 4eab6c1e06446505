/* client/preload.h - what the preload library's parts share: preload.c stands in front of what maps memory,
 * preload_lock.c in front of what locks it or advises on it, preload_calls.c in front of what would take memory or
 * system calls away from the library.
 */
#pragma once

#include <stddef.h>

#define PRELOAD_EXPORT __attribute__((visibility("default")))

/* Set by `tierctl run --require`: what cannot be attached is not mapped at all. */
#define PRELOAD_REQUIRE "TIERFS_REQUIRE"

/* Sets errno to -err; returns -1. */
int preload_fail(int err);
/* The same for what a system call returned, if it is an error. */
long preload_result(long result);

/* One line on stderr, which names the file (fd -1: none) and what is the matter. Allocates nothing. */
void preload_say(int fd, const char *what, const char *why);
/* The same with the file's name (empty: not known). */
void preload_say_of(const char *file, const char *what, const char *why);

int preload_mlock2(const void *addr, size_t length, unsigned int flags) __asm__("mlock2");
