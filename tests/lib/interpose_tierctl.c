/* interpose_tierctl.c - preloaded into tierctl: one daemon has died, and its number is another process's.
 *
 *   TIERFS_TEST_PEER=PID   the third question who is at the other end of a socket is answered with that number: by then
 *                          two connections stand, and the question is which process they are with
 */
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int getsockopt(int fd, int level, int option, void *restrict value, socklen_t *restrict length)
{
	static int asked;
	long rc = syscall(SYS_getsockopt, fd, level, option, value, length);
	const char *peer = getenv("TIERFS_TEST_PEER");

	if (rc == 0 && peer && level == SOL_SOCKET && option == SO_PEERCRED && ++asked == 3)
		((struct ucred *)value)->pid = (pid_t)strtol(peer, NULL, 10);
	return (int)rc;
}
