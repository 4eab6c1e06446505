/* client/client_sys.h - system calls without libc's wrappers.
 *
 * The preload library stands in front of some of libc's functions, syscall(2) among them: its own calls must not come
 * back to it. They need no errno either, so that nothing of the program's is touched: what comes back is 0 or more, or
 * -errno.
 */
#pragma once

#include <sys/syscall.h>

long client_sys6(long number, long a, long b, long c, long d, long e, long f);

/* client_sys(NUMBER, ARGUMENT...): up to six, of any integer or pointer type. */
#define client_sys(...) CLIENT_SYS_PADDED(__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define CLIENT_SYS_PADDED(number, a, b, c, d, e, f, ...) \
	client_sys6((number), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
