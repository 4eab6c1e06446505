/* engine/tenant.h - whose DRAM it is: tenants, which have a share of the budget, and what of it is charged to each.
 *
 * A tenant is a directory or a RAM file for which a share was set (names/shares.h). Tenants make a tree. A RAM file is
 * charged to one of them, the nearest, or to none; what is charged to a tenant is charged to all above it, too.
 *
 *   mount --- /acme (max 8G) --- /acme/vm0 (min 2G)      vm0's blocks count in both, vm1's in /acme
 *         |                  `-- vm1
 *         `-- vm2                                        in none: the budget alone counts
 *
 * max    is never exceeded, but for what is found in DRAM at a start, write back of plain mappings, and a max that was
 *        lowered. Whoever is charged to it waits; no other does. Part of it is kept free for faults by demoting its own
 *        blocks.
 * min    is not taken to make room for others: what is demoted for their sake is somebody's who has more. But for a
 *        budget that was lowered below what is promised, and where all who have more gave nothing for seconds; and for
 *        what a plain mapping has in the kernel's page cache.
 * limits of what it reads from the store and writes to it are in flow.h. While it has to wait with what it would give
 *        up, it gets no more if DRAM is short.
 * weight divides what is above the minimums when DRAM is short (policy/payer.h).
 * disk   and day are what may lie in the store, and be written there in 24 hours (quota.h). Who has no more of them
 *        keeps in DRAM what is not stored, and gets no more of it if that is short, or if others would not get what was
 *        promised to them (claim.h).
 *
 * Who gives up DRAM because he has most above his share pays (tenant_pays()). He leaves the last part of what is kept
 * free for faults to those who have less than theirs (room_leaves_until()): they shall not wait for what he gives up.
 *
 * Bytes. Thread-safety: all functions, from any thread; none blocks. The tree is changed by one caller at a time, who
 * holds the lock of names/.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/lock.h"
#include "engine/claim.h"
#include "engine/flow.h"
#include "engine/rate.h"
#include "engine/wear.h"
#include "mem/budget.h"

struct engine;
struct ramfile;

#define TENANT_WEIGHT 100 /* of who has said none */

struct tenant_share {
	uint64_t min_bytes;
	uint64_t max_bytes;          /* UINT64_MAX: none */
	uint32_t weight;             /* 0: none was said, which is TENANT_WEIGHT */
	uint64_t per_s[FLOW_LIMITS]; /* values and bytes from and to the store (flow.h); 0: no limit */
	uint64_t disk_bytes;         /* in the store; 0: no limit */
	uint64_t day_bytes;          /* written to the store in 24 hours; 0: no limit, and nothing is counted */
};

/* What it has of the store. */
struct tenant_disk {
	uint64_t bytes;               /* stored by all files that are charged to it, and what is being put */
	struct wear wear;             /* written by them, if day_bytes is a limit */
	uint64_t refused_bytes;       /* what was, when it was said that it is full */
	bool told_full, told_used_up; /* it was said that it has no more of the one, or of the other */
	bool told_needed;             /* ... that its DRAM needs what is left */
	uint64_t news;                /* times that less became stored, or that a share was said anew */
	bool unsaved;                 /* wear has changed since quota_wear() */
	bool waits;                   /* something of it got no room in DRAM, for nothing of it can leave */
};

/* Since when nobody gave who has more than was promised, and when that was last asked; 0: somebody did. */
struct tenant_stuck {
	uint64_t since_ns, asked_ns;
};

