/* doctor.c - what of this host and its mounts keeps tierfs from working well. Reads, and never changes anything. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "conn.h"
#include "tierctl.h"

/* Newer than Debian 12's headers. */
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#define PAGEMAP_SCAN_NUMBER 16
struct pagemap_scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define TEXT_LEN 512
#define FILES_WANTED 65536
#define MAPS_WANTED 65530

enum verdict { VERDICT_OK, VERDICT_NOTE, VERDICT_WARN };

struct doctor {
	json_t *findings;
	const char *wanted; /* the mount that was named; NULL: all */
	unsigned int mounts;
};

static const char *verdict_name(enum verdict verdict)
{
	switch (verdict) {
	case VERDICT_OK:
		return "ok";
	case VERDICT_NOTE:
		return "note";
	case VERDICT_WARN:
		return "warn";
	}
	return "?";
}

/* set: NULL if there is nothing to do. The format is of what was found. */
static void __attribute__((format(printf, 6, 7))) say(struct doctor *doctor, enum verdict verdict, const char *name,
						      const char *means, const char *set, const char *format, ...)
{
	char found[TEXT_LEN];
	va_list args;

	va_start(args, format);
	vsnprintf(found, sizeof(found), format, args);
	va_end(args);
	json_array_append_new(doctor->findings,
			      json_pack("{s:s, s:s, s:s, s:s, s:s?}", "verdict", verdict_name(verdict), "name", name,
					"found", found, "means", means, "set", set));
}

/* The first line of a file. */
static bool read_text(const char *path, char ret[static TEXT_LEN])
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, ret, TEXT_LEN - 1);

	if (got < 0)
		return false;
	ret[got] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
	return true;
}

/* -1: it is not there. */
static long long read_number(const char *path)
{
	char text[TEXT_LEN];

	return read_text(path, text) ? strtoll(text, NULL, 10) : -1;
}

/* --- memory of the host ------------------------------------------------------------------------------------------- */

static void check_dirty(struct doctor *doctor)
{
	long long background = read_number("/proc/sys/vm/dirty_background_ratio");
	long long limit = read_number("/proc/sys/vm/dirty_ratio");
	long long background_bytes = read_number("/proc/sys/vm/dirty_background_bytes");
	long long limit_bytes = read_number("/proc/sys/vm/dirty_bytes");
	bool low = background_bytes > 0 ? background_bytes < 4LL << 30 : background < 20;

	say(doctor, low ? VERDICT_NOTE : VERDICT_OK, "dirty limits",
	    low ? "what programs with plain mappings have written beyond that is written back while they run, and "
		  "beyond "
		  "the second limit they wait; attached mappings are not affected"
		: "plain mappings may stay dirty for long",
	    low ? "sysctl vm.dirty_background_ratio=50 vm.dirty_ratio=80, if the RAM of plain VMs is a large part of "
		  "the "
		  "host's; it is for all programs of the host"
		: NULL,
	    background_bytes > 0 || limit_bytes > 0 ? "vm.dirty_background_bytes=%lld vm.dirty_bytes=%lld"
						    : "vm.dirty_background_ratio=%lld vm.dirty_ratio=%lld",
	    background_bytes > 0 || limit_bytes > 0 ? background_bytes : background,
	    background_bytes > 0 || limit_bytes > 0 ? limit_bytes : limit);
}

static void check_expire(struct doctor *doctor)
{
	long long centisecs = read_number("/proc/sys/vm/dirty_expire_centisecs");

	say(doctor, centisecs < 3000 ? VERDICT_WARN : VERDICT_OK, "dirty expire",
	    centisecs < 3000
		    ? "hot memory of plain mappings is written back more often than that, each time with a fault for "
		      "each page"
		    : "a page of a plain mapping that stays dirty is written back once in that time",
	    centisecs < 3000 ? "sysctl vm.dirty_expire_centisecs=3000 or more" : NULL, "vm.dirty_expire_centisecs=%lld",
	    centisecs);
}

static void check_maps(struct doctor *doctor)
{
	long long count = read_number("/proc/sys/vm/max_map_count");

	say(doctor, count < MAPS_WANTED ? VERDICT_WARN : VERDICT_OK, "map count",
	    count < MAPS_WANTED ? "a VMM with many regions may run out of mappings (ENOMEM)"
				: "enough for VMMs with many memory regions",
	    count < MAPS_WANTED ? "sysctl vm.max_map_count=65530 or more" : NULL, "vm.max_map_count=%lld", count);
}

