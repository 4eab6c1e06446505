/* front/resent.c - see resent.h.
 *
 * A request is copied by the kernel into the memory of the thread that reads it. If the daemon is killed meanwhile and
 * a page of that memory is absent, the kernel gives up: the request fails, with EIO, and does not come to the next
 * daemon. Of a write back that loses what a mapping was told to hold, as nobody repeats it. So requests are read into
 * memory that is there, and locked, and are copied from it; what libfuse has is absent until it is used. Only as many
 * threads read at a time as there is such memory for: a thread that works on a request, however long, has none of it.
 */
#include "front/resent.h"

#include <errno.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define UNIQUE_RESENT (UINT64_C(1) << 63) /* FUSE_UNIQUE_RESEND of later headers */
#define LANDINGS 16

/* Where a request lands. Who has taken it owns it. */
struct landing {
	void *memory;
	size_t bytes;
	bool taken; /* under lock */
};

static __thread uint64_t unique;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* a leaf */
static pthread_cond_t freed = PTHREAD_COND_INITIALIZER;
static struct landing landings[LANDINGS];

/* The first that is free, so that few of them are used if few are needed. */
static struct landing *find_free(void)
{
	for (unsigned int i = 0; i < LANDINGS; i++)
		if (!landings[i].taken)
			return &landings[i];
	return NULL;
}

static struct landing *landing_take(void)
{
	struct landing *landing;

	pthread_mutex_lock(&lock);
	while (!(landing = find_free()))
		pthread_cond_wait(&freed, &lock);
	landing->taken = true;
	pthread_mutex_unlock(&lock);
	return landing;
}

static void landing_put(void *arg)
{
	struct landing *landing = arg;

	pthread_mutex_lock(&lock);
	landing->taken = false;
	pthread_cond_signal(&freed);
	pthread_mutex_unlock(&lock);
}

/* False: there is no memory, now. Who may not lock it has it present at least. */
static bool landing_holds(struct landing *landing, size_t bytes)
{
	void *memory;

	if (landing->bytes >= bytes)
		return true;
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (memory == MAP_FAILED)
		return false;
	if (mlock(memory, bytes) < 0 && madvise(memory, bytes, MADV_POPULATE_WRITE) < 0) {
		munmap(memory, bytes);
		return false;
	}
	madvise(memory, bytes, MADV_DONTFORK); /* after a fork the kernel would have to copy a page before it writes */
	if (landing->memory)
		munmap(landing->memory, landing->bytes);
	landing->memory = memory;
	landing->bytes = bytes;
	return true;
}

/* libfuse ends its threads by cancelling them while they read, and only then. */
ssize_t resent_read(int fd, void *buf, size_t len, void *userdata)
{
	const struct fuse_in_header *header = buf;
	struct landing *landing;
	int may_cancel, err;
	ssize_t got;
	volatile bool holds; /* pthread_cleanup_push() is a setjmp to the compiler */

	(void)userdata;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &may_cancel);
	landing = landing_take();
	holds = landing_holds(landing, len);
	pthread_cleanup_push(landing_put, landing);
	pthread_setcancelstate(may_cancel, NULL);
	got = read(fd, holds ? landing->memory : buf, len);
	err = errno;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	if (got > 0 && holds)
		memcpy(buf, landing->memory, (size_t)got);
	pthread_cleanup_pop(true);
	pthread_setcancelstate(may_cancel, NULL);
	unique = got >= (ssize_t)sizeof(*header) ? header->unique : 0;
	errno = err;
	return got;
}

bool resent_is_done(struct ns *ns, uint64_t *ret_ino)
{
	uint64_t ino;

	/* What comes for the first time cannot have been done, whatever was written of a request of that number. */
	if (!ns_serve(ns, unique & ~UNIQUE_RESENT, &ino) || !(unique & UNIQUE_RESENT))
		return false;
	*ret_ino = ino;
	return true;
}
