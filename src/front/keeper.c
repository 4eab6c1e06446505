/* front/keeper.c - see keeper.h: which of the two it is, and how the mount passes from one to the other. */
#include "front/keeper.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/lock.h"
#include "base/log.h"
#include "engine/kept.h"
#include "front/holder.h"
#include "front/mountpoint.h"
#include "front/service.h"
#include "mem/arena.h"
#include "pool/pool.h"

struct left {
	STAILQ_ENTRY(left) link;
	struct kept_mapping mapping;
	int uffd;
	int arena_fd; /* -1: nothing holds the arena for it */
};

struct left_listener {
	STAILQ_ENTRY(left_listener) link;
	char *name;
	int fd;
};

struct keeper {
	const struct keeper_config *config;
	struct service *service; /* NULL: no service manager waits for us */
	struct lock lock;        /* holder, for threads that stash */
	struct holder *holder;   /* NULL: none */
	STAILQ_HEAD(, left) left;
	STAILQ_HEAD(, left) left_arenas; /* no mapping is known yet that they are for; without a userfaultfd */
	STAILQ_HEAD(, left_listener) left_listeners; /* of a holder */
	char *mountpoint;                            /* where a session goes on; NULL: nowhere */
	_Atomic bool kept;                           /* the session is in other hands as well */
	bool is_of_holder;                           /* it was, before we came */
	uint32_t session;
};

/* ---- beginning ---- */

/* The service manager passes on what it kept; a holder may be there in any case, when the earlier daemon was started by
 * hand. */
static int find_session(struct keeper *keeper)
{
	CLEANUP_FREE char *mountpoint = NULL;
	char run_dir[TIERFS_RUN_DIR_LEN] = "";
	int err = mountpoint_name(keeper->config->mountpoint, &mountpoint);
	int known = pool_find_run_dir(keeper->config->pool_dir, run_dir);

	/* Also without a pool: what the service manager keeps is of another one then. */
	if (keeper->service && service_find(keeper->service, run_dir, mountpoint ? mountpoint : "") == 0) {
		keeper->session = service_session(keeper->service);
		keeper->kept = true;
	} else {
		err = err < 0 ? err : known;
		if (!err)
			err = holder_find(run_dir, mountpoint, &keeper->holder, &keeper->session);
		keeper->kept = keeper->is_of_holder = !err;
	}
	if (!err)
		keeper->mountpoint = STEAL_PTR(mountpoint);
	return err;
}

/* For each its own: to hold an arena twice does no harm. */
static void join_arenas(struct keeper *keeper)
{
	struct left *left, *arena;

	while ((arena = STAILQ_FIRST(&keeper->left_arenas))) {
		STAILQ_REMOVE_HEAD(&keeper->left_arenas, link);
		STAILQ_FOREACH(left, &keeper->left, link)
			if (left->mapping.id == arena->mapping.id && left->arena_fd < 0)
				break;
		if (left)
			left->arena_fd = arena->arena_fd;
		else
			close(arena->arena_fd);
		free(arena);
	}
}

static void take_left(void *arg, const struct kept_mapping *mapping, int fd)
{
	struct keeper *keeper = arg;
	struct left *left = malloc(sizeof(*left));

	if (!left) {
		log_error("no memory for the mapping of process %d: it waits for another tierfs", (int)mapping->pid);
		close(fd);
		return;
	}
	if (mapping->length_bytes) {
		*left = (struct left){ .mapping = *mapping, .uffd = fd, .arena_fd = -1 };
		STAILQ_INSERT_TAIL(&keeper->left, left, link);
	} else {
		*left = (struct left){ .mapping = *mapping, .uffd = -1, .arena_fd = fd };
		STAILQ_INSERT_TAIL(&keeper->left_arenas, left, link);
	}
}

/* Whatever became of the mount: processes may still map files of the pool. */
static void find_mappings(struct keeper *keeper)
{
	char run_dir[TIERFS_RUN_DIR_LEN] = "";
	int err;

	/* Of a pool that cannot be read one is told when it is opened. */
	if (pool_find_run_dir(keeper->config->pool_dir, run_dir) < 0)
		return;
	err = holder_fetch(run_dir, take_left, keeper);
	join_arenas(keeper);
	if (err < 0 && err != -ENOENT && err != -EBUSY)
		log_warn("the userfaultfds of attached processes cannot be fetched: %s", strerror(-err));
}

