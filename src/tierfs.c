/* tierfs.c - the daemon: builds the parts from the bottom up, serves, and takes them down in
 * reverse. The only place where the parts are wired together.
 *
 * tierfs comes back to its caller when the mount can be used: the parent of the daemon waits on a pipe for one byte
 * that the child sends when the kernel has said hello. A child that fails has printed its one line by then and ends.
 *
 * The end, by umount(8) or by a signal: the session ends when the last open file is closed. Attached mappings do not
 * keep the mount busy, so the daemon serves them until they are gone, then demotes what is resident and leaves. A
 * second signal does not wait: the daemon ends at once and leaves the arenas, as if it had been killed; its successor
 * goes on from there.
 *
 * Somebody else keeps the mount, too (front/keeper.h). A tierfs that finds one whose daemon is dead takes it over
 * instead of making one. SIGHUP replaces the program on purpose: the daemon executes what lies under its name now,
 * which takes over from itself. SIGQUIT ends the daemon as a kill would, for who starts the next one.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/ident.h"
#include "base/log.h"
#include "base/process.h"
#include "cold/mac.h"
#include "cold/store_rocks.h"
#include "cold/warm.h"
#include "front/access.h"
#include "front/arguments.h"
#include "front/control.h"
#include "front/fuse.h"
#include "front/keeper.h"
#include "front/mountpoint.h"
#include "front/opener.h"
#include "front/options.h"
#include "front/through.h"
#include "map/attached.h"
#include "map/evict.h"
#include "map/holds.h"
#include "map/plain.h"
#include "names/names.h"
#include "policy/tiering.h"
#include "pool/pool.h"
#include "pool/token.h"

#define POLL_US 100000
#define WARM_DIR "warm"    /* in the tmpfs of the arenas */
#define END_SIGNAL SIGUSR1 /* ends the signal thread */

struct daemon {
	const struct arguments *args;
	char *mountpoint; /* canonical */
	struct keeper *keeper;
	bool takes_over; /* the mount is there already */
	int ready_fd;    /* -1: in the foreground, or told already */
	struct pool *pool;
	struct store *store;
	int warm_fd; /* directory of warm values; -1: none */
	struct engine *engine;
	struct ns *ns;
	struct token_table *tokens;
	struct attached *attached;
	struct access_server *access;
	struct evict *evict; /* NULL: the kernel's cache cannot be looked into */
	struct holds *holds; /* NULL: pins cannot be seen */
	struct plain *plain;
	struct opener *opener;
	struct through *through;       /* NULL: arenas are handed out */
	char boot[THROUGH_BOOT_BYTES]; /* with through */
	struct door_counts counts;
	struct control *control;
	struct fusedoor *fuse;
	pthread_t signal_thread;
	sigset_t signal_set; /* what it waits for */
	bool signals_started;
	_Atomic unsigned int signals; /* that asked for the end */
};

/* ---- what answers tierctl get ---- */

static int option_text(void *arg, const char *name, char *buf, size_t cap)
{
	return options_format(arg, name, buf, cap);
}

static const char *option_name(void *arg, size_t index)
{
	(void)arg;
	return index < OPTION_COUNT ? option_table[index].name : NULL;
}

/* ---- the process ---- */

/* The caller of tierfs goes on; we let go of its terminal and its output. */
static void tell_ready(void *arg)
{
	struct daemon *d = arg;

	log_info("ready: %s on %s%s", d->pool->dir, d->mountpoint, d->takes_over ? ", taken over" : "");
	keeper_tell_ready(d->keeper);
	if (d->ready_fd < 0)
		return;
	process_release(d->ready_fd);
	d->ready_fd = -1;
}

/* ---- signals ---- */

/* In flight is what a kill would leave in flight, and the successor deals with it as then. */
static void replace_program(struct daemon *d)
{
	int err;

	if (!keeper_has_mount(d->keeper) || atomic_load(&d->signals) > 0) {
		log_warn("%s: SIGHUP: tierfs cannot be replaced now: %s", d->mountpoint,
			 atomic_load(&d->signals) > 0 ? "it is unmounting" : "nobody keeps its mount");
		return;
	}
	log_info("%s: SIGHUP: replaced by %s", d->mountpoint, d->args->start.program);
	err = keeper_exec(d->keeper);
	log_error("%s: cannot be executed: %s; tierfs goes on as it is", d->args->start.program, strerror(-err));
}

