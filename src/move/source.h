/* move/source.h - the blocks of one RAM file, read where they are (tierfs/access.h): states, identities, values as
 * stored.
 *
 * Nothing is promoted, and no generation changes. Belongs to one thread. 0 or -errno; an error names the block.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <tierfs/access.h>

#include "stream/stream.h"

struct codec;
struct mac;

/* Per block, as it was when it was looked at. */
struct source_table {
	uint64_t count;
	struct tierfs_ident
		*ident; /* of the source's pool; of resident blocks: STREAM_UNKNOWN until it was asked for */
	uint8_t *state; /* enum tierfs_access_state */
	uint8_t *generation, *tier;
};

/* The daemon works on as many requests at a time. */
#define SOURCE_HANDLES 3

struct source {
	int fd; /* O_DIRECT */
	struct tierfs_access *handle[SOURCE_HANDLES];
	unsigned int handles; /* that are open */
	uint32_t pace;        /* flags of all calls: source_set_pace() */
	uint64_t size_bytes, blocks;
	uint32_t block_bytes;
	struct codec *codec; /* made when it is needed, and so is the next: a handle for source_identify() */
	struct tierfs_access *identifier;
	uint8_t *raw, *value;
	uint64_t error_block; /* the block that the last error is about; UINT64_MAX: none */
};

/* writing: with the right to change the file. *ret_what says what could not be done. */
int source_open(const char *path, bool writing, struct source *ret, const char **ret_what);
void source_close(struct source *source); /* takes a zeroed one */
/* What an error of a call on blocks is, for a person. */
const char *source_text(int err);
/* 0, TIERFS_ACCESS_POLITE or TIERFS_ACCESS_URGENT: how much of the processors the daemon's threads claim for the next
 * calls, and this process, if it may take it back later. */
void source_set_pace(struct source *source, uint32_t pace);
/* Opens further handles; as many as there are then is fine: one is always there. */
void source_open_handles(struct source *source);
/* "block 17: Input/output error", or the error alone. Writes to and returns buf. */
#define SOURCE_WHY_LEN 128
char *source_why(const struct source *source, int err, char buf[static SOURCE_WHY_LEN]);

int source_table_init(struct source_table *table, uint64_t count); /* -ENOMEM */
void source_table_fini(struct source_table *table);                /* takes a zeroed one */
/* States, ages and the identities that are known without work. */
int source_look(struct source *source, struct source_table *table);
/* Identities of blocks that are resident, from their content: table->ident of each that is named. */
int source_identify(struct source *source, struct source_table *table, const uint64_t *block, size_t count);
/* The identities of all blocks as a list has them, made with its key: list[block]. Content is read, cold or not. asked:
 * of blocks alone that it has an identity of; NULL: of all. table->ident is of the same content. What cannot be read is
 * STREAM_UNKNOWN. */
int source_list(struct source *source, struct mac *mac, const struct tierfs_ident *asked, struct source_table *table,
		struct tierfs_ident *list);

/* The identity of a list as a whole. */
int source_list_ident(const uint8_t key[static STREAM_KEY_BYTES], const struct tierfs_ident *list, uint64_t count,
		      struct tierfs_ident *ret);

struct source_value {
	uint64_t block;
	bool hole, resident;
	bool same; /* the content is the one that is known: there is no payload */
	uint8_t generation, tier;
	struct tierfs_ident ident;
	const void *payload; /* as stored; NULL: a hole, or resident and not asked for */
	uint32_t length_bytes;
};
typedef int source_value_fn(void *arg, const struct source_value *value);

struct source_wish {
	bool resident;                    /* values of blocks in DRAM, too */
	bool quick;                       /* which are encoded for speed */
	const struct tierfs_ident *known; /* of each block of the file: no value of a block that has it */
};

/* The values of the blocks that are named, in that order. fn non-zero ends it. */
int source_values(struct source *source, const struct source_wish *wish, const uint64_t *block, size_t count,
		  source_value_fn *fn, void *arg);
/* The content of a value as stored: block_bytes in source->raw. -EBADMSG. */
int source_decode(struct source *source, uint64_t block, const void *payload, uint32_t length_bytes);