struct tenant {
	uint64_t ino;      /* immutable */
	struct tenant *up; /* under the lock of tenants, as all that follows. NULL: the mount */
	struct tenant_share share;
	unsigned int depth;
	uint64_t promised_bytes; /* its min, or what is promised within it if that is more */
	uint64_t below_bytes;    /* the latter */
	unsigned int weighing;   /* so many below it have a min, or a weight */
	struct claim claim;
	uint64_t look;          /* claim_holder() */
	bool near;              /* the demoter was told that it has come near to its max */
	uint64_t rest_until_ns; /* nothing of it could be demoted */
	struct tenant_stuck stuck;
	uint64_t used_bytes;
	struct rate rate[FLOW_LIMITS];
	struct tenant_disk disk;
	struct tenant *before;  /* NULL, or whose part of the store and of the day it takes over when it is put */
	uint64_t held_until_ns; /* tenant_hold() */
	uint64_t passed;        /* tenant_passed() */
	uint64_t pays_until_ns; /* tenant_pays() */
	TAILQ_ENTRY(tenant) link;
	LIST_ENTRY(tenant) same; /* of those with such a number */
};

#define TENANT_BUCKETS 4096U

/* The engine's part. */
struct tenants {
	struct lock lock;
	TAILQ_HEAD(, tenant) list;
	LIST_HEAD(, tenant) bucket[TENANT_BUCKETS]; /* by number */
	uint64_t claimed_bytes;                     /* by those right below the mount */
	uint64_t rebuilt; /* times that the tree was made anew, which goes through all files */
	/* So many have a min or a weight, one of per_s, disk_bytes or day_bytes. */
	unsigned int weighing, limiting, quoting;
	_Atomic bool limits;            /* some tenant has one of per_s */
	_Atomic bool quotas;            /* some tenant has disk_bytes or day_bytes */
	_Atomic uint64_t pays_until_ns; /* of whoever was told last; 0: nobody pays */
	uint64_t (*now_ns)(void);       /* the clock of struct wear: clock_boot_ns(), but in tests */
	struct tenant_stuck stuck;
};

/* A file's part, under the lock of tenants. */
struct charge {
	struct tenant *tenant; /* NULL: none */
	uint64_t bytes;
	uint64_t stored_bytes;  /* changes under the file's lock as well (quota.h) */
	uint64_t putting_bytes; /* by which that may grow, by puts that are under way */
	uint64_t passed;        /* tenant_passed(), of a file that is charged to none */
	uint64_t pays_until_ns; /* tenant_pays(), of a file that pays for itself */
};

void tenants_init(struct tenants *tenants);
void tenants_fini(struct tenants *tenants);

/* --- the tree --- */

/* Begin forgets the tree, and from there to end nobody is charged: all tenants are put, those above first or last, then
 * all files that are charged to one are placed. */
void tenants_begin(struct engine *engine);
void tenants_put(struct engine *engine, struct tenant *tenant, struct tenant *up, const struct tenant_share *share);
void tenants_place(struct ramfile *file, struct tenant *tenant);
/* Of a file that is not loaded, so much is stored. NULL: of none. */
void tenants_place_stored(struct tenant *tenant, uint64_t stored_bytes);
void tenants_end(struct engine *engine);
/* While the tree stays: one comes into it, or out of it, or elsewhere, that has no other below it. To come out nothing
 * may be charged to it. What it costs does not grow with how many there are. */
void tenant_add(struct engine *engine, struct tenant *tenant, struct tenant *up, const struct tenant_share *share);
void tenant_remove(struct engine *engine, struct tenant *tenant);
void tenant_move(struct engine *engine, struct tenant *tenant, struct tenant *up, const struct tenant_share *share);
/* Of a file that is not loaded: from one tenant to another. NULL: none. */
void tenant_move_stored(struct engine *engine, struct tenant *from, struct tenant *to, uint64_t stored_bytes);
/* One file of a tree that stays. NULL: out of it, before whoever places files loses sight of it. True: it was charged
 * elsewhere. */
bool tenant_place(struct ramfile *file, struct tenant *tenant);

/* --- charging --- */

/* False, and nothing is charged: a max above it does not allow it. need: MUST may use what is kept free. *ret_near: one
 * of them has come near to its max, and nobody was told yet. */