static void take_left_listener(void *arg, const char *name, int fd)
{
	struct keeper *keeper = arg;
	struct left_listener *left = calloc(1, sizeof(*left));

	if (left)
		left->name = strdup(name);
	if (!left || !left->name) {
		free(left);
		close(fd);
		return;
	}
	left->fd = fd;
	STAILQ_INSERT_TAIL(&keeper->left_listeners, left, link);
}

/* First of all: a holder that has no mount to give may end when it is asked for one. Without them new ones are made. */
static void find_listeners(struct keeper *keeper)
{
	char run_dir[TIERFS_RUN_DIR_LEN] = "";

	if (pool_find_run_dir(keeper->config->pool_dir, run_dir) == 0 &&
	    holder_fetch_listeners(run_dir, take_left_listener, keeper) < 0)
		log_debug("%s: nobody has kept its sockets", run_dir);
}

static void start_holder(struct keeper *keeper)
{
	const struct keeper_config *config = keeper->config;
	struct holder_config holder = { .foreground = config->foreground,
					.program = config->program,
					.argv = config->argv };
	int err = holder_start(&holder, &keeper->holder);

	if (err < 0)
		log_warn("cannot start the holder (%s): if tierfs dies, the mount dies with it", strerror(-err));
}

int keeper_new(const struct keeper_config *config, struct keeper **ret)
{
	struct keeper *keeper = calloc(1, sizeof(*keeper));
	int err = keeper ? 0 : -ENOMEM;

	/* A daemon in the background is not the process that a service manager waits for. */
	if (!err && config->foreground)
		err = service_new(&keeper->service);
	if (err < 0) {
		free(keeper);
		return err;
	}
	keeper->config = config;
	lock_init(&keeper->lock, LOCK_RANK_LOOP);
	STAILQ_INIT(&keeper->left);
	STAILQ_INIT(&keeper->left_arenas);
	STAILQ_INIT(&keeper->left_listeners);
	find_listeners(keeper);
	err = find_session(keeper);
	find_mappings(keeper);
	if (err < 0 && config->successor) {
		log_error("%s: there is no mount to take over: %s", config->mountpoint, strerror(-err));
		free(keeper); /* and with the process what was left for it */
		return err;
	}
	if (err < 0 && !keeper->service)
		start_holder(keeper);
	*ret = keeper;
	return 0;
}

const char *keeper_takes_over(const struct keeper *keeper)
{
	return keeper->mountpoint;
}

uint32_t keeper_session(const struct keeper *keeper)
{
	return keeper->session;
}

/* ---- the session ---- */

void keeper_keep(struct keeper *keeper, const char *run_dir, const char *mountpoint, const struct session *session)
{
	int err = -ENOENT;

	if (keeper->service)
		err = service_keep(keeper->service, run_dir, mountpoint, session);
	else if (keeper->holder)
		err = holder_keep(keeper->holder, run_dir, mountpoint, session);
	else
		return; /* it was said why */
	keeper->kept = !err;
	if (err < 0)
		log_warn("%s: nobody keeps the mount (%s): if tierfs dies, it dies with it", mountpoint,
			 strerror(-err));
}

static void end_holder(struct keeper *keeper)
{
	struct holder *holder;

	lock_get(&keeper->lock);
	holder = STEAL_PTR(keeper->holder);
	lock_put(&keeper->lock);
	holder_end(holder);
}

int keeper_take(struct keeper *keeper, struct session *ret)
{
	char run_dir[TIERFS_RUN_DIR_LEN];
	int err = keeper->is_of_holder ? holder_take(keeper->holder, ret) : service_take(keeper->service, ret);

	if (err < 0 || !keeper->is_of_holder || !keeper->service ||
	    pool_find_run_dir(keeper->config->pool_dir, run_dir) < 0)
		return err;
	/* The service manager is there longer. */
	if (service_keep(keeper->service, run_dir, keeper->mountpoint, ret) == 0) {
		end_holder(keeper);
	}
	return 0;
}

bool keeper_has_mount(const struct keeper *keeper)
{
	return keeper->kept;
}

int keeper_exec(struct keeper *keeper)
{
	bool by_service = keeper->service && !keeper->holder;
	int err = by_service ? service_pass_on(keeper->service) : 0;

	if (!err) {
		execv(keeper->config->program, keeper->config->argv);
		err = -errno;
	}
	if (by_service)
		service_pass_nothing(keeper->service);
	return err;
}