static _Noreturn void leave_mount(struct daemon *d)
{
	log_info("%s: SIGQUIT: ended; the mount %s", d->mountpoint,
		 keeper_has_mount(d->keeper) ? "waits for the next tierfs" : "is dead, for nobody keeps it");
	_exit(EXIT_SUCCESS);
}

static void *signal_loop(void *arg)
{
	struct daemon *d = arg;
	int number;

	while (sigwait(&d->signal_set, &number) == 0 && number != END_SIGNAL) {
		if (number == SIGHUP) {
			replace_program(d);
		} else if (number == SIGQUIT) {
			leave_mount(d);
		} else if (atomic_fetch_add(&d->signals, 1) == 0) {
			log_info("%s: signal %d: unmounting", d->mountpoint, number);
			fusedoor_unmount(d->fuse);
		} else {
			if (d->engine)
				tiering_lift_limits(d->engine);
			fusedoor_quit(d->fuse);
		}
	}
	return NULL;
}

static void block_signals(struct daemon *d)
{
	static const int numbers[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, END_SIGNAL };

	sigemptyset(&d->signal_set);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaddset(&d->signal_set, numbers[i]);
	pthread_sigmask(SIG_BLOCK, &d->signal_set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static bool asked_to_quit(struct daemon *d)
{
	return atomic_load(&d->signals) > 1;
}

/* ---- building up ---- */

/* Takes over from a dead daemon that served the same, or begins anew. Before there are helpers: they shall have no part
 * in this. */
static int meet_keeper(struct daemon *d)
{
	int err = keeper_new(&d->args->start, &d->keeper);

	if (err < 0 || !keeper_takes_over(d->keeper))
		return err;
	d->takes_over = true;
	d->mountpoint = strdup(keeper_takes_over(d->keeper));
	return d->mountpoint ? 0 : -ENOMEM;
}

/* What must be made while there is one thread. Either may be missing on a host; the mount works without. */
static void start_helpers(struct daemon *d)
{
	int err = evict_start(&d->evict);

	if (err < 0)
		log_warn("no pages can be taken out of the kernel's cache (%s): plain mappings are demoted only as far "
			 "as the kernel drops pages on its own",
			 err == -ENOSYS ? "it has no cachestat(2), which needs Linux 6.5" : strerror(-err));
	err = through_read_boot(d->boot);
	if (!err)
		err = through_new(&d->through);
	if (err < 0)
		log_warn(
			"processes that attach are given descriptors of arenas: the process that would open others for "
			"them cannot be started: %s",
			strerror(-err));
	err = holds_open(&d->holds);
	if (err < 0)
		log_debug("pins cannot be seen: %s", strerror(-err)); /* it was said why */
}

static int look_for_holds(void *arg, bool referenced, int arena_fd, uint64_t first_page, uint64_t count, uint8_t *held)
{
	return holds_look(arg, referenced ? HOLDS_REFERENCED : HOLDS_PINNED, arena_fd, first_page, count,
			  HOLDS_OR_LARGE, held);
}

static pid_t helper_pid(void *arg)
{
	const struct daemon *d = arg;

	return d->evict ? evict_pid(d->evict) : 0;
}

/* What a killed daemon left there goes to the disk if this mount has no warm values. */
static int open_warm(struct daemon *d)
{
	struct store_warm_config config = {
		.below = d->store,
		.bytes = d->args->options.value[OPTION_WARM],
		.block_bytes = d->pool->block_bytes,
	};

	if (config.bytes && mkdirat(d->pool->arena_dir, WARM_DIR, 0700) < 0 && errno != EEXIST)
		return -errno;
	d->warm_fd = openat(d->pool->arena_dir, WARM_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->warm_fd < 0)
		return errno == ENOENT ? 0 : -errno;
	config.dir_fd = d->warm_fd;
	return config.bytes ? store_warm_open(&config, &d->store)
			    : store_warm_drain(d->store, d->warm_fd, config.block_bytes);
}

static int open_store(struct daemon *d)
{
	struct store_rocks_config config = {
		.dir = d->pool->store_dir,
		.create = true,
		.block_bytes = d->pool->block_bytes,
	};
	int err = store_rocks_open(&config, &d->store);

	if (err < 0) {
		log_error("%s: cannot open the store: %s", config.dir, strerror(-err));
		return err;
	}
	err = open_warm(d);
	if (err < 0)
		log_error("%s/arena/" WARM_DIR ": cannot use the warm values: %s", d->pool->run_dir, strerror(-err));
	return err;
}

static int start_core(struct daemon *d)
{
	const struct options *options = &d->args->options;
	uint64_t given_ns = options->value[OPTION_MIN_IDLE], idle_ns = d->holds ? IDLE_SEEN_NS : IDLE_UNSEEN_NS;
	struct engine_config engine = {
		.arena_dir = d->pool->arena_dir,
		.block_bytes = d->pool->block_bytes,
		.dram_bytes = options->value[OPTION_DRAM] - options->value[OPTION_WARM],
		.min_idle_ns = given_ns ? given_ns : idle_ns,
		.referenced_idle_ns = given_ns ? 0 : IDLE_UNSEEN_NS,
		.level = (int)options->value[OPTION_LEVEL],
		.run_demoter = true,
		.holds = d->holds ? look_for_holds : NULL,
		.holds_arg = d->holds,
	};
	struct ns_config ns = {
		.uid = (uid_t)options->value[OPTION_UID],
		.gid = (gid_t)options->value[OPTION_GID],
		.root_mode = 0755,
		.arenas_survived = d->pool->arenas_survived,
		.takes_over = d->takes_over,
		.session = keeper_session(d->keeper),
	};
	int err = open_store(d);

	if (err < 0)
		return err;
	memcpy(engine.secret, d->pool->secret, sizeof(engine.secret));
	engine.store = ns.store = d->store;
	err = tiering_new(&engine, &d->engine);
	if (err < 0) {
		log_error("cannot start the engine: %s", strerror(-err));
		return err;
	}
	ns.engine = d->engine;
	err = ns_load(&ns, &d->ns);
	return err < 0 ? err : pool_confirm_arenas(d->pool);
}

/* uid= and gid= are the root's, too, also when the pool was made without them. */
static int own_root(struct daemon *d)
{
	const struct options *options = &d->args->options;
	struct ns_setattr change = {
		.set_uid = options->given[OPTION_UID],
		.set_gid = options->given[OPTION_GID],
		.uid = (uid_t)options->value[OPTION_UID],
		.gid = (gid_t)options->value[OPTION_GID],
	};
	struct stat attr;
	int err = ns_getattr(d->ns, NS_ROOT_INO, &attr);

	if (err < 0 ||
	    ((!change.set_uid || attr.st_uid == change.uid) && (!change.set_gid || attr.st_gid == change.gid)))
		return err;
	err = ns_setattr(d->ns, NS_ROOT_INO, &change, &attr);
	if (err < 0)
		log_error("cannot set the owner of the root directory: %s", strerror(-err));
	return err;
}

/* The pool's secret makes identities, too, in another way (cold/mac.h). */
static int code_of(void *arg, const void *bytes, size_t length, uint8_t ret[static THROUGH_CODE_BYTES])
{
	const struct daemon *d = arg;
	struct tierfs_ident ident;
	struct mac *mac;
	int err = mac_new(MAC_LIST, d->pool->secret, &mac);

	if (err < 0)
		return err;
	ident = mac_of(mac, bytes, length);
	mac_free(mac);
	ident_put(ident, ret);
	return ident_known(ident) ? 0 : -ENOMEM;
}

static bool can_through(void *arg)
{
	return through_can(arg);
}

static int open_through(void *arg, int arena_fd, uint64_t ino, uint64_t holder, int *ret_fd)
{
	return through_open(arg, arena_fd, ino, holder, ret_fd);
}

static int find_through(void *arg, int fd, uint64_t *ret_ino, uint64_t *ret_holder)
{
	return through_find(arg, fd, ret_ino, ret_holder);
}

static int served(const struct daemon *d, const char *socket, int err)
{
	if (err < 0)
		log_error("%s/%s: cannot serve: %s", d->pool->run_dir, socket, strerror(-err));
	return err;
}

static int start_servers(struct daemon *d)
{
	const struct listener_keeper kept = keeper_of_listeners(d->keeper);
	struct attached_config attached = { .engine = d->engine,
					    .ns = d->ns,
					    .tokens = d->tokens,
					    .run_dir = d->pool->run_dir,
					    .refuse = d->args->options.value[OPTION_MAP] == OPTION_MAP_PLAIN,
					    .quick = d->args->options.value[OPTION_WARM] > 0,
					    .keep = keeper_stash,
					    .forget = keeper_unstash,
					    .left = keeper_next_mapping,
					    .keep_arg = d->keeper,
					    .keeper = &kept };
	struct control_config control = { .engine = d->engine,
					  .ns = d->ns,
					  .tokens = d->tokens,
					  .store = d->store,
					  .counts = &d->counts,
					  .warm_bytes = d->args->options.value[OPTION_WARM],
					  .run_dir = d->pool->run_dir,
					  .mountpoint = d->mountpoint,
					  .pool = d->pool->dir,
					  .option = option_text,
					  .option_name = option_name,
					  .option_arg = (void *)&d->args->options,
					  .keeper = &kept };
	struct access_config access = {
		.ns = d->ns, .tokens = d->tokens, .run_dir = d->pool->run_dir, .keeper = &kept
	};
	int err;

	if (d->through) {
		through_set_code(d->through, d->boot, code_of, d);
		attached.through = (struct attached_through){
			.can = can_through, .open = open_through, .find = find_through, .arg = d->through
		};
	}
	err = served(d, TIERFS_ATTACH_SOCKET, attached_start(&attached, &d->attached));

	if (err >= 0)
		err = served(d, TIERFS_ACCESS_SOCKET, access_start(&access, &d->access));
	if (err >= 0)
		err = served(d, TIERFS_CONTROL_SOCKET, control_start(&control, &d->control));
	return err;
}

static int start_evictor(struct daemon *d)
{
	struct plain_config config = {
		.engine = d->engine, .ns = d->ns, .evict = d->evict, .mountpoint = d->mountpoint
	};
	int err = plain_start(&config, &d->plain);

	if (err < 0)
		log_error("%s: cannot start the evictor: %s", d->mountpoint, strerror(-err));
	return err;
}

static void keep_session(void *arg, const struct session *session)
{
	struct daemon *d = arg;

	keeper_keep(d->keeper, d->pool->run_dir, d->mountpoint, session);
}

static int start_fuse(struct daemon *d)
{
	struct session session = { .fuse_fd = -1 };
	struct fusedoor_config config = {
		.door = {
			.ns = d->ns,
			.engine = d->engine,
			.tokens = d->tokens,
			.options = &d->args->options,
			.run_dir = d->pool->run_dir,
			.pool_dir = d->pool->dir,
			.opener = d->opener,
			.counts = &d->counts,
			.helper = helper_pid,
			.helper_arg = d,
		},
		.mountpoint = d->mountpoint,
		.source = d->pool->dir,
		.allow_other = d->args->options.value[OPTION_ALLOW_OTHER],
		.through = d->through,
		.on_ready = tell_ready,
		.on_ready_arg = d,
		.taken = d->takes_over ? &session : NULL,
		.keep = keep_session,
		.keep_arg = d,
	};
	int err = 0;

	if (d->takes_over) {
		err = keeper_take(d->keeper, &session);
		if (err < 0)
			log_error("%s: cannot take over the mount: %s", d->mountpoint, strerror(-err));
		config.door.session = session.number;
	}
	if (!err)
		err = fusedoor_new(&config, &d->fuse);
	if (!err && d->evict)
		err = start_evictor(d);
	if (err < 0)
		return err;
	err = -pthread_create(&d->signal_thread, NULL, signal_loop, d);
	if (err < 0)
		log_error("cannot start a thread: %s", strerror(-err));
	d->signals_started = !err;
	return err;
}

static int daemon_start(struct daemon *d)
{
	const struct options *options = &d->args->options;
	uint32_t block_bytes = options->given[OPTION_BLOCK] ? (uint32_t)options->value[OPTION_BLOCK] : 0;
	int err = d->takes_over ? 0 : mountpoint_claim(d->args->start.mountpoint, &d->mountpoint);

	if (!err)
		err = pool_open(d->args->start.pool_dir, block_bytes, &d->pool);
	if (!err)
		err = mountpoint_check_pool(d->mountpoint, d->pool->dir);
	if (!err)
		err = pool_start(d->pool);
	if (!err)
		err = token_table_new(&d->tokens);
	if (!err)
		err = opener_new("/proc", &d->opener);
	if (!err)
		err = start_core(d);
	if (!err)
		err = own_root(d);
	if (!err)
		err = start_servers(d);
	if (!err)
		err = start_fuse(d);
	return err;
}

/* ---- taking down ---- */

static void tell_leaving(struct daemon *d, const char *doing)
{
	pool_leaving(d->pool, doing);
	keeper_tell_leaving(d->keeper, doing);
}

static void note_progress(void *arg, uint64_t left_bytes)
{
	struct daemon *d = arg;
	char doing[64];

	snprintf(doing, sizeof(doing), "%llu MiB to demote", (unsigned long long)(left_bytes >> 20));
	tell_leaving(d, doing);
	log_info("%s: unmounting: %s", d->mountpoint, doing);
}

/* An unmounted daemon goes on for the processes that map its files. */
static void wait_for_mappers(struct daemon *d)
{
	unsigned int mappings, told = 0;
	char doing[64];

	while (d->attached && (mappings = attached_mappings(d->attached)) > 0 && !asked_to_quit(d)) {
		if (mappings != told) {
			snprintf(doing, sizeof(doing), "%u mappings still in use", mappings);
			tell_leaving(d, doing);
			log_info("%s: unmounted; %s, serving on until they are gone", d->mountpoint, doing);
			told = mappings;
		}
		usleep(POLL_US);
	}
}

/* True: nothing is left in the arenas. */
static bool settle(struct daemon *d, bool was_mounted)
{
	if (!d->ns)
		return d->pool && !d->pool->arenas_survived;
	/* A start that failed changed nothing, and takes no time for what an earlier daemon left. */
	if (!was_mounted && d->pool->arenas_survived)
		return false;
	return ns_close(d->ns, note_progress, d) == 0;
}

/* As if killed, which is safe at any time; what is taken down in order here could not say more. */
static void quit_now(struct daemon *d)
{
	log_info("%s: ended by a second signal; what was in DRAM stays in %s for the next tierfs on this pool",
		 d->mountpoint, d->pool->run_dir);
	_exit(EXIT_SUCCESS);
}

static int daemon_stop(struct daemon *d, bool was_mounted)
{
	bool settled;

	if (was_mounted)
		tell_leaving(d, "unmounting");
	fusedoor_free(d->fuse);
	keeper_release(d->keeper);
	plain_stop(d->plain); /* not before: who waits for the mount gets an error now */
	wait_for_mappers(d);
	if (d->engine)
		tiering_lift_limits(d->engine);
	if (asked_to_quit(d))
		quit_now(d);
	control_stop(d->control);
	access_stop(d->access);
	attached_stop(d->attached);
	settled = settle(d, was_mounted);
	if (d->signals_started) {
		pthread_kill(d->signal_thread, END_SIGNAL);
		pthread_join(d->signal_thread, NULL);
	}
	ns_free(d->ns);
	tiering_free(d->engine);
	if (d->store) {
		/* The tmpfs may go only when nothing is left there alone. */
		settled = d->store->ops->sync(d->store) == 0 && settled;
		d->store->ops->free(d->store);
	}
	if (d->warm_fd >= 0)
		close(d->warm_fd);
	token_table_free(d->tokens);
	opener_free(d->opener);
	if (d->evict)
		evict_stop(d->evict);
	through_free(d->through);
	holds_close(d->holds);
	if (settled)
		pool_stop(d->pool);
	pool_close(d->pool);
	keeper_free(d->keeper);
	free(d->mountpoint);
	return settled ? 0 : -EIO;
}

/* From the arguments to the end of the daemon. Returns the exit status. */
static int serve(const struct arguments *args)
{
	struct daemon d = { .args = args, .ready_fd = -1, .warm_fd = -1 };
	int err = 0;

	if (!args->start.foreground) {
		log_init(LOG_TARGET_STARTING, LOG_LEVEL_INFO);
		if (!args->start.successor)
			err = process_daemonize(&d.ready_fd);
	}
	if (err < 0)
		return EXIT_FAILURE;
	block_signals(&d);
	process_tune();
	err = meet_keeper(&d);
	if (err < 0)
		return EXIT_FAILURE;
	start_helpers(&d);
	err = daemon_start(&d);
	if (err < 0 && d.takes_over)
		_exit(EXIT_FAILURE); /* the mount stays for the next one */
	if (err < 0) {
		daemon_stop(&d, false);
		return EXIT_FAILURE;
	}
	err = fusedoor_run(d.fuse);
	if (err < 0)
		log_error("%s: the FUSE session failed: %s", d.mountpoint, strerror(-err));
	err = daemon_stop(&d, true) < 0 ? -EIO : err;
	return err < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	struct arguments args = { .option_text = NULL };
	int status = EXIT_FAILURE;

	log_init(LOG_TARGET_STDERR, LOG_LEVEL_INFO);
	if (arguments_note_program(argc, argv, &args) < 0)
		log_error("cannot find out what program this is: %s", strerror(errno));
	else if (arguments_parse(argc, argv, &args, &status))
		status = serve(&args);
	free(args.option_text);
	free((char *)args.start.program);
	free((char **)args.start.argv);
	return status;
}
