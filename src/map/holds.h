/* map/holds.h - which pages of an arena a device may be writing into, whatever the page tables say.
 *
 * A disk read with O_DIRECT (a guest's disk with cache=none) takes the pages of its buffer when it begins, and the
 * device writes into them until it ends, also after they were taken out of every page table. To user space such a page
 * looks idle. The kernel counts it as pinned: this asks the kernel, with a BPF program that reads its counts.
 *
 * Who counts as a pin (FOLL_PIN) on the kernels this works on:
 *   O_DIRECT reads and writes of block devices and of file systems on them, by read(2), aio and io_uring; FUSE likewise
 *   io_uring's registered buffers, VFIO and vDPA, RDMA, AF_XDP, process_vm_readv and process_vm_writev
 * Who takes a mere reference, which cannot be told from the kernel's own housekeeping:
 *   O_DIRECT of NFS and 9p, vmsplice, ptrace, KVM's few pages of its own
 * A page with no reference but those of the page cache has neither. Who asks for references is told of more pages than
 * need be, and of no fewer: any that is mapped somewhere, and now and then one that the kernel is busy with.
 *
 * What an answer is worth. "Pinned" may be wrong for a page that is just changing hands; ask again later. "Not pinned"
 * was true at a moment during the call, of the page that was there: an absent page is not pinned. It stays true as long
 * as nobody can come by a new pin, and for pins that write that is so while the page is write-protected in every page
 * table: who pins for writing needs a writable entry, or faults. So after write-protection one look is exact, and what
 * a device wrote into a page that is found free is in the page: the kernel drops a pin after the device is done.
 *
 * Needs CAP_BPF and CAP_PERFMON (root has them) when opened, none later. Thread-safe but for open and close.
 */
#pragma once

#include <stdint.h>

struct holds;

/* Which pages are told of. A referenced page has any reference besides those of the page cache: also that of a page
 * table that maps it, and of the kernel's own housekeeping for a moment. */
enum holds_kind { HOLDS_PINNED, HOLDS_REFERENCED };

/* -EOPNOTSUPP: pins cannot be seen on this host; one line in the log says why, and what that means. It believes
 * nothing: a page of its own is pinned and let go, and the answers must be right. */
int holds_open(struct holds **ret);
void holds_close(struct holds *holds); /* takes NULL */

enum holds_what {
	HOLDS_ONLY,
	HOLDS_OR_LARGE, /* also pages that share a folio with others, held or not: they cannot be punched one by one */
};

/* Sets pinned[i] to 1 if page (4 KiB) first_page + i of the file that fd of this process is open on is pinned (or
 * referenced: then also if it is pinned), is what else was asked for, or nothing sure can be said of it, to 0
 * otherwise. fd is on tmpfs. Returns -errno, with 1 for all, if the kernel refuses. Costs a system call for each 32
 * pages that begin at a multiple of 32. */
int holds_look(struct holds *holds, enum holds_kind kind, int fd, uint64_t first_page, uint64_t count,
	       enum holds_what what, uint8_t *pinned);