/* ---- userfaultfds ---- */

void keeper_stash(void *arg, const struct kept_mapping *mapping, int fd)
{
	struct keeper *keeper = arg;

	LOCK_SCOPE(&keeper->lock);

	if (keeper->holder)
		holder_stash(keeper->holder, mapping, fd);
}

void keeper_unstash(void *arg, uint64_t id)
{
	struct keeper *keeper = arg;

	LOCK_SCOPE(&keeper->lock);

	if (keeper->holder)
		holder_unstash(keeper->holder, id);
}

void keeper_hold_arenas(struct keeper *keeper, int arena_dir)
{
	struct left *left;

	STAILQ_FOREACH(left, &keeper->left, link) {
		const struct kept_mapping *mapping = &left->mapping;
		int err = left->arena_fd >= 0 ? 0
					      : arena_open_held(arena_dir, mapping->ino, mapping->id - mapping->behind,
								&left->arena_fd);

		if (err && err != -ENOENT) /* it has lost everything */
			log_error("file %llu: process %d may lose what it writes until it comes back: %s",
				  (unsigned long long)mapping->ino, (int)mapping->pid, strerror(-err));
	}
}

bool keeper_next_mapping(void *arg, struct kept_mapping *ret, int *ret_uffd, int *ret_arena_fd)
{
	struct keeper *keeper = arg;
	struct left *left = STAILQ_FIRST(&keeper->left);

	if (!left)
		return false;
	STAILQ_REMOVE_HEAD(&keeper->left, link);
	*ret = left->mapping;
	*ret_uffd = left->uffd;
	*ret_arena_fd = left->arena_fd;
	free(left);
	return true;
}

/* ---- sockets ---- */

static int drop_left_listener(struct keeper *keeper, struct left_listener *left)
{
	int fd = left->fd;

	STAILQ_REMOVE(&keeper->left_listeners, left, left_listener, link);
	free(left->name);
	free(left);
	return fd;
}

static int take_listener(void *arg, const char *name)
{
	struct keeper *keeper = arg;
	struct left_listener *left, *next;
	int fd = keeper->service ? service_take_listener(keeper->service, name) : -1;

	for (left = STAILQ_FIRST(&keeper->left_listeners); left; left = next) {
		next = STAILQ_NEXT(left, link);
		if (strcmp(left->name, name) != 0)
			continue;
		if (fd < 0)
			fd = drop_left_listener(keeper, left);
		else
			close(drop_left_listener(keeper, left));
	}
	return fd;
}

static void keep_listener(void *arg, const char *name, int fd)
{
	struct keeper *keeper = arg;

	if (keeper->service)
		service_keep_listener(keeper->service, name, fd);

	LOCK_SCOPE(&keeper->lock);

	if (keeper->holder)
		holder_keep_listener(keeper->holder, name, fd);
}

struct listener_keeper keeper_of_listeners(struct keeper *keeper)
{
	return (struct listener_keeper){ .take = take_listener, .keep = keep_listener, .arg = keeper };
}

/* ---- words ---- */

void keeper_tell_ready(struct keeper *keeper)
{
	if (keeper->service)
		service_tell(keeper->service, "READY=1\nSTATUS=mounted");
}

void keeper_tell_leaving(struct keeper *keeper, const char *doing)
{
	char state[256];

	if (!keeper->service)
		return;
	snprintf(state, sizeof(state), "STOPPING=1\nSTATUS=%s", doing);
	service_tell(keeper->service, state);
}

/* ---- the end ---- */

static void drop_left_listeners(struct keeper *keeper)
{
	struct left_listener *left;

	while ((left = STAILQ_FIRST(&keeper->left_listeners)))
		close(drop_left_listener(keeper, left));
}

void keeper_release(struct keeper *keeper)
{
	atomic_store(&keeper->kept, false);
	end_holder(keeper);
	if (keeper->service)
		service_release(keeper->service);
}

void keeper_free(struct keeper *keeper)
{
	struct kept_mapping mapping;
	int uffd, arena_fd;

	if (!keeper)
		return;
	while (keeper_next_mapping(keeper, &mapping, &uffd, &arena_fd)) {
		close(uffd);
		if (arena_fd >= 0)
			close(arena_fd);
	}
	drop_left_listeners(keeper);
	lock_fini(&keeper->lock);
	service_free(keeper->service);
	free(keeper->mountpoint);
	free(keeper);
}
