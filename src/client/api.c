/* client/api.c - include/tierfs/tierfs.h over the rest of the library. */
#include <tierfs/tierfs.h>

#include <errno.h>

#include "client/client.h"
#include "client/client_agent.h"
#include "client/client_sys.h"

/* The preload library hides everything it does not mean to put in front of the program's own symbols. */
#define EXPORT __attribute__((visibility("default")))

EXPORT int tierfs_info(int fd, struct tierfs_ioc_info *ret)
{
	struct tierfs_ioc_info info;
	int err = client_info(fd, &info);

	if (!err && ret)
		*ret = info;
	return err;
}

EXPORT int tierfs_start(void)
{
	return client_agent_start();
}

EXPORT int tierfs_attach(int fd, void *addr, size_t length, int prot, int flags, off_t offset, void **ret)
{
	struct client_wish wish = {
		.fd = fd, .addr = addr, .length_bytes = length, .prot = prot, .flags = flags, .offset = offset
	};

	return client_attach(&wish, ret, NULL);
}

EXPORT int tierfs_detach(void *addr, size_t length)
{
	int err;

	if ((uintptr_t)addr % 4096)
		return -EINVAL;
	err = client_give_up(addr, length);
	if (err)
		return err;
	return (int)client_sys(SYS_munmap, addr, length);
}

EXPORT int tierfs_discard(void *addr, size_t length)
{
	if ((uintptr_t)addr % 4096 || length % 4096)
		return -EINVAL;
	if (length == 0)
		return 0;
	return client_is_all_attached(addr, length) ? client_discard(addr, length) : -EINVAL;
}

EXPORT int tierfs_advise_huge(void *addr, size_t length, int on)
{
	if (!client_is_all_attached(addr, length))
		return -EINVAL;
	client_advise_huge(addr, length, on);
	return 0;
}