bool tenant_charge(struct ramfile *file, uint64_t bytes, enum budget_need need, bool *ret_near);
/* Whatever a max says. True: as *ret_near. */
bool tenant_charge_anyway(struct ramfile *file, uint64_t bytes);
void tenant_discharge(struct ramfile *file, uint64_t bytes);
/* The demoter passed over the file, for what its tenants may write is used up until then: until then they grow only
 * where DRAM is not short. */
void tenant_hold(struct ramfile *file, uint64_t until_ns);
/* What tenant_charge() would answer to a fault. */
bool tenant_allows(struct ramfile *file, uint64_t bytes);
/* The file's tenant of that number, or the file itself (0), pays for room in the budget, so long. */
void tenant_pays(struct ramfile *file, uint64_t ino, uint64_t until_ns);
/* The file, or a tenant that it is charged to, pays until then; 0: it does not. */
uint64_t tenant_pays_until(struct ramfile *file);
/* Somebody pays, and it is not this file, which is charged to somebody who has little more than was promised to him. */
bool tenant_is_spared(struct ramfile *file);
/* What of a limit is kept free for faults. */
uint64_t tenant_kept_of(uint64_t limit_bytes);
/* Bytes that all mins together may promise: the budget without what is kept free for faults. */
uint64_t tenant_promisable(struct engine *engine);

/* --- for who makes room; a tenant is named by its number, and 0 is the mount --- */

/* The next tenant behind *ino that is near to its max and does not rest: *ino, and what its files have to give up.
 * False: no more. *due_ns becomes less if one rests until before it. */
bool tenant_next_near(struct engine *engine, uint64_t now_ns, uint64_t *ino, uint64_t *ret_missing, uint64_t *due_ns);
void tenant_rest(struct engine *engine, uint64_t ino, uint64_t until_ns);
/* Below it somebody gave, or nobody did. Returns for how long nobody did, as far as it was asked all the time. */
uint64_t tenant_gave(struct engine *engine, uint64_t ino, bool gave, uint64_t now_ns);
/* There is no room in it for a block more. */
bool tenant_is_full(struct engine *engine, uint64_t ino);
/* What tenants that the file is charged to have to give up, because they are near to their max; 0: they are not. */
uint64_t tenant_missing(struct ramfile *file);
/* The file is charged to it, or to one below it. */
bool tenant_covers(struct engine *engine, uint64_t ino, struct ramfile *file);
/* The tenants that the file is charged to, upwards: *ino is the one behind that number, from 0 on. False: no more. */
bool tenant_above(struct ramfile *file, uint64_t *ino, uint64_t *ret_max_bytes);
/* It matters who below it pays: a min or a weight was set there. */
bool tenant_weighs(struct engine *engine, uint64_t ino);

/* Who pays for a file below a tenant. */
struct tenant_payer {
	uint64_t ino;
	bool is_file; /* that is charged to the tenant itself; else a tenant just below it */
	uint64_t used_bytes;
	uint64_t min_bytes; /* what is promised */
	uint32_t weight;
	uint64_t file_bytes; /* what the file has of used_bytes */
};
/* False: the file is not charged to that tenant. */
bool tenant_payer_of(struct engine *engine, uint64_t above, struct ramfile *file, struct tenant_payer *ret);
/* The nearest tenant that the file is charged to, and its weight. 0: none. */
uint64_t tenant_nearest(struct ramfile *file, uint32_t *ret_weight);
/* The tenant above the file, or of it, whose limit of what is written is above all others. 0: none has one. */
uint64_t tenant_write_limit(struct ramfile *file);
/* Who waits for room gets it by turns: what the nearest tenant of the file has had so, or the file if there is none, by
 * weight. Who has had least is next. */
uint64_t tenant_passed(struct ramfile *file);
/* It had a block more, and begins where the others are. */
void tenant_pass(struct ramfile *file, uint64_t others);
/* What is charged to it. -ENOENT: it is none. */
int tenant_used(struct engine *engine, uint64_t ino, uint64_t *ret_bytes);
