/* engine/quota.h - what a tenant may have of the store: bytes that lie there (disk.max), and bytes that are written
 * there in 24 hours (cold.write_day).
 *
 * Stored is what the values of its files take as they lie there, by the tables of blocks; of a value that several files
 * share each counts all. Written is each value that is put; what is moved when space is collected is nobody's.
 *
 *   beyond disk.max    who writes past DRAM, clones or syncs gets -EDQUOT, before anything is changed. A demotion
 *                      leaves what would need more room where it is, and takes the rest
 *   near write_day     blocks of it are demoted when they have been idle for longer
 *   beyond write_day   nothing of it is demoted that would have to be written. Whoever writes by a call goes on
 *
 * Then what is not stored stays in the DRAM of the owner (tenant_stays()). A limit that is lowered takes nothing away.
 * At the end of a mount none holds (flow_lift()), or memory would be lost.
 *
 * Thread-safety: all functions, from any thread; none blocks. "Under lock" is under that of the file.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/wear.h"

struct engine;
struct ramfile;
struct tenant;

enum quota_need {
	QUOTA_DEMOTION,
	QUOTA_CALL,   /* -EDQUOT also where what is left is needed by its DRAM (claim.h) */
	QUOTA_COPY,   /* a call that stores what stays in DRAM as well: it may leave then */
	QUOTA_ANYWAY, /* what makes room, or must not fail */
};

/* Before a put of so many bytes, by which what is stored grows by that many. -EDQUOT: it may not be, and nothing is
 * taken. *ret_taken: to be given to quota_settle(). */
int quota_take(struct ramfile *file, enum quota_need need, uint64_t growth_bytes, uint64_t put_bytes,
	       uint64_t *ret_taken);
/* Under lock, after whatever changed what the table says is stored; taken_bytes: of a put that has ended. */
void quota_settle(struct ramfile *file, uint64_t taken_bytes);
/* The file is unloaded, and nobody uses it any more. */
void quota_leave(struct ramfile *file);
/* So much was refused beforehand. */
void quota_refuse(struct ramfile *file, uint64_t growth_bytes);
/* By how much what is stored of the file may grow now. UINT64_MAX: no limit holds. */
uint64_t quota_left(struct ramfile *file);

/* How its blocks are chosen for demotion. */
struct quota_choice {
	bool stored_only;   /* only those that have a stored copy, which may be as good as they are */
	unsigned int older; /* those that have to be written only if they have been idle for so many rounds more */
};
struct quota_choice quota_choice(struct ramfile *file);
/* Another number than before: what was refused of the file may have room now. */
uint64_t quota_news(struct ramfile *file);

/* For who tells. UINT64_MAX: no limit. */
struct quota_figures {
	uint64_t stored_bytes, stored_left_bytes;
	uint64_t written_bytes, written_left_bytes; /* in 24 hours; written_bytes is 0 without a limit */
	uint64_t next_free_ns;                      /* so long until less counts as written; UINT64_MAX: none does */
};
/* Of the tenant, and of all above it that which has least left. The caller keeps the tenant there. */
void quota_figures(struct engine *engine, struct tenant *tenant, struct quota_figures *ret);

/* What is to be kept over an end of the daemon: the days, and how much of the running hour is over. False: it has no
 * limit of that kind, or nothing has changed since it was asked last (but if all is true). */
bool quota_wear(struct engine *engine, struct tenant *tenant, bool all, struct wear *ret, uint64_t *ret_into_hour_ns);
/* It could not be kept. */
void quota_wear_unsaved(struct engine *engine, struct tenant *tenant);
/* What was kept. */
void quota_set_wear(struct engine *engine, struct tenant *tenant, const struct wear *wear, uint64_t into_hour_ns);