static void check_huge(struct doctor *doctor)
{
	char text[TEXT_LEN] = "(absent)";
	bool forced, denied;

	read_text("/sys/kernel/mm/transparent_hugepage/shmem_enabled", text);
	forced = strstr(text, "[force]");
	denied = strstr(text, "[deny]");
	say(doctor, forced ? VERDICT_WARN : VERDICT_OK, "shmem huge pages",
	    forced   ? "arenas get huge pages that nobody asked for, so that one hot page holds 2 MiB of DRAM"
	    : denied ? "arenas have small pages"
		     : "arenas have huge pages where a program advises so",
	    forced ? "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled" : NULL, "shmem_enabled=%s",
	    text);
}

/* --- what the kernel can do --------------------------------------------------------------------------------------- */

static int open_userfaultfd(void)
{
	CLEANUP_CLOSE int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	return device < 0 ? -errno : ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
}

static void check_userfaultfd(struct doctor *doctor)
{
	long long unprivileged = read_number("/proc/sys/vm/unprivileged_userfaultfd");
	struct stat attr;
	bool there = stat("/dev/userfaultfd", &attr) == 0;

	say(doctor, there ? VERDICT_OK : VERDICT_WARN, "userfaultfd",
	    there ? "RAM files can be attached by any user; vm.unprivileged_userfaultfd is not needed"
		  : "no RAM file can be attached, all mappings are plain",
	    there ? NULL : "a kernel from 6.1 on with CONFIG_USERFAULTFD",
	    "/dev/userfaultfd is %s, vm.unprivileged_userfaultfd=%lld", there ? "there" : "absent", unprivileged);
}

static void check_poison(struct doctor *doctor)
{
	struct uffdio_api api = { .api = UFFD_API };
	CLEANUP_CLOSE int fd = open_userfaultfd();
	bool has;

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0) {
		say(doctor, VERDICT_NOTE, "UFFDIO_POISON", "it was not found out whether damaged blocks can be told",
		    NULL, "no userfaultfd (%s)", strerror(errno));
		return;
	}
	has = api.features & UFFD_FEATURE_POISON;
	say(doctor, has ? VERDICT_OK : VERDICT_WARN, "UFFDIO_POISON",
	    has ? "who touches a damaged block of attached memory gets SIGBUS"
		: "who touches a damaged block of attached memory waits for ever",
	    has ? NULL : "a kernel from 6.6 on", "%s", has ? "there" : "absent");
}

static void check_cachestat(struct doctor *doctor)
{
	bool has = syscall(SYS_cachestat, -1, NULL, NULL, 0) < 0 && errno != ENOSYS;

	say(doctor, has ? VERDICT_OK : VERDICT_WARN, "cachestat",
	    has ? "what the kernel caches of plain mappings can be measured and demoted"
		: "plain mappings are demoted only as far as the kernel drops pages on its own",
	    has ? NULL : "a kernel from 6.5 on", "%s", has ? "there" : "absent");
}

/* Only a mount can say for certain; its log does. */
static void check_passthrough(struct doctor *doctor)
{
	unsigned int major_number = 0, minor_number = 0;
	struct utsname name;
	bool has;

	if (uname(&name) < 0 || sscanf(name.release, "%u.%u", &major_number, &minor_number) != 2)
		return;
	has = major_number > 6 || (major_number == 6 && minor_number >= 9);
	say(doctor, has ? VERDICT_OK : VERDICT_NOTE, "passthrough",
	    has ? "attached programs are given no descriptor of the memory that they map, unless the log of the mount "
		  "says "
		  "so"
		: "attached programs have a descriptor of the memory that they map; what they make by it is taken away",
	    has ? NULL : "a kernel from 6.9 on", "Linux %s", name.release);
}

static void check_pagemap_scan(struct doctor *doctor)
{
	CLEANUP_CLOSE int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct pagemap_scan scan = { .size = sizeof(scan) };
	bool has = fd >= 0 && ioctl(fd, _IOWR('f', PAGEMAP_SCAN_NUMBER, struct pagemap_scan), &scan) >= 0;

	if (fd >= 0 && !has)
		has = errno != ENOTTY;
	say(doctor, has ? VERDICT_OK : VERDICT_NOTE, "PAGEMAP_SCAN",
	    has ? "looking for idle blocks of attached memory is cheap" : "looking for idle blocks takes more CPU time",
	    has ? NULL : "a kernel from 6.7 on", "%s", has ? "there" : "absent");
}

static void check_pins(struct doctor *doctor)
{
	bool types = access("/sys/kernel/btf/vmlinux", R_OK) == 0;
	char lockdown[TEXT_LEN] = "[none]";
	bool locked;

	read_text("/sys/kernel/security/lockdown", lockdown);
	locked = strstr(lockdown, "[confidentiality]");
	say(doctor, types && !locked ? VERDICT_OK : VERDICT_WARN, "pin detection",
	    types && !locked ? "memory that a device is writing into can be told from idle memory, by BPF (the "
			       "daemon's log says "
			       "if not)"
			     : "memory that a device is writing into looks idle: min_idle alone (30 s) protects it",
	    types && !locked ? NULL
			     : "a kernel with CONFIG_BPF_SYSCALL and CONFIG_DEBUG_INFO_BTF, lockdown below "
			       "confidentiality; else min_idle above the longest disk I/O",
	    "BTF is %s, lockdown %s", types ? "there" : "absent", lockdown);
}

