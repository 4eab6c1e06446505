/* tierfs/tierfs.h - the C API of libtierfs: map RAM files at the speed of shared memory, without a preload.
 *
 * A VMM opens a RAM file in a tierfs mount as it opens any file, and calls tierfs_attach() where it would call
 * mmap(MAP_SHARED). What comes back is ordinary shared memory: resident pages are reached without tierfs, an
 * absent page is fetched by the daemon while the toucher waits.
 *
 * Functions return 0 or a negative errno value, unless they say otherwise. All are thread-safe. The library starts
 * three threads in the process (all signals blocked) at the first attach; they end with the process, and have a
 * descriptor table of their own: nothing of the library's is among the program's descriptors.
 * Mappings do not survive fork() in the child (MADV_DONTFORK).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <tierfs/ioctl.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Says whether fd is a RAM file or directory of a tierfs mount, and fills *ret (may be NULL; written on success).
 * -ENOTTY: it is not. -ENOTCONN: it is, and the daemon of that mount is gone. */
int tierfs_info(int fd, struct tierfs_ioc_info *ret);

/* Starts the library's threads, which the first attach does otherwise. For programs that put a system-call filter on
 * themselves: before it. -EAGAIN, -ENOMEM. */
int tierfs_start(void);

/* Maps length bytes of the RAM file fd from offset on, shared. addr, prot and flags are as in mmap(2); of flags
 * MAP_SHARED is implied and MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_NORESERVE are honoured. length is rounded up to whole
 * pages; offset must be a multiple of 4 KiB. *ret is the address. fd may be closed afterwards: the library keeps a
 * duplicate. -ENOTTY not tierfs; -EINVAL bad range or flags, or the range ends beyond the file; -EACCES the descriptor
 * does not allow prot; -EBUSY the file is mapped plain; -ENOTCONN the daemon is gone; -EPROTO it speaks another
 * version; -EPERM it is not to be trusted; -EMFILE too many mappings (4,096), mounts (16) or open files (three for
 * each mapping); -ENOMEM. */
int tierfs_attach(int fd, void *addr, size_t length, int prot, int flags, off_t offset, void **ret);

/* Unmaps, as munmap(2): any part of attached memory, page aligned. Memory that is not attached is left to munmap(2). */
int tierfs_detach(void *addr, size_t length);

/* Discards: the range of attached memory becomes a hole and reads as zeros, in DRAM and in the cold store.
 * addr and length are multiples of 4 KiB. -EINVAL the range is not attached memory. */
int tierfs_discard(void *addr, size_t length);

/* Says where the program would have huge pages in attached memory, or (on == 0) not any more; with the preload library,
 * madvise(MADV_HUGEPAGE) does. It counts for memory that is touched for the first time afterwards, while the budget of
 * the mount is far, if addr and the offset in the file are aligned alike to 2 MiB. -EINVAL not attached memory. */
int tierfs_advise_huge(void *addr, size_t length, int on);

#ifdef __cplusplus
}
#endif
