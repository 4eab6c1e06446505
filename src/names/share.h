/* names/share.h - a share: what of the mount's DRAM a RAM file is to have, or all RAM files below a directory (a
 * tenant) together.
 *
 * Pure functions. A file lives within its own share and that of every directory above it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/size.h"

enum share_id {
#define SHARE(id, ...) SHARE_##id,
#include "names/share.def"
#undef SHARE
	SHARE_COUNT
};

enum share_kind {
	SHARE_KIND_BYTES, /* as size_parse() */
	SHARE_KIND_COUNT, /* a number; K, M and G are powers of 1000 */
	SHARE_KIND_STORE, /* one of the pool's stores, as cold/stores.h counts them. As text it is a name, which who
			   * has the pool knows: share_parse() refuses it */
};

struct share_spec {
	const char *name;
	enum share_kind kind;
	uint64_t min, max;
	uint64_t fallback; /* what holds where nothing is said; 0: no bound, or nothing is promised */
	const char *help;
	uint8_t number; /* in records */
};

/* Nothing is said. Written "none". */
#define SHARE_NONE UINT64_MAX

struct share {
	uint64_t value[SHARE_COUNT];
	bool by_default[SHARE_COUNT]; /* the value came with the file, from an option of the mount */
};

#define SHARE_TEXT_LEN SIZE_EXACT_LEN

const struct share_spec *share_spec(enum share_id id);
/* -ENOENT */
int share_find(const char *name, enum share_id *ret);
/* By the number in records. -ENOENT. */
int share_of_number(uint8_t number, enum share_id *ret);
/* Within what it can be; SHARE_NONE is not. */
bool share_may_be(enum share_id id, uint64_t value);
/* -EINVAL: not a value; -ERANGE: one that it cannot have. */
int share_parse(enum share_id id, const char *text, uint64_t *ret);
/* What share_parse() makes the same value of. Returns buf. */
char *share_format(enum share_id id, uint64_t value, char buf[static SHARE_TEXT_LEN]);

/* What can be given to each new file: not a promise, of which all files together have no more than there is. */
bool share_may_be_default(enum share_id id);
/* Says nothing. */
struct share share_nothing(void);
bool share_is_nothing(const struct share *share);
/* As somebody sets it: no default. */
static inline void share_say(struct share *share, enum share_id id, uint64_t value)
{
	share->value[id] = value;
	share->by_default[id] = false;
}
/* True if what it says can hold at once: dram.min is not above dram.max. */
bool share_makes_sense(const struct share *share);