static void check_timeout(struct doctor *doctor)
{
	long long most = read_number("/proc/sys/fs/fuse/max_request_timeout");
	long long otherwise = read_number("/proc/sys/fs/fuse/default_request_timeout");
	bool bad = most > 0 || otherwise > 0;

	say(doctor, bad ? VERDICT_WARN : VERDICT_OK, "FUSE request timeout",
	    bad ? "a request that takes longer ends the whole mount" : "requests may wait, as they must over a restart",
	    bad ? "sysctl fs.fuse.default_request_timeout=0 fs.fuse.max_request_timeout=0" : NULL,
	    "fs.fuse.default_request_timeout=%lld fs.fuse.max_request_timeout=%lld (-1: this kernel has none)",
	    otherwise, most);
}

/* --- mounts ------------------------------------------------------------------------------------------------------- */

static void check_bdi(struct doctor *doctor, const char *mountpoint)
{
	char name[TEXT_LEN], path[128];
	struct statx attr;
	long long strict, ratio, ahead;

	snprintf(name, sizeof(name), "%s: dirty memory", mountpoint);
	if (statx(AT_FDCWD, mountpoint, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &attr) < 0) {
		say(doctor, VERDICT_WARN, name, "the mount does not answer", "mount the pool again", "%s",
		    strerror(errno));
		return;
	}
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/strict_limit", attr.stx_dev_major, attr.stx_dev_minor);
	strict = read_number(path);
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/max_ratio", attr.stx_dev_major, attr.stx_dev_minor);
	ratio = read_number(path);
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", attr.stx_dev_major, attr.stx_dev_minor);
	ahead = read_number(path);
	snprintf(path, sizeof(path),
		 "as root: echo 0 > /sys/class/bdi/%u:%u/strict_limit; the same with 100 > max_ratio",
		 attr.stx_dev_major, attr.stx_dev_minor);
	say(doctor, strict == 0 && ratio == 100 ? VERDICT_OK : VERDICT_WARN, name,
	    strict == 0 && ratio == 100 ? "plain mappings may dirty as much as the host allows"
					: "who writes to plain mappings is slowed down to what is written back",
	    strict == 0 && ratio == 100 ? NULL : path, "strict_limit=%lld max_ratio=%lld read_ahead_kb=%lld", strict,
	    ratio, ahead);
}

/* The lock file of a pool begins with the daemon's process number. */
static void check_files(struct doctor *doctor, const char *mountpoint, const char *pool)
{
	char path[TEXT_LEN], name[TEXT_LEN];
	CLEANUP_FREE char *line = NULL;
	long long pid, files = -1;
	size_t cap = 0;
	FILE *limits;

	snprintf(name, sizeof(name), "%s: descriptors", mountpoint);
	snprintf(path, sizeof(path), "%s/lock", pool);
	pid = read_number(path);
	snprintf(path, sizeof(path), "/proc/%lld/limits", pid);
	limits = pid > 0 ? fopen(path, "re") : NULL;
	while (limits && getline(&line, &cap, limits) > 0)
		if (sscanf(line, "Max open files %lld", &files) == 1)
			break;
	if (limits)
		fclose(limits);
	if (files < 0) {
		say(doctor, VERDICT_NOTE, name, "it was not found out how many VMs the daemon can serve",
		    "ask as root on the host of the daemon", "no answer from process %lld", pid);
		return;
	}
	say(doctor, files < FILES_WANTED ? VERDICT_WARN : VERDICT_OK, name,
	    files < FILES_WANTED ? "the daemon may run out of descriptors with many files and mappings"
				 : "enough for many files and mappings",
	    files < FILES_WANTED ? "LimitNOFILE=1048576 for the daemon, and sysctl fs.nr_open as high" : NULL,
	    "the daemon may open %lld files", files);
}

/* The disk of a partition, as a directory of sysfs. */
static void disk_of(dev_t dev, char ret[static PATH_MAX])
{
	char path[64], partition[PATH_MAX + 16];

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	if (!realpath(path, ret)) {
		ret[0] = '\0';
		return;
	}
	snprintf(partition, sizeof(partition), "%s/partition", ret);
	if (access(partition, F_OK) == 0)
		*strrchr(ret, '/') = '\0';
}

static void check_swap(struct doctor *doctor, const char *mountpoint, const char *pool)
{
	char name[TEXT_LEN], area[TEXT_LEN], line[2 * TEXT_LEN], pool_disk[PATH_MAX] = "", swap_disk[PATH_MAX];
	FILE *table = fopen("/proc/swaps", "re");
	unsigned int areas = 0, shared = 0;
	struct stat attr;

	if (stat(pool, &attr) == 0)
		disk_of(attr.st_dev, pool_disk);
	while (table && fgets(line, sizeof(line), table)) {
		if (line[0] != '/' || sscanf(line, "%511s", area) != 1 || stat(area, &attr) < 0)
			continue;
		areas++;
		disk_of(S_ISBLK(attr.st_mode) ? attr.st_rdev : attr.st_dev, swap_disk);
		shared += pool_disk[0] && !strcmp(swap_disk, pool_disk);
	}
	if (table)
		fclose(table);
	snprintf(name, sizeof(name), "%s: swap", mountpoint);
	say(doctor, shared ? VERDICT_WARN : VERDICT_OK, name,
	    shared ? "swapping and bringing blocks back wait for each other"
		   : "swap does not compete with the pool; arenas are not swapped where the kernel allows (6.4)",
	    shared ? "move swap to another disk than that of the pool, or lower dram= so that the host does not swap"
		   : NULL,
	    "%u swap areas, %u on the disk of %s", areas, shared, pool);
}

/* Of a pool that has more than its own. */
static void check_stores(struct doctor *doctor, const char *mountpoint)
{
	json_t *result = NULL, *stores, *store;
	char name[TEXT_LEN], missing[TEXT_LEN] = "";
	struct conn *conn = NULL;
	struct conn_error error;
	size_t i;

	if (conn_open(mountpoint, false, &conn, &error) || conn_ask(conn, "stat", NULL, NULL, NULL, &result, &error)) {
		conn_close(conn);
		return; /* that it does not answer was said */
	}
	conn_close(conn);
	stores = json_object_get(result, "stores");
	json_array_foreach(stores, i, store) {
		size_t length = strlen(missing);

		if (!json_is_true(json_object_get(store, "here")) &&
		    json_integer_value(json_object_get(store, "files")) > 0)
			snprintf(missing + length, sizeof(missing) - length, "%s%s", length ? ", " : "",
				 json_string_value(json_object_get(store, "name")));
	}
	snprintf(name, sizeof(name), "%s: stores", mountpoint);
	if (*missing)
		say(doctor, VERDICT_WARN, name, "files have what is cold there, and it gives EIO",
		    "mount the pool with store.NAME=DIR for each", "%s: not here", missing);
	else if (json_array_size(stores) > 1)
		say(doctor, VERDICT_OK, name, "all that files need are here", NULL, "%zu", json_array_size(stores));
	json_decref(result);
}

static int check_mount(void *arg, const char *mountpoint, const char *pool)
{
	struct doctor *doctor = arg;

	if (doctor->wanted && strcmp(doctor->wanted, mountpoint) != 0)
		return 0;
	doctor->mounts++;
	check_bdi(doctor, mountpoint);
	check_files(doctor, mountpoint, pool);
	check_swap(doctor, mountpoint, pool);
	check_stores(doctor, mountpoint);
	return 0;
}

/* --- the command -------------------------------------------------------------------------------------------------- */

static int print_findings(json_t *findings)
{
	json_t *finding;
	size_t i;

	json_array_foreach(findings, i, finding) {
		const char *set = json_string_value(json_object_get(finding, "set"));

		printf("%-5s %s: %s: %s%s%s\n", json_string_value(json_object_get(finding, "verdict")),
		       json_string_value(json_object_get(finding, "name")),
		       json_string_value(json_object_get(finding, "found")),
		       json_string_value(json_object_get(finding, "means")), set ? "; to do: " : "", set ? set : "");
	}
	json_decref(findings);
	return fflush(stdout) ? fail_errno("output", "cannot print", errno) : 0;
}

int doctor_run(const struct command *command, int argc, char **argv)
{
	static void (*const checks[])(struct doctor *) = {
		check_dirty,     check_expire,      check_maps,         check_huge, check_userfaultfd, check_poison,
		check_cachestat, check_passthrough, check_pagemap_scan, check_pins, check_timeout,
	};
	struct doctor doctor = {};
	char wanted[PATH_MAX];
	struct args args;
	int rc = args_parse(command, argc, argv, 0, 1, &args);

	if (rc)
		return rc < 0;
	if (args.count && !(doctor.wanted = realpath(args.operands[0], wanted)))
		return fail_errno(args.operands[0], "cannot find", errno);
	doctor.findings = json_array();
	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
		checks[i](&doctor);
	conn_mounts(check_mount, &doctor);
	if (doctor.wanted && !doctor.mounts) {
		json_decref(doctor.findings);
		return fail(args.operands[0], "not a tierfs mount", NULL);
	}
	return args.json ? print_json(json_pack("{s:o}", "findings", doctor.findings))
			 : print_findings(doctor.findings);
}
